"""Keras files, ``.h5``, ``.keras`` and ``.weights.h5``, read by h5py alone."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mnv1deploy.errors import MnvError
from mnv1deploy.importing.chain import Activation, Affine, Linear, Normed, Operation, Pad, Pool, Softmax, follow
from mnv1deploy.importing.found import Array, Convolution, Floats, Found, Norm, Tensors, no_mobilenetv1
from mnv1deploy.packages import engine

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"

SOURCE = "Keras network"
"""What a graph that is read here is called."""

Weights = dict[str, list[Array]]
"""Of every layer by its name, in Keras's order: kernel, bias; gamma, beta, moving mean, moving variance."""

_DROPPED = {"Dropout", "SpatialDropout2D", "Flatten", "Reshape", "GaussianNoise", "ActivityRegularization"}
"""Layers that change no value when a trained network runs."""

_AUGMENTATIONS = {"RandomFlip", "RandomRotation", "RandomZoom", "RandomContrast", "RandomTranslation", "RandomCrop"}
"""Layers that run in training only."""

_FUNCTIONS = {"linear": "none", "relu": "relu", "relu6": "relu6"}


def read(path: Path) -> Found | Tensors:
    """A graph where the file has the layers' configuration, else the arrays. Raises MnvError."""
    h5py = engine("h5py", "keras")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                config = json.loads(archive.read("config.json"))
                with h5py.File(io.BytesIO(archive.read("model.weights.h5")), "r") as file:
                    return graph(path, config, _new_weights(file), SOURCE)
        with h5py.File(path, "r") as file:
            stored = file.get("model_weights", file)
            if "layer_names" in stored.attrs:
                weights, names = _old_weights(stored)
                if "model_config" in file.attrs:
                    config = json.loads(file.attrs["model_config"])
                    return graph(path, config, _regrouped(config, weights), SOURCE)
                return Tensors("Keras weights", names, "keras")
            return Tensors("Keras weights", _new_arrays(file), "keras")
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RecursionError, zipfile.BadZipFile) as error:
        raise MnvError(f"{path} cannot be read as a Keras file: {MnvError.reason(error)}.") from error


def is_of_keras_alone(path: Path) -> bool:
    """Whether a network's configuration names nothing outside Keras, of which Keras would import the module."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                config = json.loads(archive.read("config.json"))
        else:
            with engine("h5py", "keras").File(path, "r") as file:
                config = json.loads(file.attrs["model_config"])
    except (OSError, KeyError, ValueError, RecursionError, zipfile.BadZipFile):
        return False
    return all(re.fullmatch(r"(keras|tensorflow\.keras)(\.\w+)*|builtins", name) for name in _modules(config))


def _modules(config: Any) -> Iterator[str]:
    """Names of all modules that objects in a configuration are said to be of."""
    if isinstance(config, Mapping):
        if isinstance(config.get("module"), str):
            yield config["module"]
        for value in config.values():
            yield from _modules(value)
    elif isinstance(config, list):
        for value in config:
            yield from _modules(value)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _old_weights(group: Any) -> tuple[dict[str, list[tuple[str, Array]]], dict[str, Array]]:
    """Of every layer, and all in order by name: the form of Keras 1 and 2, and of Keras 3's ``.h5``."""
    layers: dict[str, list[tuple[str, Array]]] = {}
    arrays: dict[str, Array] = {}
    for layer in map(_text, group.attrs["layer_names"]):
        rows = [(_text(name), np.asarray(group[layer][name])) for name in group[layer].attrs.get("weight_names", ())]
        layers[layer] = rows
        for name, array in rows:
            # kernels of layers with one name each are all called kernel in newer files
            arrays[name if name.startswith(layer) else f"{layer}/{name}"] = array
    return layers, arrays


def _regrouped(config: Mapping[str, Any], weights: dict[str, list[tuple[str, Array]]]) -> Weights:
    """Weights by the layer they belong to: a network inside a network keeps them all under its own name."""
    found: Weights = {}
    for layer, rows in weights.items():
        inner = {_text(name).rsplit("/", 1)[0].rsplit("/", 1)[-1] for name, _ in rows}
        nested = next(
            (c for c in _layers(config) if c["config"].get("name") == layer and "layers" in c["config"]), None
        )
        if nested is None:
            found[layer] = [array for _, array in rows]
            continue
        for name, array in rows:
            parts = name.split("/")
            own = next(part for part in reversed(parts[:-1]) if part in inner)
            found.setdefault(own, []).append(array)
    return found


def _new_weights(file: Any) -> Weights:
    """Keras 3's own form: numbered variables, in a group that knows its layer's name."""
    found: Weights = {}

    def visit(name: str, item: Any) -> None:
        if name.rsplit("/", 1)[-1] == "vars" and len(item):
            layer = _text(item.attrs.get("name", name.split("/")[-2]))
            found[layer] = [np.asarray(item[str(i)]) for i in range(len(item))]

    file.visititems(visit)
    return found


