"""Pictures put into folders of their classes: whole, and never over a file that is there."""

from __future__ import annotations

import errno
import filecmp
import itertools
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, get_args

from mnv1deploy.classifier import Prediction
from mnv1deploy.errors import MnvError

How = Literal["copy", "link", "move"]

UNSURE = "unsure"
"""The folder of pictures whose likeliest class is not likely enough."""

_NO_NAME = re.compile(r'[/\\:*?"<>|\x00-\x1f\x7f]')
"""What some system has no file names with, and what would lead out of the folder."""

_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})

_COARSEST_TIME = 2
"""Seconds, of FAT."""


class Sorter:
    """Puts pictures into ``folder/<class>/`` under their own names.

    A name that is taken gets a number: ``cat.png``, ``cat-2.png``. A picture is there whole or not at all.

    Args:
        folder: made with those in it as they are needed.
        classes: of the network. A letter that no file name may have becomes ``_``.
        how: "copy"; "link", symbolic and to the absolute path; "move".
        least: the probability from which on a class is believed; other pictures go into UNSURE.

    Raises:
        MnvError: if two classes would have one folder, or ``folder`` is none.
    """

    def __init__(self, folder: str | Path, classes: Iterable[str], how: How = "copy", least: float = 0.0) -> None:
        if how not in get_args(How):
            raise MnvError(f"Pictures cannot be sorted by {how}.", f"There are {', '.join(get_args(How))}.")
        self._folder, self._how, self._least = Path(folder), how, least
        if self._folder.exists() and not self._folder.is_dir():
            raise MnvError(f"Cannot sort into {folder}: it is a file.", "Choose another folder.")
        self._names = {label: _folder_name(label) for label in classes}
        taken = [*self._names.values(), *([UNSURE] if least > 0 else [])]
        if clash := sorted({name for name in taken if taken.count(name) > 1}):
            raise MnvError(f"Pictures cannot be sorted: several of the folders would be called {', '.join(clash)}.")

    def place_of(self, answer: Prediction) -> Path:
        """The folder for a picture."""
        return self._folder / (UNSURE if answer.probability < self._least else self._names[answer.label])

    def unsorted(self, paths: Iterable[str]) -> list[str]:
        """Paths without those in this sorter's own folders."""
        own = {os.path.realpath(self._folder / name) for name in (*self._names.values(), UNSURE)}
        known: dict[str, bool] = {}

        def inside(path: str) -> bool:
            parent = os.path.dirname(os.path.abspath(path))
            if parent not in known:
                real = os.path.realpath(parent)
                known[parent] = real in own or any(str(above) in own for above in Path(real).parents)
            return known[parent]

        return [path for path in paths if not inside(path)]

    def put(self, path: str, answer: Prediction, *, again: bool = False) -> Path:
        """Puts a picture where it belongs; returns its new path.

        Args:
            path: of the picture.
            answer: what it is taken for.
            again: whether a run that was ended may have put it there already; it is then left as it is.

        Raises:
            MnvError: if it cannot be written or read any more.
        """
        folder = self.place_of(answer)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for target in _names(folder / os.path.basename(path)):
                if again and self._is_done(path, target):
                    return target
                if not os.path.lexists(target) and self._put(path, target):
                    return target
        except OSError as error:
            raise MnvError(
                f"{path} cannot be put into {folder}: {error.strerror}.", "The answers so far are kept."
            ) from error
        raise AssertionError("names do not end")

    def _is_done(self, path: str, target: Path) -> bool:
        if self._how == "link":
            return target.is_symlink() and os.readlink(target) == os.path.abspath(path)
        if not target.is_file() or not _same(path, target):
            return False
        if self._how == "move":
            os.unlink(path)  # all that was left to do
        return True

    def _put(self, path: str, target: Path) -> bool:
        """False if somebody else took the name meanwhile."""
        try:
            if self._how == "link":
                os.symlink(os.path.abspath(path), target)
                return True
            if self._how == "move" and not os.path.islink(path):  # a relative link would lead elsewhere from there
                with suppress(OSError):
                    return _moved(path, target)
            with _copied(path, target.parent) as temporary:
                _take_name(temporary, target)
        except FileExistsError:
            return False
        if self._how == "move":
            os.unlink(path)
        return True


def _moved(path: str, target: Path) -> bool:
    """Within one disk: a second name, then without the first. Raises OSError where that cannot be."""
    try:
        os.link(path, target)
    except FileExistsError:
        return False
    os.unlink(path)
    return True


@contextmanager
def _copied(path: str, folder: Path) -> Iterator[Path]:
    """A whole copy beside where it goes, hidden, gone again when the context is left."""
    handle, name = tempfile.mkstemp(prefix=".sorting-", dir=folder)
    os.close(handle)
    try:
        yield Path(shutil.copy2(path, name))
    finally:
        Path(name).unlink(missing_ok=True)


def _take_name(temporary: Path, target: Path) -> None:
    """Raises FileExistsError where the name is taken; a hard link is what tells without a gap in time."""
    try:
        os.link(temporary, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        os.rename(temporary, target)


def _same(path: str, target: Path) -> bool:
    """Whether one is the other's copy, and not another picture of the same bytes: copies keep the time."""
    apart = abs(os.stat(path).st_mtime - target.stat().st_mtime)
    return apart <= _COARSEST_TIME and filecmp.cmp(path, target, shallow=False)


def _names(target: Path) -> Iterator[Path]:
    yield target
    for number in itertools.count(2):
        yield target.with_name(f"{target.stem}-{number}{target.suffix}")


def _folder_name(label: str) -> str:
    name = _NO_NAME.sub("_", label).strip()
    return name if name.strip(".") else "_" * max(len(name), 1)
