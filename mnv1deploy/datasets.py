"""Labelled pictures as uint8: CIFAR-10, CIFAR-100, a folder of class folders, and what is bundled."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnv1deploy import cifar, decoding, folders, images, mapped
from mnv1deploy.cifar import CIFAR10, Cifar, Split
from mnv1deploy.errors import MnvError
from mnv1deploy.files import cache_folder
from mnv1deploy.spec import CIFAR10_CLASSES, Pixels, cifar10_order

DATA_VARIABLE = "MNV1_DATA"
CIFAR10_FOLDER = CIFAR10.folder


@dataclass(frozen=True)
class Dataset:
    """Labelled pictures.

    Attributes:
        name: what to call it in a report: "CIFAR-10 test split", never just "test".
        images: uint8 ``[N, H, W, C]``; mapped from a file where they are many (:mod:`mnv1deploy.mapped`).
        labels: int64 ``[N]``, indices into ``classes``.
        classes: class names.
    """

    name: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: NDArray[np.int64], name: str) -> Dataset:
        """The pictures at ``indices``, under another name."""
        return Dataset(name, mapped.taken(self.images, indices), self.labels[indices], self.classes)

    def labelled_for(self, classes: tuple[str, ...]) -> Dataset:
        """For a network of these classes: CIFAR-10's in its order and spelling, where it has them; else unchanged."""
        order = cifar10_order(classes)
        if order is None or self.classes != CIFAR10_CLASSES:
            return self
        return Dataset(self.name, self.images, np.argsort(order)[self.labels], classes)

    def split(self, fraction: float, seed: int, names: tuple[str, str]) -> tuple[Dataset, Dataset]:
        """Two parts by seed, the second with ``fraction`` of every class (rounded; at least one where it can be)."""
        first, second = folders.split(self.labels, len(self.classes), fraction, seed)
        return self.subset(first, names[0]), self.subset(second, names[1])


# What --data names -------------------------------------------------------------------------------------------------


def load(
    data: str | Path | None,
    pixels: Pixels,
    *,
    seed: int = 0,
    skip_unreadable: bool = False,
    download: str | Path | None = None,
) -> tuple[Dataset, Dataset]:
    """(train, test) of a data set, every picture made ``pixels``. No file is in both.

    Args:
        data: a folder in one of these forms:

            - ``train/<class>/*`` and ``test/<class>/*``, under any of the names that parts usually have (``Train``,
              ``training_set``, ``val``, ``valid``, ...); without a test part the validation part is it;
            - ``<class>/*``, of which a fifth of every class, drawn by ``seed``, becomes the test part;
            - CIFAR-10 or CIFAR-100 as their archives ("Python version") hold them, or the folder above.

            None is CIFAR-10 from ``$MNV1_DATA`` or the user's cache folder, into which it is fetched if need be.
        pixels: what the pictures become.
        seed: of the fifth.
        skip_unreadable: leave out pictures that cannot be read; the data set's name says how many.
        download: in place of ``data`` a folder into which CIFAR-10 is fetched if it is not there.

    Raises:
        MnvError: for a folder that is no data set, saying what is there; for pictures that cannot be read, naming all.
    """
    found = _parts(data, seed, download)
    parts: list[Dataset] = []
    errors: list[MnvError] = []
    for name in ("train", "test"):
        try:
            parts.append(found[name](pixels, skip_unreadable))
        except images.UnreadableError as error:
            errors += error.errors
    if errors:
        raise images.UnreadableError(errors)
    return parts[0], parts[1]


def load_train(data: str | Path | None, pixels: Pixels, *, seed: int = 0, skip_unreadable: bool = False) -> Dataset:
    """The training part alone of what :func:`load` finds; no picture of the test part is read."""
    return _parts(data, seed)["train"](pixels, skip_unreadable)


def load_test(
    data: str | Path | None,
    pixels: Pixels,
    *,
    seed: int = 0,
    skip_unreadable: bool = False,
    download: str | Path | None = None,
) -> Dataset:
    """The test part alone of what :func:`load` finds; no picture of the training part is read."""
    return _parts(data, seed, download)["test"](pixels, skip_unreadable)


def load_unseen(data: str | Path | None, pixels: Pixels) -> Dataset:
    """Labelled pictures to choose settings by, none of them of a test part.

    The validation part of a folder that has a test part besides; else a twentieth of the training part, the one that
    training holds out by default; without ``data`` and CIFAR-10 at hand the bundled sample.
    """
    if data is None and not has_cifar10():
        return resized(sample(), pixels)
    found = _parts(data, 0)
    if "validation" in found:
        return found["validation"](pixels, False)
    train = found["train"](pixels, False)
    return train.split(0.05, 0, ("", f"held-out part of {train.name}"))[1]


_Reader = Callable[[Pixels, bool], Dataset]
"""Reads a part that was found; the flag is whether to leave out what cannot be read."""


def _parts(data: str | Path | None, seed: int, download: str | Path | None = None) -> Mapping[str, _Reader]:
    if data is None:
        return _cifar_parts(CIFAR10, _cifar10_folder(download))
    if download is not None:
        raise MnvError("--data names data that are there, and --download a folder to fetch them into.", "Name one.")
    root = _existing(data)
    found = [(variant, folder) for variant in cifar.VARIANTS if (folder := variant.folder_of(root))]
    if found and len(found) + folders.looks_like_classes(root) > 1:
        there = " and ".join([variant.name for variant, _ in found] + ["folders of pictures"] * (len(found) == 1))
        raise MnvError(
            f"{root} has {there}.", f"Name the one you mean, as in --data {found[0][1]}, or move the other away."
        )
    if found:
        return _cifar_parts(*found[0])
    if other := cifar.other_form(root):
        raise MnvError(other, folders.FORMS)
    return {part: partial(_read, listed) for part, listed in folders.parts(root, seed).items()}


