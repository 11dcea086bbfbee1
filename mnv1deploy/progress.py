"""How long work tells whoever waits for it what it is doing."""

from __future__ import annotations

from collections.abc import Callable

OnProgress = Callable[[str, int, int], None]
"""Called with what is being done ("calibrating"), how many of it are done, and of how many; 0 where nothing is counted.

Calls with one name follow each other; the next name means that the one before is done.
"""


def untold(what: str, done: int = 0, total: int = 0) -> None:
    """An OnProgress for whoever does not want to know."""
