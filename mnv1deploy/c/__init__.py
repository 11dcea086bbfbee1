"""The int8 network as C: the plan of its buffers and the generator of its files. ``templates`` are the kernels."""

from pathlib import Path

TEMPLATES = Path(__file__).parent / "templates"
"""The kernels and what is around them; ``session.c`` is what a Python session adds when it compiles an export."""
