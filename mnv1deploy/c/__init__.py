"""The int8 network as C: the plan of its buffers, its instruction sets, and the generator of its files."""

from pathlib import Path

TEMPLATES = Path(__file__).parent / "templates"
"""What is around the kernels; ``session.c`` is what a Python session adds when it compiles an export."""

KERNELS = Path(__file__).parent / "kernels"
"""A file per instruction set, see :mod:`mnv1deploy.c.backends`; ``shared.c`` is what all of them use."""

CAMERA = Path(__file__).parent / "camera"
"""What makes the network's picture of a camera's frame: resizing, conversions, and a file per layout of pixels."""

PACKAGES = Path(__file__).parent / "packages"
"""What build systems want around an exported network: a template each."""
