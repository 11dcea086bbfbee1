"""Writes the int8 network as C: kernels are the files in ``kernels``, weights and tables come from here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv1deploy.artifact import Provenance
from mnv1deploy.c import KERNELS, TEMPLATES, backends, frames, packages
from mnv1deploy.c.arrays import array
from mnv1deploy.c.fitting import fitting_plan
from mnv1deploy.c.names import identifier
from mnv1deploy.c.plan import LANES, Plan, footprint, fused, inputs, padded
from mnv1deploy.c.weights import NO_BLOB, Blob
from mnv1deploy.device import ANY_DEVICE, Device
from mnv1deploy.errors import MnvError
from mnv1deploy.quantization import INPUT, PAIR, Quantization
from mnv1deploy.spec import Layer, ModelSpec

FILES = {
    "network.h": "$name.h",
    "network.c": "$name.c",
    "example.c": "example.c",
    "Makefile": "Makefile",
    "README.md": "README.md",
}
"""Templates, and what the files made of them are called."""


@dataclass(frozen=True)
class Integers:
    """What one layer computes with, in the order of the kernels (kernels/shared.c).

    Attributes:
        layer: whose.
        weights: int8, packed, flat.
        biases: int32, the input's zero point folded in; one per output, padded.
        factors: float32, what sums are multiplied by; one per output, padded.
        largest: what no sum exceeds.
        sizes: what no sum exceeds in size; one per output, padded.
    """

    layer: Layer
    weights: NDArray[np.int8]
    biases: NDArray[np.int32]
    factors: NDArray[np.float32]
    largest: int
    sizes: NDArray[np.int64]


def write(folder: Path, quantization: Quantization, provenance: Provenance, device: Device = ANY_DEVICE) -> None:
    """Writes the C files of a quantised network, and its provenance, into ``folder``, for one device or for any.

    Args:
        folder: where to.
        quantization: the integers.
        provenance: whose spec and name it has.
        device: what it brings besides, and the form of its weights.

    Raises:
        MnvError: for integers that the kernels would not compute exactly, and a device that the network does not fit.
    """
    spec = provenance.spec
    buffers = fitting_plan(spec, device)
    layers = [_integers(layer, quantization, source) for layer, source in _with_sources(spec)]
    blob = Blob.of([integers.weights for integers in layers]) if device.weights == "binary" else None
    values = _values(spec, buffers, layers, quantization, provenance, blob)
    folder.mkdir(parents=True, exist_ok=True)
    if device.camera:
        values["README_camera"] = frames.write(folder, device.camera, spec, str(values["title"]), buffers.scratch)
    values["README_libraries"] = "" if blob else packages.README_LIBRARIES
    if blob:
        (folder / f"{values['name']}.bin").write_bytes(blob.data)
    for template, name in FILES.items():
        text = Template((TEMPLATES / template).read_text("utf-8")).substitute(values)
        (folder / Template(name).substitute(values)).write_text(text, "utf-8", newline="\n")
    packages.write(folder, quantization, values, camera=device.camera is not None, blob=blob is not None)
    provenance.write(folder)


def _with_sources(spec: ModelSpec) -> Iterator[tuple[Layer, str]]:
    """Layers with weights, each with the name of the activation it reads."""
    source = INPUT
    for layer in spec.layers():
        if layer.kind != "pool":
            yield layer, source
        source = layer.name


def _integers(layer: Layer, quantization: Quantization, source: str) -> Integers:
    weights, grid = quantization.weights[layer.name], quantization.activations[source]
    outputs = padded(layer.out_channels)
    values = weights.values.astype(np.int64)
    if layer.kind == "conv":  # [outputs, colour, row, column] -> as patches are: row, column, colour
        values = values.transpose(0, 2, 3, 1)
    matrix = values.reshape(layer.out_channels, -1)
    biases = weights.bias - grid.zero_point * matrix.sum(1)
    # float32 at every step, in onnxruntime's order
    factors = np.float32(grid.scale) * weights.scales
    if layer.kind != "linear":
        output = quantization.activations[layer.name]
        assert output.zero_point == 0, "a ReLU's range starts at zero"
        factors = factors / np.float32(output.scale)
    largest = np.abs(matrix).sum(1) * 255 + np.abs(biases)
    if (np.maximum(largest * factors, largest) >= 2**31).any():
        raise MnvError(f"A sum of {layer.name}, or what it is scaled to, does not fit 32 bits.")
    if (_pair_sums(matrix) > PAIR).any():
        raise MnvError(f"Neighbouring weights of {layer.name} could overflow 16 bits.", "Quantize the network again.")
    packed = _pack_depthwise(matrix) if layer.kind == "depthwise" else _pack_pointwise(matrix)
    rest = outputs - layer.out_channels
    return Integers(
        layer,
        packed,
        np.pad(biases, (0, rest)).astype(np.int32),
        np.pad(factors, (0, rest)).astype(np.float32),
        int((matrix.clip(0).sum(1) * 255 + biases).max()),
        np.pad(largest, (0, rest)),
    )


def _pair_sums(matrix: NDArray[Any]) -> NDArray[Any]:
    """What inputs 2i and 2i + 1 weigh together, which AVX2 and, of depthwise columns, Helium add up in 16 bits."""
    sums: NDArray[Any] = np.add.reduceat(np.abs(matrix), np.arange(0, matrix.shape[1], 2), axis=1)
    return sums


def _pack_depthwise(matrix: NDArray[Any]) -> NDArray[np.int8]:
    """``[channels, 9]`` -> ``[channels / 16, column, 16, row and a zero]``, flat."""
    channels = padded(len(matrix))
    full = np.zeros((channels, 4, 3), np.int8)
    full[: len(matrix), :3] = matrix.reshape(-1, 3, 3)
    return full.reshape(-1, LANES, 4, 3).transpose(0, 3, 1, 2).ravel()


def _pack_pointwise(matrix: NDArray[Any]) -> NDArray[np.int8]:
    """``[outputs, inputs]`` -> ``[outputs / 16, inputs / 4, 16, 4]``, flat."""
    outputs, inputs = matrix.shape
    full = np.zeros((padded(outputs), -(-inputs // 4) * 4), np.int8)
    full[:outputs, :inputs] = matrix
    return full.reshape(-1, LANES, full.shape[1] // 4, 4).transpose(0, 2, 1, 3).ravel()


def _values(
    spec: ModelSpec,
    buffers: Plan,
    layers: list[Integers],
    quantization: Quantization,
    provenance: Provenance,
    blob: Blob | None,
) -> dict[str, object]:
    """What the templates' placeholders stand for."""
    name = identifier(spec.name)
    source, scale = quantization.activations[INPUT], np.float32(quantization.activations["pool"].scale)
    pool = next(layer for layer in spec.layers() if layer.kind == "pool")
    pool_factor = scale / (scale * np.float32(pool.kernel**2))
    convolutions = [integers for integers in layers if integers.layer.kind != "linear"]
    rgb = spec.colours == 3
    return {
        "name": name,
        "NAME": name.upper(),
        "title": f"{re.sub('[^A-Za-z0-9_. -]', '_', spec.name)}, int8",  # it stands in comments
        "checkpoint": provenance.checkpoint_sha256,
        "plan": "\n".join(_plan_lines(buffers)),
        "size": spec.input_size,
        "colours": spec.colours,
        "colour_names": "RGB" if rgb else "grey",
        "ppm": "PPM (P6)" if rgb else "PGM (P5)",
        "magic": "P6" if rgb else "P5",
        "picture": "picture.ppm" if rgb else "picture.pgm",
        "classes": len(spec.classes),
        "class_names": "\n".join(f"    {_string(name)}," for name in spec.classes),
        "scratch": buffers.scratch,
        "temperature": repr(spec.temperature),
        "rows_at": buffers.rows_at,
        "fusions_count": len(buffers.fusions),
        "parallel_scratch": buffers.parallel,
        "worker_scratch": buffers.worker,
        "padding": source.zero_point,
        "pool_factor": _float(pool_factor),
        "tie_window": _tie_window(convolutions, pool.kernel**2),
        "sums_fit": int(all(integers.largest < 2**23 for integers in convolutions)),
        "scaled_fit": int(all((integers.sizes * integers.factors < 2**22).all() for integers in convolutions)),
        "enum": backends.enum(name),
        "table": backends.dispatch(),
        "backends": backends.table(),
        "kernels": "".join((KERNELS / f"{file}.c").read_text("utf-8") for file in ("shared", *backends.NAMES)),
        "arrays": "\n".join(line for integers in layers for line in _arrays(integers, blob)),
        "layers": "\n".join(_layer_rows(layers, blob)),
        "fusions": "\n".join(_fusion_rows(spec, buffers)),
        "weights": footprint(spec).flash,
        "README_camera": "",
        **(blob.values(name) if blob else NO_BLOB),
    }


