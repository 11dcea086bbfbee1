"""Where the generated C keeps its activations: one scratch buffer for the whole network, from a spec alone.

Activations are uint8 NHWC, channels padded to LANES. A block (3x3 depthwise, then 1x1) is run a few rows at a time:
the depthwise convolution's rows go to a small buffer that the pointwise convolution reads at once. What a block gives
overwrites what it has read: its output starts as far below its input as its growing rows need.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from mnv1deploy.spec import Layer, ModelSpec

LANES = 16
"""Channels of a vector register's int32 accumulators in AVX-512; every other back end divides it."""

ROWS_BYTES = (4096, 3072, 2048, 1024, 0)
"""What the rows between two fused convolutions may take as bytes, at least one row whatever it takes.

The first is a fraction of the smallest first-level cache. The others are slower, for every few rows the weights are
read again, and leave more RAM to others.
"""


PACKED_PIXELS, PACKED_BYTES = 4, 2
"""How kernels/cortex_m_dsp.c keeps what is between two fused convolutions: pixels by the four, values of two bytes."""

CACHE_LINE = 64
"""In bytes."""

ALIGNMENT = 8
"""Of those values, whatever the scratch's."""


def buffer_bytes(pixels: int, inputs: int) -> int:
    """What the buffer between two fused convolutions takes at most, in whatever order a back end keeps it.

    All back ends have the same scratch: a size that depended on the compiler's options would be too small where the
    application is compiled with others than the network. The most is what the packed order needs, and room behind it
    for two outputs' weights of the 1x1 convolution, in two bytes each as well.

    Args:
        pixels: of the rows at a time.
        inputs: of the 1x1 convolution, padded.
    """
    packed = -(-pixels // PACKED_PIXELS) * PACKED_PIXELS * inputs * PACKED_BYTES
    return ALIGNMENT + packed + 2 * inputs * PACKED_BYTES


@dataclass(frozen=True)
class Fusion:
    """Where two operations that run together have their data: patches or depthwise rows, then a 1x1 convolution.

    Attributes:
        name: "stem", "block1", ...
        rows: output rows at a time.
        rows_bytes: of the buffer between the two, see :func:`buffer_bytes`.
        input, output: offsets into the scratch in bytes; the stem's input is the picture itself, -1.
        input_bytes, output_bytes: of the whole tensors.
    """

    name: str
    rows: int
    rows_bytes: int
    input: int
    output: int
    input_bytes: int
    output_bytes: int


@dataclass(frozen=True)
class Plan:
    """The whole scratch: tensors from 0, then the buffer of rows, which also holds the pooled features.

    Attributes:
        fusions: in order.
        rows_at: offset of the buffer of rows.
        scratch: bytes in all.
    """

    fusions: tuple[Fusion, ...]
    rows_at: int
    scratch: int

    @property
    def parallel(self) -> int:
        """Bytes of the activations where rows of a fusion run at the same time: what it reads, and what it gives."""
        read = (fusion.input_bytes if fusion.input >= 0 else 0 for fusion in self.fusions)
        given = (fusion.output_bytes for fusion in self.fusions)
        return max(_lines(a) + _lines(b) for a, b in zip(read, given, strict=True))

    @property
    def worker(self) -> int:
        """Bytes of each worker's own buffer of rows."""
        return _lines(self.scratch - self.rows_at)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def _lines(size: int) -> int:
    """Whole lines of a cache, in bytes."""
    return -(-size // CACHE_LINE) * CACHE_LINE


def padded(channels: int) -> int:
    """Channels as they are stored: the next multiple of LANES."""
    return -(-channels // LANES) * LANES


def inputs(layer: Layer) -> int:
    """What one output of a layer reads of one place: its channels, or the whole patch of the convolution on pixels."""
    return layer.in_channels * (layer.kernel**2 if layer.kind == "conv" else 1)


@dataclass(frozen=True)
class Footprint:
    """What a network takes of a microcontroller, in bytes, but for its instructions and the picture.

    Attributes:
        flash: weights, biases and factors, which are constant.
        ram: the scratch.
    """

    flash: int
    ram: int


def footprint(spec: ModelSpec, scratch: int | None = None) -> Footprint:
    """Of a spec's network, as :func:`mnv1deploy.c.generate.write` writes it; with another plan's ``scratch``."""
    flash = 0
    for layer in spec.layers():
        if layer.kind != "pool":
            # a zero after each column of three weights; inputs in groups of four; a bias and a factor
            weights = 4 * layer.kernel if layer.kind == "depthwise" else -(-inputs(layer) // 4) * 4
            flash += padded(layer.out_channels) * (weights + 8)
    return Footprint(flash, plan(spec).scratch if scratch is None else scratch)


def fused(spec: ModelSpec) -> Iterator[tuple[str, Layer | None, Layer]]:
    """(name, depthwise layer, 1x1 layer) of every fusion; the stem is a 1x1 layer over patches."""
    depthwise = None
    for layer in spec.layers():
        if layer.kind == "depthwise":
            depthwise = layer
        elif layer.is_convolution:
            yield layer.name.partition(".")[0], depthwise, layer
            depthwise = None


def plans(spec: ModelSpec) -> Iterator[Plan]:
    """The buffers of a spec's network, the fastest plan first; each later one has a smaller scratch."""
    smallest = None
    for rows_bytes in ROWS_BYTES:
        found = plan(spec, rows_bytes)
        if smallest is None or found.scratch < smallest:
            smallest = found.scratch
            yield found


def plan(spec: ModelSpec, rows_bytes: int = ROWS_BYTES[0]) -> Plan:
    """The buffers of a spec's network, with rows between fused convolutions that take ``rows_bytes`` as bytes."""
    offset = pooled = 0
    found = []
    for name, depthwise, layer in fused(spec):
        row = layer.out_size * padded(inputs(layer))
        at_once = min(max(1, rows_bytes // row), layer.out_size)
        output_row = layer.out_size * padded(layer.out_channels)
        start, input_bytes = -1, spec.input_size**2 * spec.colours
        if depthwise:
            # output rows up to y may end where the first input row that row y + 1 still reads begins
            input_row = depthwise.in_size * padded(depthwise.in_channels)
            top, _, _, _ = depthwise.padding
            ends = range(at_once, layer.out_size, at_once)
            start, input_bytes = offset, depthwise.in_size * input_row
            offset -= max((y * output_row - (depthwise.stride * y - top) * input_row for y in ends), default=0)
            offset = min(offset, start)
        between = buffer_bytes(at_once * layer.out_size, padded(inputs(layer)))
        found.append(Fusion(name, at_once, between, start, offset, input_bytes, layer.out_size * output_row))
        pooled = padded(layer.out_channels)
    # the last one's output is the lowest
    moved = (replace(f, input=-1 if f.name == "stem" else f.input - offset, output=f.output - offset) for f in found)
    fusions = tuple(moved)
    rows_at = _lines(max(f.output + f.output_bytes for f in fusions))
    return Plan(fusions, rows_at, rows_at + max(pooled, *(f.rows_bytes for f in fusions)))