def _existing(data: str | Path) -> Path:
    root = Path(os.path.expanduser(data))
    if root.is_dir():
        return root
    if root.exists():
        archive = root.name.lower().endswith((".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".xz", ".bz2"))
        raise MnvError(
            f"{root} is a file, not a folder.", "Unpack it, and name the folder." if archive else folders.FORMS
        )
    if decoding.is_address(str(data)):
        raise MnvError(f"{data} is an address, not a folder.", "Download it first, unpack it and name the folder.")
    raise MnvError(f"There is no folder {root}{_alike(root)}.", folders.FORMS)


def _alike(root: Path) -> str:
    """The names beside a path that are most like its own."""
    from difflib import get_close_matches

    if not root.parent.is_dir():
        return ""
    alike = get_close_matches(root.name, [p.name for p in root.parent.iterdir() if p.is_dir()], n=3)
    return f"; there is {', '.join(str(root.parent / name) for name in alike)}" if alike else ""


def _read(part: folders.Files, pixels: Pixels, skip_unreadable: bool) -> Dataset:
    unreadable: dict[int, MnvError] = {}
    if not part.paths:
        raise MnvError(f"{part.name} has no picture.")
    pictures = mapped.read_all(part.paths, pixels, unreadable.__setitem__ if skip_unreadable else None)
    labels = np.delete(part.labels, list(unreadable))
    if lost := sorted(set(part.labels.tolist()) - set(labels.tolist())):
        raise MnvError(f"{part.name} has no picture that can be read of: {', '.join(part.classes[i] for i in lost)}.")
    name = f"{part.name}, {len(unreadable)} unreadable left out" if unreadable else part.name
    return Dataset(name, pictures, labels, part.classes)


# CIFAR -------------------------------------------------------------------------------------------------------------


def data_folder(data: str | Path | None = None) -> Path:
    """Where CIFAR-10 is looked for: ``data``, else ``$MNV1_DATA``, else the user's cache folder."""
    named = data or os.environ.get(DATA_VARIABLE)
    return Path(os.path.expanduser(named)) if named else cache_folder()


def has_cifar10(data: str | Path | None = None) -> bool:
    """Whether CIFAR-10 is at hand without a download."""
    return CIFAR10.folder_of(data_folder(data)) is not None


def cifar10(split: Split, data: str | Path | None = None) -> Dataset:
    """CIFAR-10's ``"train"`` (50,000) or ``"test"`` (10,000) split, as it is.

    Raises:
        MnvError: if it is not where ``data`` or $MNV1_DATA says, cannot be fetched, or is damaged.
    """
    if data is None:
        folder = _cifar10_folder(None)
    elif (found := CIFAR10.folder_of(data_folder(data))) is not None:
        folder = found
    else:
        raise MnvError(f"CIFAR-10 is not in {data_folder(data)}.", folders.FORMS)
    return _read_cifar(CIFAR10, folder, split)


def _cifar10_folder(download: str | Path | None) -> Path:
    """Where CIFAR-10 is: in ``download``, or where it is looked for. Fetched, unless a variable names the place."""
    folder = data_folder(download)
    if (found := CIFAR10.folder_of(folder)) is not None:
        return found
    if download is None and os.environ.get(DATA_VARIABLE):
        raise MnvError(
            f"CIFAR-10 is not in {folder}, which {DATA_VARIABLE} names.",
            f"Fetch it with --download {folder}, put the folder {CIFAR10_FOLDER} there, or name data with --data.",
        )
    return CIFAR10.download(folder)


def _cifar_parts(variant: Cifar, folder: Path) -> Mapping[str, _Reader]:
    def reader(split: Split) -> _Reader:
        return lambda pixels, skip_unreadable: resized(_read_cifar(variant, folder, split), pixels)

    return {"train": reader("train"), "test": reader("test")}


def _read_cifar(variant: Cifar, folder: Path, split: Split) -> Dataset:
    return Dataset(f"{variant.name} {split} split", *variant.read(folder, split))


# Whole data sets ---------------------------------------------------------------------------------------------------


def resized(dataset: Dataset, pixels: Pixels) -> Dataset:
    """The same pictures at another size or in other colours."""
    if dataset.images.shape[1:] == pixels.shape:
        return dataset
    found = images.read_all(dataset.images, pixels, room=mapped.room)
    return Dataset(dataset.name, found, dataset.labels, dataset.classes)


def calibration() -> Dataset:
    """The 512 bundled pictures of CIFAR-10's training split, for calibrating and comparing. Needs no torch."""
    return _bundled("calibration", "512 bundled CIFAR-10 training images")


def sample() -> Dataset:
    """The 1,000 bundled pictures of CIFAR-10's test split, to check an install with. Needs no torch."""
    return _bundled("sample", "1,000-image sample of the CIFAR-10 test split")


def _bundled(stem: str, name: str) -> Dataset:
    folder = files("mnv1deploy") / "data"
    labels = np.array(json.loads((folder / f"{stem}.json").read_text("utf-8"))["labels"], np.int64)
    with (folder / f"{stem}.webp").open("rb") as file:
        sheet = images.read_sheet(file.read(), 32)
    return Dataset(name, sheet[: len(labels)], labels, CIFAR10_CLASSES)
