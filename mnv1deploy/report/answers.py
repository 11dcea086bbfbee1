"""What ``predict`` says, written as it is found out, so that no number of pictures is too many."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mnv1deploy.errors import MnvError
from mnv1deploy.report.console import json_list, show_line, visible

if TYPE_CHECKING:
    from mnv1deploy.classifier import Prediction

Row = dict[str, Any]
"""``path``, ``label``, ``probability`` and ``top``; of a picture that cannot be read ``path`` and ``error``."""

Show = Callable[[str, "Prediction | MnvError"], None]
"""Called with a picture's path and what it is taken for, or why it cannot be read."""

WIDEST_LABEL = 32
"""Columns that labels are filled up to; a longer one shifts what stands behind it."""


def lines(paths: Sequence[str], labels: Sequence[str]) -> Show:
    """A line per picture: its path, the likeliest class, its probability, the runners-up.

    Args:
        paths: of all pictures, for the width of their column.
        labels: of all classes, likewise.
    """
    path_width = max(map(_width, paths))
    label_width = min(max(map(_width, labels)), WIDEST_LABEL)

    def show(path: str, answer: Prediction | MnvError) -> None:
        if isinstance(answer, MnvError):
            return
        others = ", ".join(f"{label} {probability:.1%}" for label, probability in answer.top[1:])
        line = f"{_filled(path, path_width)}  {_filled(answer.label, label_width)}  {answer.probability:6.1%}"
        show_line(line + (f"  ({others})" if others else ""))

    return show


@contextmanager
def json_document() -> Iterator[Show]:
    """One JSON list, of an object per picture that can be read."""
    with json_list() as add:
        yield lambda path, answer: None if isinstance(answer, MnvError) else add(as_dict(path, answer))


def as_dict(path: str, answer: Prediction | MnvError) -> Row:
    """A picture's row."""
    if isinstance(answer, MnvError):
        return {"path": path, "error": str(answer)}
    return {
        "path": path,
        "label": answer.label,
        "probability": answer.probability,
        "top": [{"label": label, "probability": probability} for label, probability in answer.top],
    }


def _filled(text: str, width: int) -> str:
    return visible(text) + " " * (width - _width(text))


def _width(text: str) -> int:
    """Columns on a terminal; Chinese letters take two."""
    text = visible(text)
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)