def _new_arrays(file: Any) -> dict[str, Array]:
    """The same without a configuration, under names that say what the variables are."""
    found: dict[str, Array] = {}

    def order(item: str) -> list[Any]:
        return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", item)]

    groups: list[str] = []
    file.visit(lambda name: groups.append(name) if name.rsplit("/", 1)[-1] == "vars" else None)
    for group in sorted(groups, key=order):
        variables = [np.asarray(file[group][str(i)]) for i in range(len(file[group]))]
        kind = group.split("/")[-2] if "/" in group else ""
        if kind.startswith("batch_normalization"):
            leaves = ["gamma", "beta", "moving_mean", "moving_variance"][-len(variables) :]
            if len(variables) == 3:
                raise MnvError(
                    f"{group} has three variables, which may or may not have a scale.",
                    "Save the whole network: model.save('network.keras').",
                )
        else:
            leaves = ["depthwise_kernel" if kind.startswith("depthwise") else "kernel", "bias"]
        if "optimizer" not in group and len(variables) <= len(leaves):
            found |= {f"{group}/{leaf}": array for leaf, array in zip(leaves, variables, strict=False)}
    return found


def _layers(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The configurations of all layers, those of a network inside in its place."""
    inside = config["config"]
    yield from inside["layers"] if isinstance(inside, Mapping) else inside


def _flat(path: Path, config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    layers = list(_layers(config))
    outputs = config["config"].get("output_layers") if isinstance(config["config"], Mapping) else None
    if outputs and isinstance(outputs[0], list) and len(outputs) > 1:
        raise no_mobilenetv1(path, f"it has {len(outputs)} outputs")
    users: dict[str, int] = {}
    for layer in layers:
        sources = list(dict.fromkeys(_sources(layer.get("inbound_nodes", []))))
        if len(sources) > 1:
            name = layer["config"].get("name", layer["class_name"])
            raise no_mobilenetv1(
                path, f"{name} ({layer['class_name']}) joins {' and '.join(sources)}, and a MobileNetV1 has no branches"
            )
        for source in sources:
            users[source] = users.get(source, 0) + 1
    if branching := [name for name, count in users.items() if count > 1]:
        raise no_mobilenetv1(path, f"what {branching[0]} gives is used {users[branching[0]]} times")
    for layer in layers:
        if "layers" in layer["config"]:
            yield from _flat(path, layer)
        else:
            yield layer


def _sources(nodes: Any) -> Iterator[str]:
    """The layers whose outputs a layer takes, in either form of ``inbound_nodes``."""
    if isinstance(nodes, Mapping):
        if "keras_history" in nodes:
            yield nodes["keras_history"][0]
        else:
            for value in nodes.values():
                yield from _sources(value)
    elif isinstance(nodes, list):
        if len(nodes) >= 3 and isinstance(nodes[0], str) and isinstance(nodes[1], int):
            yield nodes[0]
            yield from _sources(nodes[3:])
        else:
            for value in nodes:
                yield from _sources(value)


def graph(path: Path, config: Mapping[str, Any], weights: Weights, source: str) -> Found:
    """The network of a configuration in Keras's form and weights by layer name. Raises MnvError."""
    operations: list[Operation] = []
    size: int | None = None
    for layer in _flat(path, config):
        facts = layer["config"]
        shape = facts.get("batch_shape") or facts.get("batch_input_shape")
        if shape and size is None and len(shape) == 4:
            if shape[1] != shape[2]:
                raise no_mobilenetv1(
                    path, f"it takes pictures of {shape[1]}x{shape[2]} pixels, and they are square here"
                )
            size = shape[1]
        if facts.get("data_format", "channels_last") == "channels_first":
            raise MnvError(f"{path} has its channels first, which is not read here.", "Save it with channels last.")
        arrays = weights.get(facts.get("name", ""), [])
        given = _constant(layer.get("inbound_nodes"))
        arithmetic = _arithmetic(layer["class_name"], facts, given)
        operations += [arithmetic] if arithmetic else _operations(path, layer["class_name"], facts, arrays)
    return follow(path, source, operations, input_size=size)


def _constant(nodes: Any) -> Floats | None:
    """The number that an operator is given beside a layer's output, in either form of ``inbound_nodes``."""
    try:
        (node,) = nodes
        value = node["args"][1] if isinstance(node, Mapping) else node[3]["y"]
        if isinstance(value, Mapping):  # an array, or a number that knows its type
            value = value["config"]["value"]
        return np.asarray(value, np.float64).reshape(-1)
    except (KeyError, IndexError, TypeError, ValueError):
        return None


def _arithmetic(kind: str, facts: Mapping[str, Any], value: Floats | None) -> Affine | None:
    """What ``preprocess_input`` in a network becomes: Keras 2's operators of TensorFlow, and those of Keras 3."""
    function = str(facts.get("function")) if kind == "TFOpLambda" else kind
    operation = function.rpartition(".")[2].lower()
    if value is None or operation not in ("truediv", "truedivide", "divide", "multiply", "add", "subtract"):
        return None
    one, zero = np.ones_like(value), np.zeros_like(value)
    scale = value if operation == "multiply" else one if operation in ("add", "subtract") else 1 / value
    offset = value if operation == "add" else -value if operation == "subtract" else zero
    return Affine(facts.get("name", kind), scale, offset)


def _operations(path: Path, kind: str, facts: Mapping[str, Any], arrays: list[Array]) -> Iterator[Operation]:
    name = facts.get("name", kind)
    if kind in {"InputLayer", *_DROPPED, *_AUGMENTATIONS}:
        return
    if kind in ("Conv2D", "DepthwiseConv2D"):
        depthwise = kind == "DepthwiseConv2D"
        if list(facts.get("dilation_rate", [1, 1])) != [1, 1]:
            raise no_mobilenetv1(path, f"{name} is dilated")
        if facts.get("groups", 1) != 1:
            raise no_mobilenetv1(path, f"{name} has groups")
        kernel = arrays[0].transpose((2, 3, 0, 1) if depthwise else (3, 2, 0, 1))
        if depthwise:
            kernel = kernel.reshape(-1, 1, *kernel.shape[2:])
        stride = facts["strides"]
        if len(set(stride)) != 1:
            raise no_mobilenetv1(path, f"{name} has strides {stride}")
        pointwise = kernel.shape[2:] == (1, 1)
        yield Convolution(
            name,
            np.ascontiguousarray(kernel, np.float32),
            depthwise,
            arrays[1] if facts["use_bias"] else None,
            stride=stride[0],
            padding="same" if facts["padding"] == "same" and not pointwise else (0, 0, 0, 0),
        )
        yield from _activation(name, facts)
    elif kind in ("BatchNormalization", "BatchNormalizationV1", "FusedBatchNorm"):
        if facts.get("axis") not in (-1, 3, [3], [-1], None):
            raise no_mobilenetv1(path, f"{name} normalises another axis than the channels")
        rest = list(arrays)
        gamma = rest.pop(0) if facts["scale"] else None
        beta = rest.pop(0) if facts["center"] else None
        mean, variance = rest
        yield Normed(name, Norm(mean, variance, gamma, beta, facts["epsilon"]))
    elif kind == "Activation":
        yield from _activation(name, facts)
    elif kind in ("ReLU", "LeakyReLU", "PReLU"):
        yield Activation(name, _rectifier(kind, facts))
    elif kind == "Softmax":
        yield Softmax(name)
    elif kind == "ZeroPadding2D":
        (top, bottom), (left, right) = (p if isinstance(p, list) else [p, p] for p in _pair(facts["padding"]))
        yield Pad(name, (top, left, bottom, right))
    elif kind == "GlobalAveragePooling2D":
        yield Pool(name)
    elif kind == "AveragePooling2D":
        yield Pool(name, _pair(facts["pool_size"])[0])
    elif kind == "Dense":
        yield Linear(name, arrays[0].T.astype(np.float32), arrays[1] if facts["use_bias"] else None)
        yield from _activation(name, facts)
    elif kind == "Rescaling":
        yield Affine(name, np.asarray(facts["scale"], np.float64), np.asarray(facts["offset"], np.float64))
    elif kind == "Normalization":
        given = [facts.get("mean"), facts.get("variance")]
        mean, variance = (np.asarray(v, np.float64) for v in (given if given[0] is not None else arrays[:2]))
        yield Normed(name, Norm(mean.reshape(-1), variance.reshape(-1), epsilon=0.0))
    else:
        raise no_mobilenetv1(path, f"it has a layer of the kind {kind} ({name})")


def _pair(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value, value]


def _rectifier(kind: str, facts: Mapping[str, Any]) -> str:
    slope = facts.get("negative_slope", facts.get("alpha", 0.0)) or 0.0
    if kind == "PReLU":
        return "PReLU"
    if kind == "LeakyReLU" or slope:
        return f"LeakyReLU ({slope:g})"
    if facts.get("threshold"):
        return f"a ReLU from {facts['threshold']:g} up"
    top = facts.get("max_value")
    return "relu" if top is None else "relu6" if top == 6 else f"a ReLU that ends at {top:g}"


def _activation(name: str, facts: Mapping[str, Any]) -> Iterator[Operation]:
    function = facts.get("activation") or "linear"
    if isinstance(function, Mapping):  # an object, or a function that was registered
        inner = function.get("config")
        if isinstance(inner, Mapping):
            yield Activation(name, _rectifier(function.get("class_name", "?"), inner))
            return
        function = inner or function.get("class_name", "?")
    if function in ("softmax", "sigmoid"):
        yield Softmax(name, "softmax" if function == "softmax" else "sigmoid")
    elif function != "linear":
        yield Activation(name, _FUNCTIONS.get(function, function))
