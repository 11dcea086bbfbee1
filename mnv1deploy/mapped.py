"""Pictures too many for memory: an array in a file, of which the system keeps in memory what is being read."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnv1deploy import images
from mnv1deploy.errors import MnvError
from mnv1deploy.files import atomic, cache_folder
from mnv1deploy.spec import Pixels

MOST_IN_MEMORY = 2**30
"""Bytes of pictures that are held in memory: 7,133 of 224x224x3, or 349,525 of 32x32x3."""


def room(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """An array of uint8 to be filled: in memory, or, where it is too large, in a file that goes when the array does."""
    if math.prod(shape) <= MOST_IN_MEMORY:
        return np.empty(shape, np.uint8)
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _check_space(folder, shape)
        with tempfile.TemporaryFile(dir=folder) as file:
            return np.memmap(file, np.uint8, "w+", shape=shape)
    except OSError as error:
        raise MnvError(f"{math.prod(shape):,} bytes of pictures do not fit into {folder}: {error.strerror}.") from error


def taken(pictures: NDArray[np.uint8], indices: NDArray[np.int64]) -> NDArray[np.uint8]:
    """``pictures[indices]``, in a file where that is too much for memory."""
    if not isinstance(pictures, np.memmap):
        return pictures[indices]
    found = room((len(indices), *pictures.shape[1:]))
    np.take(pictures, indices, 0, out=found, mode="clip")  # any other mode makes a copy in memory first
    return found


def read_all(
    paths: Sequence[str], pixels: Pixels, on_unreadable: Callable[[int, MnvError], object] | None = None
) -> NDArray[np.uint8]:
    """As :func:`mnv1deploy.images.read_all`, but that what is too much for memory is decoded once.

    It is kept in the user's cache folder, under a name of the files' paths, sizes and times and of ``pixels``; whoever
    removes it has the pictures decoded again.
    """
    shape = (len(paths), *pixels.shape)
    if math.prod(shape) <= MOST_IN_MEMORY:
        return images.read_all(paths, pixels, on_unreadable=on_unreadable)
    facts = [pixels.shape, str(pixels.preprocessing), *(_facts(path) for path in paths)]
    name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    file = cache_folder() / "pictures" / f"{name}.npy"
    left_out = file.with_suffix(".json")
    if not (file.is_file() and left_out.is_file()):
        unreadable: dict[int, MnvError] = {}
        with atomic(file) as temporary:
            _check_space(temporary.parent, shape)
            kept = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
            told = unreadable.__setitem__ if on_unreadable else None
            images.read_all(paths, pixels, on_unreadable=told, room=lambda shape: kept)
            kept.flush()
        with atomic(left_out) as temporary:
            rows = {place: [error.message, error.hint] for place, error in unreadable.items()}
            temporary.write_text(json.dumps(rows), "utf-8")
    errors = {
        int(place): MnvError(message, hint)
        for place, (message, hint) in json.loads(left_out.read_text("utf-8")).items()
    }
    if errors and on_unreadable is None:
        raise images.UnreadableError(list(errors.values()))
    for place, error in errors.items():
        if on_unreadable:
            on_unreadable(place, error)
    mapped: NDArray[np.uint8] = np.load(file, mmap_mode="r+")
    return mapped[: len(paths) - len(errors)]


def _facts(path: str) -> tuple[str, int, int]:
    try:
        found = os.stat(path)
    except OSError:  # a link to nowhere, which reading it will say
        return os.path.abspath(path), 0, 0
    return os.path.abspath(path), found.st_size, found.st_mtime_ns


def _check_space(folder: Path, shape: tuple[int, ...]) -> None:
    """A mapped file that the disk has no room for ends the process, and no exception is raised."""
    import shutil

    free, wanted = shutil.disk_usage(folder).free, math.prod(shape)
    if wanted > free:
        raise MnvError(
            f"{shape[0]:,} decoded pictures take {wanted:,} bytes, and {folder} has {free:,} left.",
            "XDG_CACHE_HOME names another place for them.",
        )
