"""Class names: from a file, a line or a public set of classes."""

from __future__ import annotations

import csv
import json
from importlib.resources import files
from pathlib import Path

from mnv1deploy.errors import MnvError


def imagenet(*, background: bool = False) -> tuple[str, ...]:
    """The 1,000 classes of ImageNet's challenge (ILSVRC 2012) in their usual order, TensorFlow's background first."""
    return (("background",) if background else ()) + _lines("imagenet.txt")


def cifar100() -> tuple[str, ...]:
    """The 100 fine classes of CIFAR-100, in their order."""
    return _lines("cifar100.txt")


def _lines(name: str) -> tuple[str, ...]:
    return tuple((files("mnv1deploy") / "data" / name).read_text("utf-8").splitlines())


def parse(text: str) -> tuple[str, ...]:
    """Class names from what ``--classes`` was given.

    That is a file (a name a line, a JSON list, or a JSON object ``{name: index}`` or ``{index: name}``), or names with
    commas between them, in double quotes where they have commas themselves.

    Raises:
        MnvError: for a file that cannot be read or has no names, an empty name, or the same name twice.
    """
    path = Path(text.removeprefix("@"))
    try:
        is_file = path.is_file()
    except (OSError, ValueError):  # names that are too long for a file's
        is_file = False
    if is_file:
        names = _from_file(path)
    elif text.startswith("@") or path.suffix in (".txt", ".json", ".names", ".csv"):
        raise MnvError(f"There is no file {path}.", "The class names are taken from a file, or given with commas.")
    else:
        names = [name.strip() for name in next(csv.reader([text], skipinitialspace=True), [])]
        if names and not names[-1]:
            names.pop()  # a comma at the end
    if not names or not all(names):
        raise MnvError(f"{text!r} has an empty class name.", "Give a name for every class.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise MnvError(f"Two classes have the same name: {', '.join(twice[:3])}.", "Every class needs one of its own.")
    return tuple(names)


def _from_file(path: Path) -> list[str]:
    try:
        text = path.read_text("utf-8-sig")
        if path.suffix == ".json" or text.lstrip()[:1] in ("{", "["):
            return _from_json(path, json.loads(text))
    except (OSError, ValueError, RecursionError) as error:
        raise MnvError(f"{path} cannot be read as class names: {MnvError.reason(error)}.") from error
    names = [line.strip() for line in text.splitlines()]
    return [name for name in names if name]


def _from_json(path: Path, content: object) -> list[str]:
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        return list(content)
    if isinstance(content, dict):
        entries = list(content.items())
        if all(isinstance(index, int) for _, index in entries):
            rows = sorted((index, name) for name, index in entries)
        elif all(str(index).isdigit() for index, _ in entries):
            # Keras's imagenet_class_index.json has [identifier, name]
            rows = sorted((int(index), name[-1] if isinstance(name, list) else str(name)) for index, name in entries)
        else:
            rows = []
        if rows and [index for index, _ in rows] == list(range(len(rows))):
            return [name for _, name in rows]
    raise MnvError(
        f"{path} is neither a list of class names nor an object of names and indices from 0 up.",
        'Such as ["cat", "dog"] or {"cat": 0, "dog": 1}.',
    )
