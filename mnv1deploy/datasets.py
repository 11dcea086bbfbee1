"""Labelled pictures, whole in memory as uint8: CIFAR-10, a folder of class folders, and what is bundled."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnv1deploy import images
from mnv1deploy.errors import MnvError
from mnv1deploy.files import cache_folder
from mnv1deploy.packages import engine
from mnv1deploy.spec import CIFAR10_CLASSES, Pixels

DATA_VARIABLE = "MNV1_DATA"
CIFAR10_FOLDER = "cifar-10-batches-py"


@dataclass(frozen=True)
class Dataset:
    """Labelled pictures.

    Attributes:
        name: what to call it in a report: "CIFAR-10 test split", never just "test".
        images: uint8 ``[N, H, W, C]``.
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
        return Dataset(name, self.images[indices], self.labels[indices], self.classes)

    def split(self, fraction: float, seed: int, names: tuple[str, str]) -> tuple[Dataset, Dataset]:
        """Two parts by seed, the second with ``fraction`` of every class (rounded; at least one where it can be)."""
        first, second = _split(self.labels, len(self.classes), fraction, seed)
        return self.subset(first, names[0]), self.subset(second, names[1])


def data_folder(data: str | Path | None = None) -> Path:
    """Where CIFAR-10 is kept: ``data``, else ``$MNV1_DATA``, else the user's cache folder."""
    if data or os.environ.get(DATA_VARIABLE):
        return Path(data or os.environ[DATA_VARIABLE]).expanduser()
    return cache_folder()


def has_cifar10(data: str | Path | None = None) -> bool:
    """Whether CIFAR-10 is at hand without a download."""
    return (data_folder(data) / CIFAR10_FOLDER).is_dir()


def cifar10(split: str, data: str | Path | None = None, *, download: bool = True) -> Dataset:
    """CIFAR-10's ``"train"`` (50,000) or ``"test"`` (10,000) split; downloaded and MD5-checked by torchvision.

    Raises:
        MnvError: if it is not there and cannot be fetched, or is damaged.
    """
    torchvision = engine("torchvision.datasets", "train")
    folder = data_folder(data)
    try:
        source = torchvision.CIFAR10(str(folder), train=split == "train", download=download and not has_cifar10(data))
    except (RuntimeError, OSError) as error:
        raise MnvError(
            f"CIFAR-10 is not in {folder}, or is damaged there: {MnvError.reason(error)}.",
            f"Put the folder {CIFAR10_FOLDER} somewhere and name its parent with --data or {DATA_VARIABLE}.",
        ) from error
    return Dataset(f"CIFAR-10 {split} split", source.data, np.array(source.targets, np.int64), tuple(source.classes))


def image_folder(folder: str | Path, pixels: Pixels, *, seed: int = 0) -> tuple[Dataset, Dataset]:
    """(train, test) from a folder of class folders, every picture made ``pixels``.

    Either ``train/<class>/*`` beside ``test/<class>/*`` or ``val/<class>/*``, or ``<class>/*`` alone, of which a
    fifth of every class, drawn by ``seed``, becomes the test part. Classes are the folders' names, sorted.

    Raises:
        MnvError: for a folder that has not this form, or a picture that cannot be read.
    """
    train, test = _parts(folder, seed)
    return train.read(pixels), test.read(pixels)


def load(data: str | Path | None, pixels: Pixels, *, seed: int = 0) -> tuple[Dataset, Dataset]:
    """(train, test) from ``--data``: a folder of class folders, else CIFAR-10 from wherever it is or can be got."""
    if _is_class_folder(data):
        return image_folder(str(data), pixels, seed=seed)
    return resized(cifar10("train", data), pixels), resized(cifar10("test", data), pixels)


def load_train(data: str | Path | None, pixels: Pixels, *, seed: int = 0) -> Dataset:
    """The training part alone of what :func:`load` finds; no picture of the test part is read."""
    if _is_class_folder(data):
        return _parts(str(data), seed)[0].read(pixels)
    return resized(cifar10("train", data), pixels)


def load_test(data: str | Path | None, pixels: Pixels, *, seed: int = 0) -> Dataset:
    """The test part alone of what :func:`load` finds; no picture of the training part is read."""
    if _is_class_folder(data):
        return _parts(str(data), seed)[1].read(pixels)
    return resized(cifar10("test", data), pixels)


