"""TensorFlow.js's layers models: ``model.json`` and the binary shards beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mnv1deploy.errors import MnvError
from mnv1deploy.importing import keras
from mnv1deploy.importing.found import Array, Found

_KINDS = {"float32": "<f4", "int32": "<i4", "uint8": "u1", "uint16": "<u2", "float16": "<f2"}
_ORDER = ("kernel", "depthwise_kernel", "gamma", "bias", "beta", "moving_mean", "moving_variance")


def read(path: Path) -> Found:
    """The network of a ``model.json``. Raises MnvError."""
    try:
        content = json.loads(path.read_text("utf-8"))
        if not isinstance(content, dict) or "weightsManifest" not in content:
            raise MnvError(
                f"{path} is no model.json of TensorFlow.js: it lists no weights.",
                "Name the file with the weights in it.",
            )
        topology = content.get("modelTopology") or {}
        config = topology.get("model_config", topology)
        if "node" in topology or not isinstance(config, Mapping) or "config" not in config:
            raise MnvError(
                f"{path} is a graph model of TensorFlow.js, whose layers are dissolved.",
                "Import the Keras file or the .tflite of the same network.",
            )
        weights: dict[str, list[tuple[str, Array]]] = {}
        for name, array in _arrays(path, content["weightsManifest"]):
            layer, _, leaf = name.rpartition("/")
            weights.setdefault(layer.rpartition("/")[2], []).append((leaf, array))
        ordered = {
            layer: [array for _, array in sorted(rows, key=lambda row: _ORDER.index(row[0]) if row[0] in _ORDER else 9)]
            for layer, rows in weights.items()
        }
        return keras.graph(path, config, ordered, "Keras network in TensorFlow.js")
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise MnvError(f"{path} cannot be read as TensorFlow.js's: {MnvError.reason(error)}.") from error


def _arrays(path: Path, manifest: list[dict[str, Any]]) -> list[tuple[str, Array]]:
    found = []
    for group in manifest:
        shards = [path.parent / name for name in group["paths"]]
        for shard in shards:
            if shard.resolve().parent != path.resolve().parent:
                raise MnvError(f"{path} names a shard that is not beside it: {shard.name}.")
            if not shard.is_file():
                raise MnvError(f"There is no {shard.name} beside {path}.", "Copy all shards along with model.json.")
        content, start = b"".join(shard.read_bytes() for shard in shards), 0
        for entry in group["weights"]:
            grid = entry.get("quantization")
            kind = np.dtype(_KINDS[grid["dtype"] if grid else entry["dtype"]])
            count = int(np.prod(entry["shape"], dtype=np.int64))
            values = np.frombuffer(content, kind, count, start).reshape(entry["shape"])
            start += count * kind.itemsize
            if grid and "scale" in grid:
                values = (values * np.float64(grid["scale"]) + grid["min"]).astype(np.float32)
            found.append((entry["name"], values.astype(np.float32)))
    return found
