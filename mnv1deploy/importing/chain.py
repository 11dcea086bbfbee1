"""A graph's operators, one after the other -> Found: what stands between convolutions is read into them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from mnv1deploy.errors import MnvError
from mnv1deploy.importing.found import Convolution, Floats, Found, Norm, check_order, no_mobilenetv1
from mnv1deploy.spec import Normalization, Padding

End = Literal["softmax", "sigmoid", "arg max"]

_BELOW = "a limit of 6"
"""Half a ReLU6, whose other half is a ReLU."""


@dataclass(frozen=True)
class Affine:
    """``x * scale + offset``, each of one value or one per channel."""

    name: str
    scale: Floats
    offset: Floats


@dataclass(frozen=True)
class Pad:
    """Zeros around the picture: top, left, bottom, right."""

    name: str
    amount: Padding


@dataclass(frozen=True)
class Activation:
    """A function of every value: "relu", "relu6", "none", or any other by its name."""

    name: str
    function: str


@dataclass(frozen=True)
class Pool:
    """An average over the whole picture, or over windows of ``kernel`` x ``kernel``.

    ``is_half`` is for one over rows or columns alone, of which two make a whole.
    """

    name: str
    kernel: int | None = None
    is_half: bool = False


@dataclass(frozen=True)
class Linear:
    """A layer on vectors; weight ``[out, in]``."""

    name: str
    weight: Floats
    bias: Floats | None


@dataclass(frozen=True)
class Softmax:
    """What follows the logits: it makes probabilities of them, or chooses the largest."""

    name: str
    function: End = "softmax"


@dataclass(frozen=True)
class Normed:
    """A batch normalisation on its own."""

    name: str
    norm: Norm


Operation = Affine | Pad | Activation | Pool | Linear | Softmax | Normed | Convolution


def follow(
    path: Path,
    source: str,
    operations: Sequence[Operation],
    *,
    input_size: int | None,
    normalization: Normalization | None = None,
    classes: tuple[str, ...] | None = None,
    notes: tuple[str, ...] = (),
    quantized: bool = False,
    half: bool = False,
) -> Found:
    """The network of operations that follow each other; ``normalization`` is of what the graph itself does not compute.

    Raises:
        MnvError: if it is not a MobileNetV1.
    """
    convolutions: list[Convolution] = []
    linear: Linear | None = None
    affine: Affine | None = None
    padding: Padding | None = None
    pool: Pool | None = None
    ended = False
    said = list(notes)
    for operation in operations:
        if padding and not isinstance(operation, Convolution):
            raise no_mobilenetv1(path, f"after the padding {operation.name} there is no convolution")
        if isinstance(operation, Softmax):
            ended = True
            said.append(f"{operation.function} at the end is left out: it does not change which class is the largest.")
        elif ended:
            raise no_mobilenetv1(path, f"{operation.name} follows what makes probabilities of the logits")
        elif isinstance(operation, Pad):
            padding = operation.amount
        elif isinstance(operation, Pool):
            if pool and pool.is_half and operation.is_half:
                operation = Pool(operation.name)
            elif not convolutions or pool:
                raise no_mobilenetv1(path, f"{operation.name} pools where a MobileNetV1 does not")
            pool = operation
        elif isinstance(operation, Linear):
            if linear is not None:
                raise no_mobilenetv1(path, f"it has two linear layers, {linear.name} and {operation.name}")
            linear = operation
        elif isinstance(operation, Convolution):
            if padding:
                if operation.padding != (0, 0, 0, 0):
                    raise no_mobilenetv1(path, f"{operation.name} is padded twice")
                operation, padding = replace(operation, padding=padding), None
            if pool:
                if operation.kernel != (1, 1) or operation.depthwise or linear is not None:
                    raise no_mobilenetv1(path, f"{operation.name} convolves after the pooling")
                if operation.activation not in (None, "none"):
                    raise no_mobilenetv1(
                        path, f"{operation.name} after the pooling is followed by {operation.activation}"
                    )
                linear = Linear(operation.name, operation.weight[:, :, 0, 0], operation.bias)
            else:
                if convolutions and convolutions[-1].activation is None:
                    convolutions[-1] = replace(convolutions[-1], activation="none")
                convolutions.append(operation)
        elif not convolutions:
            if isinstance(operation, Affine):
                affine = _after(affine, operation)
            elif isinstance(operation, Normed):
                affine = _after(affine, _as_affine(operation))
            elif operation.function != "none":
                raise no_mobilenetv1(path, f"{operation.name} applies {operation.function} to the pixels")
        elif pool:
            if isinstance(operation, Activation) and operation.function == "none":
                continue
            raise no_mobilenetv1(path, f"{operation.name} stands after the pooling")
        else:
            convolutions[-1] = _then(path, convolutions[-1], operation)
    if linear is None:
        raise no_mobilenetv1(path, "no classifier follows its convolutions", "Export the whole network, not its body.")
    if not pool or pool.is_half:
        raise no_mobilenetv1(path, "it does not average over the picture before the classifier")
    if convolutions and convolutions[-1].activation is None:
        convolutions[-1] = replace(convolutions[-1], activation="none")
    check_order(path, convolutions)
    weight = np.asarray(linear.weight, np.float32)
    if weight.shape[1] != convolutions[-1].out_channels:
        raise no_mobilenetv1(path, f"{linear.name} takes {weight.shape[1]} values, not one per channel")
    colours = convolutions[0].weight.shape[1]
    read, takes = _read_normalization(affine, normalization, colours)
    return Found(
        source,
        tuple(convolutions),
        weight,
        np.zeros(len(weight), np.float32) if linear.bias is None else linear.bias,
        input_size,
        read,
        classes,
        (*(c.name for c in convolutions), linear.name),
        tuple(said),
        quantized,
        half,
        takes,
        pool.kernel,
    )


def _then(path: Path, before: Convolution, operation: Affine | Normed | Activation) -> Convolution:
    """A convolution and what follows it."""
    if isinstance(operation, Activation):
        if before.activation not in (None, "none") and operation.function != "none":
            if {before.activation, operation.function} in ({"relu", "relu6"}, {"relu", _BELOW}):
                return replace(before, activation="relu6")
            raise no_mobilenetv1(path, f"{operation.name} applies {operation.function} after {before.activation}")
        return replace(before, activation=operation.function if operation.function != "none" else before.activation)
    if before.activation is not None:
        raise no_mobilenetv1(
            path, f"{operation.name} stands after an activation, where a MobileNetV1 has a convolution"
        )
    if isinstance(operation, Affine):
        if before.norm is not None:  # Caffe's Scale follows a normalisation without one
            return replace(before, norm=_scaled(before.norm, operation))
        ones = np.ones(before.out_channels, np.float32)
        operation = Normed(operation.name, Norm(0 * ones, ones, operation.scale * ones, operation.offset * ones, 0.0))
    if before.norm is not None:
        raise no_mobilenetv1(path, f"{operation.name} normalises {before.name} a second time")
    return replace(before, norm=operation.norm)


def _scaled(norm: Norm, operation: Affine) -> Norm:
    """A normalisation and what multiplies and adds to its result, as one."""
    gamma = (1.0 if norm.gamma is None else norm.gamma) * operation.scale
    beta = (0.0 if norm.beta is None else norm.beta) * operation.scale + operation.offset
    ones = np.ones_like(norm.mean)
    return replace(norm, gamma=(ones * gamma).astype(np.float32), beta=(ones * beta).astype(np.float32))


def limit(name: str, is_lowest: bool, value: Floats) -> Activation:
    """A lowest or a largest value, of which tools make a ReLU or a ReLU6."""
    number = float(value.reshape(-1)[0])
    known = {(True, 0.0): "relu", (False, 6.0): _BELOW}
    if value.size == 1 and (is_lowest, number) in known:
        return Activation(name, known[is_lowest, number])
    return Activation(name, f"a limit of {number:g}")


def _as_affine(operation: Normed) -> Affine:
    norm = operation.norm
    scale = (1.0 if norm.gamma is None else norm.gamma) / np.sqrt(norm.variance + (norm.epsilon or 0.0))
    offset = (0.0 if norm.beta is None else norm.beta) - norm.mean * scale
    return Affine(operation.name, np.asarray(scale, np.float64), np.asarray(offset, np.float64))


def _after(first: Affine | None, second: Affine) -> Affine:
    if first is None:
        return second
    scale = np.asarray(first.scale, np.float64) * second.scale
    return Affine(second.name, scale, np.asarray(first.offset, np.float64) * second.scale + second.offset)


def _read_normalization(
    affine: Affine | None, outside: Normalization | None, colours: int
) -> tuple[Normalization | None, Normalization | None]:
    """Of raw pixels, from what the graph computes first and what its input is said to be; and how they become that."""
    if affine is None:
        return outside, None
    scale = np.broadcast_to(np.asarray(affine.scale, np.float64).reshape(-1), colours)
    offset = np.broadcast_to(np.asarray(affine.offset, np.float64).reshape(-1), colours)
    if (scale <= 0).any():
        raise MnvError("The graph turns its pixels into their negatives first, which no normalisation here does.")
    mean, std = -offset / scale, 1 / scale
    if outside is None:  # no picture in 0..255 has a deviation of 2: those are pixels in 0..1
        outside = Normalization((0.0,) * colours, ((255.0 if std.max() <= 2 else 1.0),) * colours)
    # pixels become (p - m) / s before the graph sees them
    mean, std = mean * outside.std + outside.mean, std * outside.std
    return Normalization(tuple(mean.tolist()), tuple(std.tolist())), outside