def load_unseen(data: str | Path | None, pixels: Pixels) -> Dataset:
    """Labelled pictures to choose settings by, none of them of a test part.

    A twentieth of the training part, the one that training holds out by default; without ``data`` and CIFAR-10 at
    hand the bundled sample.
    """
    if not _is_class_folder(data) and not has_cifar10(data):
        return resized(sample(), pixels)
    train = load_train(data, pixels)
    return train.split(0.05, 0, ("", f"held-out part of {train.name}"))[1]


def resized(dataset: Dataset, pixels: Pixels) -> Dataset:
    """The same pictures at another size or in other colours."""
    if dataset.images.shape[1:] == pixels.shape:
        return dataset
    found = _parallel(lambda picture: images.read(picture, pixels), dataset.images)
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


def _is_class_folder(data: str | Path | None) -> bool:
    return bool(data) and not has_cifar10(data) and any(path.is_dir() for path in Path(str(data)).glob("*"))


def _class_names(folder: Path) -> tuple[str, ...]:
    names = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")))
    if len(names) < 2:
        raise MnvError(f"{folder} has {len(names)} class folders; a classifier needs two or more, one per class.")
    return names


@dataclass(frozen=True)
class _Files:
    """The files of a data set: what :class:`Dataset` has, with paths in place of pictures."""

    name: str
    paths: tuple[str, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    @classmethod
    def of(cls, folder: Path, classes: tuple[str, ...], name: str) -> _Files:
        """Those of ``<class>/*`` in a folder, which need not have every class."""
        found = [images.find([folder / name]) if (folder / name).is_dir() else [] for name in classes]
        labels = np.repeat(np.arange(len(classes)), [len(paths) for paths in found])
        return cls(name, tuple(path for paths in found for path in paths), labels, classes)

    def subset(self, indices: NDArray[np.int64], name: str) -> _Files:
        return _Files(name, tuple(self.paths[i] for i in indices), self.labels[indices], self.classes)

    def read(self, pixels: Pixels) -> Dataset:
        nothing = np.empty((0, *pixels.shape), np.uint8)
        pictures = _parallel(lambda path: images.read(path, pixels), self.paths) if self.paths else nothing
        return Dataset(self.name, pictures, self.labels, self.classes)


def _parts(folder: str | Path, seed: int) -> tuple[_Files, _Files]:
    """(train, test), not read yet."""
    root = Path(folder)
    if not root.is_dir():
        raise MnvError(f"There is no folder {root}.")
    test_root = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
    if (root / "train").is_dir() and test_root:
        classes = _class_names(root / "train")
        if extra := sorted(set(_class_names(test_root)) - set(classes)):
            raise MnvError(f"{test_root} has classes that {root / 'train'} has not: {', '.join(extra)}.")
        return (
            _Files.of(root / "train", classes, f"{root.name} train"),
            _Files.of(test_root, classes, f"{root.name} {test_root.name}"),
        )
    top = root / "train" if (root / "train").is_dir() else root
    whole = _Files.of(top, _class_names(top), root.name)
    rest, taken = _split(whole.labels, len(whole.classes), 0.2, seed)
    return (
        whole.subset(rest, f"{root.name} train (4/5 by seed {seed})"),
        whole.subset(taken, f"{root.name} test (1/5 by seed {seed})"),
    )


def _split(
    labels: NDArray[np.int64], classes: int, fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of two parts by seed, the second with ``fraction`` of every class (rounded; at least one if it can)."""
    rng = np.random.default_rng(seed)
    second = []
    for label in range(classes):
        members = rng.permutation(np.flatnonzero(labels == label))
        count = min(max(round(len(members) * fraction), int(fraction > 0)), max(len(members) - 1, 0))
        second.append(members[:count])
    taken = np.sort(np.concatenate(second))
    return np.setdiff1d(np.arange(len(labels)), taken), taken


def _parallel(
    function: Callable[..., NDArray[np.uint8]], items: Iterable[str] | NDArray[np.uint8]
) -> NDArray[np.uint8]:
    # Pillow decodes and resizes without holding the GIL
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(function, items)))
