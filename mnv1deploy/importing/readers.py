"""What a file is, by what is in it, and which reader takes it."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from mnv1deploy.errors import MnvError
from mnv1deploy.importing.beside import WEIGHTS
from mnv1deploy.importing.found import Found, Tensors

_HEAD = 1024

_PART = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.(?P<suffix>safetensors|bin)")
"""How Hugging Face's libraries name the parts of weights."""


def read(path: Path, weights: str | None = None) -> Found | Tensors:
    """What is in a file of any kind.

    Args:
        path: the file; what is in it decides, and its name only where that does not.
        weights: which of several sets of weights, for PyTorch's files.

    Raises:
        MnvError: if there is none, or it is of no kind that is read here.
    """
    if path.is_dir():
        raise _folder(path)
    if not path.is_file():
        raise MnvError(f"There is no file {path}.")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise MnvError(f"{path} cannot be read: {error.strerror}.") from error
    _refuse_what_is_no_network(path, head)
    if (part := _PART.fullmatch(path.name)) and int(part["count"]) > 1:
        raise MnvError(
            f"{path} is one of {int(part['count'])} parts of a network.",
            f"Name what lists them: {part['stem']}.{part['suffix']}.index.json.",
        )
    if head[4:8] == b"TFL3":
        from mnv1deploy.importing import litert

        return litert.read(path)
    if head[:8] == b"\x89HDF\r\n\x1a\n" or _is_keras(path):
        from mnv1deploy.importing import keras

        return keras.read(path)
    if path.name.endswith(".index.json"):
        from mnv1deploy.importing import pytorch

        return pytorch.read_parts(path)
    if path.suffix == ".json":
        from mnv1deploy.importing import tfjs

        return tfjs.read(path)
    if path.suffix == ".onnx":
        from mnv1deploy.importing import onnx

        return onnx.read(path)
    from mnv1deploy.importing import pytorch

    return pytorch.read(path, weights)


def _is_keras(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return {"config.json", "model.weights.h5"} <= set(archive.namelist())


def _folder(path: Path) -> MnvError:
    if (path / "saved_model.pb").is_file():
        return MnvError(
            f"{path} is a TensorFlow SavedModel, which is not read here.",
            "Save it as model.save('network.keras'), or convert it to .tflite.",
        )
    inside = next((path / name for name in WEIGHTS if (path / name).is_file()), "the file with the weights in it")
    return MnvError(f"{path} is a folder.", f"Name {inside}.")


def _refuse_what_is_no_network(path: Path, head: bytes) -> None:
    """Raises MnvError for what is saved under a network's name and is something else."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        raise MnvError(f"{path} is empty.", "Was its download interrupted?")
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise MnvError(f"{path} is a web page, not weights.", "Download it again from the link to the file itself.")
    if start.startswith(b"version https://git-lfs"):
        raise MnvError(
            f"{path} is a Git LFS pointer: a few lines that stand for the file.", "Get the file itself: git lfs pull"
        )
    if head[:2] == b"\x1f\x8b" or path.suffixes[-2:] == [".tar", ".gz"]:
        raise MnvError(f"{path} is a compressed archive.", "Unpack it, and name the file with the weights in it.")
    if head[257:262] == b"ustar" and b"pickle" not in head:
        raise MnvError(f"{path} is a tar archive.", "Unpack it, and name the file with the weights in it.")
    if path.suffix == ".pb":
        raise MnvError(f"{path} is a TensorFlow graph, which is not read here.", "Convert it to .tflite.")
    if path.suffix in (".index", ".meta") or ".ckpt.data-" in path.name or ".data-00000-of-" in path.name:
        raise MnvError(
            f"{path} is part of a TensorFlow checkpoint, which is not read here.",
            "Use the .tflite of the same network.",
        )
