"""JSON from files that may be anybody's -> dataclasses, every value of the type that its field declares."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

LIMIT = 8 << 20
"""Bytes of JSON that are read: the names of 20,000 classes fit several times."""


def loads(text: str | bytes) -> Any:
    """What JSON says. Raises ValueError for anything else, for too much of it, and for what is nested too deep."""
    if len(text) > LIMIT:
        raise ValueError(f"it has {len(text):,} bytes, more than {LIMIT:,}")
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def load(path: Path) -> Any:
    """What a file of JSON says. Raises OSError or ValueError for one that cannot be read or is no regular file."""
    if not path.is_file():  # a pipe or a device has no end
        raise ValueError("it is no file")
    with path.open("rb") as file:
        return loads(file.read(LIMIT + 1))


def build(kind: Any, data: Any, name: str = "it") -> Any:
    """The value of type ``kind`` that plain data stand for.

    Types are dataclasses, TypedDicts, str, int, float, bool, None, Any, Literal, unions, ``tuple[T, ...]`` and
    ``dict[str, T]``.

    Args:
        kind: the type.
        data: what :func:`loads` gives.
        name: what to call the data in an error.

    Raises:
        ValueError: for data of another type, a field that is missing, and one that is not known; whatever a
            dataclass's own checks raise.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return data
    if origin in (Union, UnionType):
        if data is None and type(None) in arguments:
            return None
        (kind,) = (argument for argument in arguments if argument is not type(None))
        return build(kind, data, name)
    if origin is Literal:
        if data not in arguments:
            raise ValueError(f"{name} is none of {', '.join(map(str, arguments))}")
        return data
    if origin is tuple:
        rows = _checked(list, data, name)
        return tuple(build(arguments[0], row, f"{name}[{i}]") for i, row in enumerate(rows))
    if origin is dict:
        return {key: build(arguments[1], value, f"{name}.{key}") for key, value in _checked(dict, data, name).items()}
    if is_typeddict(kind):
        types = _types(kind)
        rows = _checked(dict, data, name)
        if rows.keys() != types.keys():
            raise ValueError(f"{name} has not just {' and '.join(types)}")
        return {key: build(types[key], value, f"{name}.{key}") for key, value in rows.items()}
    if is_dataclass(kind):
        return _dataclass(kind, _checked(dict, data, name), name)
    if kind is float:
        if type(data) not in (int, float) or not math.isfinite(data):
            raise ValueError(f"{name} is no number")
        return float(data)
    return _checked(kind, data, name)


def versioned(data: Any, newest: int) -> dict[str, Any]:
    """The fields of an object without its version, which is 1 where it says none. Raises ValueError for a newer one."""
    given = dict(_checked(dict, data, "it"))
    version = given.pop("version", 1)
    if type(version) is not int or not 1 <= version <= newest:
        raise ValueError(f"it is of version {version}, and this mnv1deploy reads versions 1 to {newest}")
    return given


_KINDS = {dict: "object", list: "list", str: "text", int: "whole number", bool: "true or false"}


def _checked(kind: type, data: Any, name: str) -> Any:
    if type(data) is not kind and not (kind is list and type(data) is tuple):  # True is no whole number
        raise ValueError(f"{name} is no {_KINDS[kind]}")
    return data


def _dataclass(kind: Any, data: Mapping[str, Any], name: str) -> Any:
    if reader := getattr(kind, "from_dict", None):  # one that reads older versions of itself
        return reader(data)
    return kind(**members(kind, data, name))


def members(kind: Any, data: Mapping[str, Any], name: str = "it") -> dict[str, Any]:
    """The arguments of a dataclass's constructor, from an object; see :func:`build`."""
    types = _types(kind)
    known = {field.name: field for field in fields(kind)}
    for key in data:
        if key not in known:
            raise ValueError(f"{name} has a field {key!r} that is not known")
    for key, field in known.items():
        if key not in data and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{name} has no {key}")
    return {key: build(types[key], value, key if name == "it" else f"{name}.{key}") for key, value in data.items()}


@cache
def _types(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON")
