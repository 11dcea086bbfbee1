"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): fetched, checked and read with the standard library and numpy."""

from __future__ import annotations

import hashlib
import io
import pickle
import sys
import tarfile
import tempfile
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mnv1deploy.errors import MnvError
from mnv1deploy.files import staged

SITE = "https://www.cs.toronto.edu/~kriz/"

Split = Literal["train", "test"]


@dataclass(frozen=True)
class Cifar:
    """One of the two, in the form "Python version" of their page.

    Attributes:
        name: as it is written.
        folder: which its archive holds.
        archive: its file, and ``archive_md5`` what it has to be.
        train, test: (file, MD5) of each file of a split.
        meta: (file, MD5) of the class names.
        labels, names: the keys under which labels and class names are.
    """

    name: str
    folder: str
    archive: str
    archive_md5: str
    train: tuple[tuple[str, str], ...]
    test: tuple[tuple[str, str], ...]
    meta: tuple[str, str]
    labels: str
    names: str

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        """(name, MD5) of all."""
        return (*self.train, *self.test, self.meta)

    def folder_of(self, folder: Path) -> Path | None:
        """Where its files are: in ``folder`` or, as its archive has them, one further down; None if nowhere."""
        if (folder / self.folder).is_dir():
            return folder / self.folder
        if folder.name == self.folder or all((folder / name).is_file() for name, _ in self.files):
            return folder if folder.is_dir() else None
        return None

    def read(self, folder: Path, split: Split) -> tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]:
        """Images uint8 ``[N, 32, 32, 3]``, labels int64 ``[N]`` and class names, of the files in ``folder``.

        Raises:
            MnvError: if a file that this needs is not there, or is not what it has to be.
        """
        batches = [self._load(folder, *file) for file in getattr(self, split)]
        rows = np.concatenate([batch["data"] for batch in batches])
        labels = np.concatenate([np.array(batch[self.labels], np.int64) for batch in batches])
        names = tuple(self._load(folder, *self.meta)[self.names])
        images = rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return np.ascontiguousarray(images), labels, names

    def _load(self, folder: Path, name: str, md5: str) -> dict[str, Any]:
        missing = [name for name, _ in self.files if not (folder / name).is_file()]
        if missing:
            raise MnvError(f"{self.name} in {folder} is not whole: it lacks {', '.join(missing)}.", self._mend(folder))
        content = (folder / name).read_bytes()
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
            raise MnvError(f"{self.name} in {folder} is damaged: {name} has not the MD5 {md5}.", self._mend(folder))
        try:
            loaded: dict[str, Any] = _Unpickler(io.BytesIO(content), encoding="latin1").load()
        except pickle.UnpicklingError as error:
            raise MnvError(f"{folder / name} is no file of {self.name}: {error}.", self._mend(folder)) from error
        return loaded

    def _mend(self, folder: Path) -> str:
        return f"Remove that folder and unpack {self.archive} from {SITE} again in {folder.parent}."

    def download(self, folder: Path) -> Path:
        """Fetches it into ``folder``, whole or not at all; an archive that lies there already is unpacked instead.

        Raises:
            MnvError: without a network, or if what comes is not what it has to be.
        """
        with staged(folder) as temporary, tempfile.TemporaryFile() as archive:
            if (folder / self.archive).is_file():
                source = str(folder / self.archive)
                with (folder / self.archive).open("rb") as file:
                    md5 = _copy([file], archive)
            else:
                source = SITE + self.archive
                md5 = self._fetch(source, archive)
            if md5 != self.archive_md5:
                raise MnvError(f"{source} is damaged: its MD5 is {md5}, not {self.archive_md5}.", "Fetch it again.")
            archive.seek(0)
            (temporary / self.folder).mkdir()
            with tarfile.open(fileobj=archive) as members:
                for name, _ in self.files:
                    content = members.extractfile(f"{self.folder}/{name}")
                    if content:
                        (temporary / self.folder / name).write_bytes(content.read())
        return folder / self.folder

    def _fetch(self, address: str, target: IO[bytes]) -> str:
        try:
            with urllib.request.urlopen(address, timeout=60) as answer:  # noqa: S310
                total = int(answer.headers.get("Content-Length") or 0)
                return _copy([answer], target, f"{self.name}, {total / 1e6:.0f} MB", total)
        except (OSError, HTTPException, ValueError) as error:
            raise MnvError(
                f"{self.name} cannot be fetched from {address}: {MnvError.reason(error)}.",
                f"Unpack {self.archive} somewhere and name that folder with --data.",
            ) from error


