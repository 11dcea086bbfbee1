"""What a hub's ``config.json`` and ``preprocessor_config.json`` say of the weights that they lie beside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mnv1deploy.errors import MnvError
from mnv1deploy.spec import Filter, Normalization, Preprocessing

_FILTERS: dict[int, Filter] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""Pillow's filters by their numbers."""

_NAMES = ("model.safetensors", "pytorch_model.bin")
WEIGHTS = tuple(f"{name}{rest}" for name in _NAMES for rest in ("", ".index.json"))
"""What Hugging Face's libraries and timm save weights as, and what lists the parts of weights in several files."""


@dataclass(frozen=True)
class Beside:
    """What is said of a network outside its file.

    Attributes:
        facts: values by the names of the import's options.
        preprocessing: how a picture becomes pixels; None where nothing says it, as with the next.
        classes: their names.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Preprocessing | None = None
    classes: tuple[str, ...] | None = None


def read(path: Path) -> Beside:
    """What lies beside the weights that Hugging Face's libraries and timm save, under the names they save them by.

    Raises:
        MnvError: if it says that the network is another one, or cannot be read.
    """
    config = _json(path.with_name("config.json"))
    if path.name not in WEIGHTS or config is None:
        return Beside()
    try:
        if isinstance(config.get("pretrained_cfg"), dict):
            return _timm(path, config)
        return _transformers(path, config, _json(path.with_name("preprocessor_config.json")) or {})
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise MnvError(
            f"{path.with_name('config.json')} is not understood: {MnvError.reason(error)}.",
            "Move the weights to a folder without it, and say with options what they are.",
        ) from error


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise MnvError(f"{path} cannot be read: {MnvError.reason(error)}.") from error
    return content if isinstance(content, dict) else None


def _timm(path: Path, config: Mapping[str, Any]) -> Beside:
    name, given = str(config["architecture"]), config["pretrained_cfg"]
    if not name.startswith("mobilenetv1"):
        raise MnvError(f"{path} is not a MobileNetV1: its config.json says that it is timm's {name}.")
    facts: dict[str, Any] = {
        "input-size": int(given["input_size"][-1]),
        "normalization": Normalization.from_unit(tuple(given["mean"]), tuple(given["std"])),
    }
    labels = config.get("label_names") or given.get("label_names")
    preprocessing = Preprocessing(given["interpolation"], float(given["crop_pct"]))
    return Beside(facts, preprocessing, tuple(map(str, labels)) if labels else None)


def _transformers(path: Path, config: Mapping[str, Any], pictures: Mapping[str, Any]) -> Beside:
    kind = str(config.get("model_type"))
    if kind != "mobilenet_v1":
        raise MnvError(f"{path} is not a MobileNetV1: its config.json says that it is a network of the kind {kind}.")
    activation = config.get("hidden_act", "relu6")
    if activation not in ("relu", "relu6"):
        raise MnvError(f"{path} is not a MobileNetV1: its config.json says that its activations are {activation}.")
    facts: dict[str, Any] = {
        "activation": activation,
        "padding": "same" if config.get("tf_padding", True) else "symmetric",
        "epsilon": float(config.get("layer_norm_eps", 1e-3)),
    }
    labels = config.get("id2label") or {}
    names = [str(labels[key]) for key in sorted(labels, key=int)]
    preprocessing = None
    size = (pictures.get("crop_size") or {}).get("height", config.get("image_size"))
    if size is not None:
        facts["input-size"] = int(size)
    if pictures.get("do_normalize", True) and "image_mean" in pictures:
        scale = float(pictures.get("rescale_factor", 1 / 255)) if pictures.get("do_rescale", True) else 1.0
        mean, std = (tuple(round(v / scale, 6) for v in pictures[key]) for key in ("image_mean", "image_std"))
        facts["normalization"] = Normalization(mean, std)
    if size and pictures.get("do_center_crop", True) and "size" in pictures:
        edge = pictures["size"].get("shortest_edge", size)
        preprocessing = Preprocessing(_FILTERS[pictures.get("resample", 2)], min(size / edge, 1.0))
    return Beside(facts, preprocessing, None if all(name.startswith("LABEL_") for name in names) else tuple(names))
