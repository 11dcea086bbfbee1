"""PyTorch's files and safetensors, read without building any object that is not a tensor or plain data."""

from __future__ import annotations

import json
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from mnv1deploy.errors import MnvError
from mnv1deploy.importing.found import Array, Tensors

_SAVE_ARRAYS = "Save its arrays by their names: safetensors.numpy.save_file(arrays, 'weights.safetensors')."

_NUMPY = re.compile(r"numpy(\.\w+)*\.(scalar|_reconstruct|ndarray|dtype|_frombuffer|\w*DType)|_codecs\.encode")
"""What arrays and numbers of numpy are pickled by, whichever version wrote them."""


class _Opaque:
    """Stands for any object beside the weights; nothing of it is built or run."""

    def __new__(cls, *arguments: object, **named: object) -> _Opaque:
        return super().__new__(cls)

    def __init__(self, *arguments: object, **named: object) -> None:
        """Takes what the object was made of."""

    def __setstate__(self, state: object) -> None:
        """Takes what the object held."""

    def __setitem__(self, key: object, value: object) -> None:
        """Takes an item."""

    def append(self, value: object) -> None:
        """Takes an item."""

    def extend(self, values: object) -> None:
        """Takes items."""


def read(path: Path, chosen: str | None = None) -> Tensors:
    """The weights of a PyTorch or safetensors file.

    Args:
        path: the file.
        chosen: which of several sets of weights, where there are: "state_dict_ema", "net", ...

    Raises:
        MnvError: if there are none, or several and none is chosen.
    """
    if path.suffix == ".safetensors" or _is_safetensors(path):
        try:
            return _tensors(path, "safetensors weights", safetensors.torch.load_file(path))
        except (SafetensorError, OSError, RuntimeError, ValueError) as error:
            raise MnvError(f"{path} is no safetensors file, or is damaged: {MnvError.reason(error)}.") from error
    content, others = _load(path)
    sets = dict(_state_dicts(content))
    if not sets:
        if others:
            raise MnvError(
                f"{path} holds more than tensors ({', '.join(others[:3])}), and reading it could run any code.",
                "Save the weights alone, where the network is defined: torch.save(net.state_dict(), 'weights.pt').",
            )
        raise MnvError(f"{path} holds no state dict.", "Save one: torch.save(net.state_dict(), 'weights.pt').")
    name = _choose(path, sets, chosen)
    found = _tensors(path, "PyTorch state dict", sets[name])
    notes = [f"Taken from {name!r} in the file."] if name else []
    if others:
        notes.append(f"Left out, unread: objects of {', '.join(others[:4])} beside the weights.")
    return Tensors(found.source, found.arrays, found.layout, tuple(notes))


def read_parts(path: Path) -> Tensors:
    """The weights of several files beside each other, which Hugging Face's ``*.index.json`` lists.

    Raises:
        MnvError: if it lists none, or one of them is not there or cannot be read.
    """
    try:
        listed = json.loads(path.read_text("utf-8"))["weight_map"]
        names = sorted({Path(name).name for name in listed.values()})
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise MnvError(f"{path} is no list of a network's parts (weight_map): {MnvError.reason(error)}.") from error
    if missing := [name for name in names if not path.with_name(name).is_file()]:
        raise MnvError(f"{missing[0]}, which {path} lists, is not beside it.", "Download all parts into one folder.")
    parts = [read(path.with_name(name)) for name in names]
    arrays = {name: array for part in parts for name, array in part.arrays.items() if name in listed}
    if len(arrays) < len(listed):
        absent = next(name for name in listed if name not in arrays)
        raise MnvError(f"{absent}, which {path} lists, is in none of its files.", "Download all parts once more.")
    return Tensors(parts[0].source, arrays, None, (f"Read from {len(parts)} files.",))


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


