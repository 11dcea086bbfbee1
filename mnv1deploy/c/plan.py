"""Where the generated C keeps its activations: one scratch buffer for the whole network, from a spec alone.

Activations are uint8 NHWC, channels padded to LANES. A block (3x3 depthwise, then 1x1) is run a few rows at a time:
the depthwise convolution's rows go to a small buffer that the pointwise convolution reads at once. What a block gives
overwrites what it has read: its output starts as far below its input as its growing rows need.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from mnv1deploy.spec import Layer, ModelSpec

LANES = 16
"""Channels of a vector register's int32 accumulators in AVX-512; every other back end divides it."""

PATCH = 32
"""Bytes from one patch of 3x3x3 pixels, which one output of the stem reads, to the next."""

ROWS_BYTES = 4096
"""What the buffer of rows between two fused convolutions may take: a fraction of the smallest first-level cache."""


@dataclass(frozen=True)
class Step:
    """One fused pair: patches or depthwise rows, then a pointwise convolution over them.

    Attributes:
        name: "stem", "block1", ...
        rows: output rows at a time.
        rows_bytes: of the buffer between the two.
        input, output: offsets into the scratch in bytes; the stem's input is the image itself, -1.
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
        steps: in order.
        rows_at: offset of the buffer of rows.
        scratch: bytes in all.
    """

    steps: tuple[Step, ...]
    rows_at: int
    scratch: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def padded(channels: int) -> int:
    """Channels as they are stored: the next multiple of LANES."""
    return -(-channels // LANES) * LANES


def pairs(spec: ModelSpec) -> list[tuple[str, Layer | None, Layer]]:
    """(name, depthwise layer, pointwise layer) of every step; the stem is a pointwise layer over patches."""
    stem, *layers = [layer for layer in spec.layers() if layer.kind not in ("pool", "linear")]
    blocks = zip(layers[::2], layers[1::2], strict=True)
    return [("stem", None, stem), *((first.name.partition(".")[0], first, second) for first, second in blocks)]


def plan(spec: ModelSpec) -> Plan:
    """The buffers of a spec's network."""
    offset = 0
    rows = []
    for name, depthwise, layer in pairs(spec):
        row = layer.out_size * (padded(depthwise.out_channels) if depthwise else PATCH)
        at_once = min(max(1, ROWS_BYTES // row), layer.out_size)
        output_row = layer.out_size * padded(layer.out_channels)
        start = offset
        if depthwise:
            # output rows up to y may end where the input row before those that row y + 1 still reads begins
            input_row = depthwise.in_size * padded(depthwise.in_channels)
            ends = range(at_once, layer.out_size, at_once)
            offset -= max((y * output_row - (depthwise.stride * y - 1) * input_row for y in ends), default=0)
            offset = min(offset, start)
            input_bytes = depthwise.in_size * input_row
        else:
            input_bytes = spec.input_size**2 * 3
        rows.append((name, at_once, at_once * row, start, offset, input_bytes, layer.out_size * output_row))
    steps = tuple(
        Step(name, at_once, size, before - offset if name != "stem" else -1, after - offset, *tensors)
        for name, at_once, size, before, after, *tensors in rows
    )
    rows_at = -(-max(step.output + step.output_bytes for step in steps) // 64) * 64  # a cache line
    pooled = padded(pairs(spec)[-1][2].out_channels)
    return Plan(steps, rows_at, rows_at + max(pooled, *(step.rows_bytes for step in steps)))