def _tie_window(convolutions: list[Integers], pooled: int) -> int:
    """TIE_WINDOW of kernels/portable.c; ``pooled`` is the number of pixels that are averaged.

    Of a product between 0 and 256 the multiplier, rounded down, makes less than the sum's size in units of 2^-32;
    float32 rounds the sum and the product, each by half of 2^-23 of it.
    """
    reached = 255.0 * pooled
    for integers in convolutions:
        factors = integers.factors.astype(np.float64)
        small = (factors > 0) & (factors < 0.5)
        reached = max(reached, *np.minimum(integers.sizes[small], 256 / factors[small]), 0.0)
    return int(reached + 256 * 2.0**-23 * 2.0**32) + 2


def _plan_lines(buffers: Plan) -> Iterator[str]:
    yield " *   fusion     rows at a time     reads                writes"
    for fusion in buffers.fusions:
        source = "the picture" if fusion.input < 0 else f"{fusion.input} .. {fusion.input + fusion.input_bytes}"
        target = f"{fusion.output} .. {fusion.output + fusion.output_bytes}"
        yield f" *   {fusion.name:<10} {fusion.rows:>4} ({fusion.rows_bytes:>5} bytes)  {source:<20} {target}"
    yield f" *   rows between the two operations of a fusion: {buffers.rows_at} .. {buffers.scratch}"