def _load(path: Path) -> tuple[Any, list[str]]:
    """What is in a file, and the names of the classes whose objects became opaque."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.endswith("/constants.pkl") for name in names):
            raise MnvError(
                f"{path} is a TorchScript archive: a program and its weights.",
                "Save the weights: torch.save(torch.jit.load('net.pt').state_dict(), 'weights.pt').",
            )
        if all(name.endswith(".npy") for name in names):
            raise MnvError(f"{path} is numpy's .npz.", _SAVE_ARRAYS)
        if any(name.endswith(("/archive_format", "serialized_exported_program.json")) for name in names):
            raise MnvError(
                f"{path} is a program of torch.export and its weights.",
                "Save the weights: torch.save(torch.export.load('net.pt2').state_dict, 'weights.pt').",
            )
        if not any(name.endswith("data.pkl") for name in names):
            raise MnvError(
                f"{path} is a zip archive, but not PyTorch's: it holds {', '.join(names[:3])}.", "Unpack it first."
            )
    with path.open("rb") as file:
        if file.read(6) == b"\x93NUMPY":
            raise MnvError(f"{path} is numpy's .npy: one array, and a network has many.", _SAVE_ARRAYS)
    wanted: list[Any] = [getattr(np.dtypes, name) for name in np.dtypes.__all__]  # which are never named in the file
    others = []
    for name in _globals(path):
        module, _, attribute = name.rpartition(".")
        if _NUMPY.fullmatch(name):
            wanted.append((_numpy(module, attribute), name))
        elif module != "torch" and not module.startswith(("torch._utils", "torch.storage", "collections")):
            others.append(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols, before it refuses
            with torch.serialization.safe_globals([*wanted, *((_Opaque, name) for name in others)]):
                return torch.load(path, map_location="cpu", weights_only=True), others
    except pickle.UnpicklingError as error:
        reason = f" ({', '.join(others[:3])})" if others else " (a pickled module?)"
        if not others and "magic" in str(error):
            raise MnvError(f"{path} cannot be read as a PyTorch file: {MnvError.reason(error)}.") from error
        raise MnvError(
            f"{path} holds more than tensors{reason}, and reading it could run any code.",
            "Save the weights alone, where the network is defined: torch.save(net.state_dict(), 'weights.pt').",
        ) from error
    except (
        OSError, RuntimeError, ValueError, EOFError, KeyError, AttributeError, TypeError, IndexError, MemoryError,
        OverflowError, RecursionError, UnicodeDecodeError,
    ) as error:  # fmt: skip
        raise MnvError(f"{path} cannot be read as a PyTorch file: {MnvError.reason(error)}.") from error


def _numpy(module: str, attribute: str) -> Any:
    """The function or class of today's numpy that goes by a name of any version's."""
    import _codecs

    if module == "_codecs":
        return _codecs.encode
    if attribute.endswith("DType"):
        return getattr(np.dtypes, attribute)
    places = {
        "scalar": "numpy._core.multiarray",
        "_reconstruct": "numpy._core.multiarray",
        "_frombuffer": "numpy._core.numeric",
    }
    import importlib

    return getattr(importlib.import_module(places.get(attribute, "numpy")), attribute)


def _globals(path: Path) -> list[str]:
    """Names of all functions and classes that a pickle mentions, in order, read without running it."""
    found: dict[str, None] = {}
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                streams = [archive.read(name) for name in archive.namelist() if name.endswith("data.pkl")]
        else:
            streams = [path.read_bytes()]
        for stream in streams:
            position = 0
            for _ in range(8 if len(streams[0]) == path.stat().st_size else 1):
                strings: list[str] = []
                for code, argument, place in pickletools.genops(stream[position:]):
                    if code.name == "GLOBAL":
                        found[str(argument).replace(" ", ".")] = None
                    elif code.name == "STACK_GLOBAL" and len(strings) > 1:
                        found[f"{strings[-2]}.{strings[-1]}"] = None
                    elif isinstance(argument, str):
                        strings.append(argument)
                    if code.name == "STOP":
                        position += (place or 0) + 1
    except (ValueError, OSError, IndexError, zipfile.BadZipFile, UnicodeDecodeError, EOFError, KeyError):
        pass  # torch says what is wrong with it
    return list(found)


def _state_dicts(content: Any, name: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every mapping with a convolution's kernel in it, at any depth, by its path; optimisers' states are none."""
    if isinstance(content, (list, tuple)):
        content = dict(content) if _are_named(content) else dict(enumerate(content))
    if not isinstance(content, Mapping) or "param_groups" in content:
        return
    kernels = [value for key, value in content.items() if isinstance(key, str) and _ndim(value) == 4]
    if kernels:
        yield from _networks(content, name)
        return
    for key, value in content.items():
        part = key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key)
        if "optim" not in part.lower():
            yield from _state_dicts(value, f"{name}.{part}" if name else part)