CIFAR10 = Cifar(
    "CIFAR-10",
    "cifar-10-batches-py",
    "cifar-10-python.tar.gz",
    "c58f30108f718f92721af3b95e74349a",
    (
        ("data_batch_1", "c99cafc152244af753f735de768cd75f"),
        ("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
        ("data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
        ("data_batch_4", "634d18415352ddfa80567beed471001a"),
        ("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
    ),
    (("test_batch", "40351d587109b95175f43aff81a1287e"),),
    ("batches.meta", "5ff9c542aee3614f3951f8cda6e48888"),
    "labels",
    "label_names",
)
CIFAR100 = Cifar(
    "CIFAR-100",
    "cifar-100-python",
    "cifar-100-python.tar.gz",
    "eb9058c3a382ffc7106e4002c42a8d85",
    (("train", "16019d7e3df5f24257cddd939b257f8d"),),
    (("test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),),
    ("meta", "7973b15100ade9c7d40fb424638fde48"),
    "fine_labels",
    "fine_label_names",
)
VARIANTS = (CIFAR10, CIFAR100)


def other_form(folder: Path) -> str:
    """A sentence if a folder has CIFAR in a form that is not read, else an empty one."""
    for variant in VARIANTS:
        stem = variant.folder.removesuffix("-batches-py").removesuffix("-python")
        for place in (
            folder,
            folder / f"{stem}-batches-bin",
            folder / f"{stem}-binary",
            folder / f"{stem}-batches-mat",
        ):
            for name, form in ((variant.test[0][0] + ".bin", "binary"), (variant.test[0][0] + ".mat", "Matlab")):
                if (place / name).is_file():
                    return (
                        f"{place} is {variant.name}'s {form} version; what is read is the Python version, "
                        f"{variant.archive}."
                    )
        if (folder / variant.archive).is_file():
            with tempfile.TemporaryFile() as scratch, (folder / variant.archive).open("rb") as file:
                whole = _copy([file], scratch) == variant.archive_md5
            if whole:
                return f"{folder / variant.archive} is not unpacked; unpack it with: tar -xzf {variant.archive}."
            return f"{folder / variant.archive} is damaged: its MD5 is not {variant.archive_md5}; fetch it again."
    return ""


class _Unpickler(pickle.Unpickler):
    """Makes numbers, strings, lists, dicts and numpy arrays, and nothing that could be run."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.empty(0).__reduce__()[0]
        if (module, name) == ("_codecs", "encode"):
            return _encode
        raise pickle.UnpicklingError(f"{module}.{name} has no place among pictures")


def _encode(text: str, encoding: str) -> bytes:
    """How protocol 2 writes bytes."""
    return text.encode("latin1")


def _copy(sources: Sequence[Any], target: IO[bytes], label: str = "", total: int = 0) -> str:
    """Copies, and returns the MD5; how far it is goes to standard error where there is a ``label``."""
    digest = hashlib.md5(usedforsecurity=False)
    done = shown = 0
    for source in sources:
        while piece := source.read(2**20):
            target.write(piece)
            digest.update(piece)
            done += len(piece)
            if label and total and done * 10 // total > shown:
                shown = done * 10 // total
                sys.stderr.write(f"Downloading {label}: {min(10 * shown, 100)} %\n")
    return digest.hexdigest()