def _arrays(integers: Integers, blob: Blob | None) -> Iterator[str]:
    layer, name = integers.layer, _identifier(integers.layer)
    yield f"/* {layer.name} */"
    if not blob:
        yield from array("int8_t", f"{name}_weights", integers.weights.tolist())
    yield from array("int32_t", f"{name}_biases", integers.biases.tolist())
    yield from array("float", f"{name}_factors", [_float(value) for value in integers.factors], per_line=8)


def _layer_rows(layers: list[Integers], blob: Blob | None) -> Iterator[str]:
    for number, integers in enumerate(layers):
        layer = integers.layer
        name, (top, left, _, _) = _identifier(layer), layer.padding
        sizes = f"{layer.in_size}, {layer.out_size}, {layer.stride}, {top}, {left}"
        weights = f"WEIGHTS({blob.offsets[number]})" if blob else f"{name}_weights"
        arrays = f"{weights}, {name}_biases, {name}_factors"
        yield f'    {{"{layer.name}", {sizes}, {inputs(layer)}, {layer.out_channels}, {arrays}}},'


def _fusion_rows(spec: ModelSpec, buffers: Plan) -> Iterator[str]:
    index = {layer.name: number for number, (layer, _) in enumerate(_with_sources(spec))}
    for fusion, (_, depthwise, pointwise) in zip(buffers.fusions, fused(spec), strict=True):
        first = f"&layers[{index[depthwise.name]}]" if depthwise else "NULL"
        both = f"{first}, &layers[{index[pointwise.name]}]"
        yield f"    {{{both}, {fusion.input}, {fusion.output}, {fusion.rows}}}, /* {fusion.name} */"


def _identifier(layer: Layer) -> str:
    return layer.name.replace(".", "_")


def _float(value: np.float32) -> str:
    """The shortest literal of exactly this float, in C and in C++, which got hexadecimal ones late."""
    return f"{value!s}f"


def _string(text: str) -> str:
    """A C literal of UTF-8 bytes; octal escapes, which unlike hexadecimal ones end after three digits."""
    return (
        '"' + "".join(chr(b) if 32 <= b < 127 and chr(b) not in '"\\?' else f"\\{b:03o}" for b in text.encode()) + '"'
    )