def _are_named(content: Sequence[Any]) -> bool:
    """Whether a list is one of names and what goes by them."""
    return (
        len(content) > 0
        and all(isinstance(row, tuple) and len(row) == 2 for row in content)
        and all(isinstance(row[0], str) for row in content)
    )


def _networks(content: Mapping[str, Any], name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The mapping, or each of several networks of the same layers in it: ``model.`` and ``ema.module.``."""
    tensors = {str(key): value for key, value in content.items() if _ndim(value) >= 0}
    prefixes = _before_the_same([key for key, value in tensors.items() if _ndim(value) == 2])
    parts: dict[str, dict[str, Any]] = {prefix: {} for prefix in prefixes}
    for key, value in tensors.items():
        own = max((prefix for prefix in prefixes if key.startswith(prefix)), key=len, default=None)
        if own is not None:
            parts[own][key[len(own) :]] = value
    kernels = [{key for key, value in part.items() if _ndim(value) == 4} for part in parts.values()]
    if len(parts) > 1 and kernels[0] and all(names == kernels[0] for names in kernels):
        for prefix, part in parts.items():
            own = prefix.removesuffix(".") or "the rest"
            yield f"{name}.{own}" if name else own, part
    else:
        yield name, content


def _before_the_same(classifiers: Sequence[str]) -> list[str]:
    """What stands before the longest end, in whole words, that the names of several classifiers have in common."""
    words = [name.split(".") for name in classifiers]
    shortest = min(map(len, words), default=0)
    same = next((n for n in range(shortest) if len({parts[-1 - n] for parts in words}) > 1), shortest)
    return ["".join(f"{word}." for word in parts[: len(parts) - same]) for parts in words]


def _ndim(value: Any) -> int:
    return value.ndim if isinstance(value, (Tensor, np.ndarray)) else -1


def _choose(path: Path, sets: Mapping[str, Any], chosen: str | None) -> str:
    names = list(sets)
    if chosen is None and all(_are_equal(sets[names[0]], sets[name]) for name in names[1:]):
        return names[0]
    if chosen is not None:
        if chosen not in sets:
            there = ", ".join(map(repr, names)) if names != [""] else "one set, which has no name"
            raise MnvError(f"There are no weights called {chosen!r} in {path}.", f"There is {there}.")
        return chosen
    if len(names) > 1:
        averaged = [name for name in names if re.search(r"ema|average|swa|teacher", name, re.IGNORECASE)]
        advice = f" {averaged[0]} looks like an average over training, which is mostly the better." if averaged else ""
        raise MnvError(
            f"{path} holds {len(names)} sets of weights: {', '.join(names)}.",
            f"Say which with --weights, such as --weights {(averaged or names)[0]}.{advice}",
        )
    return names[0]


def _are_equal(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two sets have the same tensors under the same names."""
    if one.keys() != other.keys():
        return False
    pairs = [(value, other[key]) for key, value in one.items()]
    return all(torch.equal(a, b) for a, b in pairs if isinstance(a, Tensor) and isinstance(b, Tensor)) and all(
        isinstance(a, Tensor) == isinstance(b, Tensor) for a, b in pairs
    )


def _tensors(path: Path, source: str, content: Mapping[str, Any]) -> Tensors:
    arrays: dict[str, Array] = {}
    for key, value in content.items():
        name = str(key)
        if isinstance(value, np.ndarray):
            arrays[name] = value
        elif isinstance(value, Tensor):
            if value.is_quantized or value.layout != torch.strided or value.is_complex():
                raise MnvError(
                    f"{name} in {path} is a {'quantised' if value.is_quantized else 'sparse or complex'} tensor, and "
                    "weights are plain floating point here.",
                    "Save the network before it is quantised." if value.is_quantized else "Make it dense: to_dense().",
                )
            if value.is_meta:
                raise MnvError(
                    f"{name} in {path} is on the device meta: it has a shape and no values.",
                    "Save the network after its weights are loaded.",
                )
            value = value.detach().cpu()
            arrays[name] = (value.float() if value.is_floating_point() else value).contiguous().numpy()
    return Tensors(source, arrays, None)
