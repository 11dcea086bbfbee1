"""The bundled checkpoints by width, beside other networks for CIFAR-10: bytes, multiply-adds, latency, top-1.

    python scripts/ladder.py pretrainedResnet_quant.tflite

The file is MLPerf Tiny's, see scripts/mlperf_tiny.py. scripts/measure.py keeps the rows and draws docs/ladder-*.svg.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mlperf_tiny
import numpy as np
from artifacts_picture import THEMES, Theme
from figures import ROOT, Run, Runs

from mnv1deploy import benchmark, bundled, datasets, exporting
from mnv1deploy.artifact import Manifest
from mnv1deploy.cost import cost

RESNET_20 = {"network": "ResNet-20 (arXiv 1512.03385)", "bytes": 270_000, "multiply_adds": 40_800_000, "top1": 0.9125}
"""Of the paper's table 6, a byte a parameter; the multiply-adds follow from its layers. Nobody's file was run."""

RESNET_8 = "MLPerf Tiny's ResNet-8"
RESNET_8_MULTIPLY_ADDS = 12_501_632
"""Of the convolutions and the linear layer in the file."""


def rows(reference: Path) -> Iterator[Run]:
    """A row per network: bytes of its int8 file, multiply-adds, p50 in microseconds on one thread, int8 top-1."""
    with tempfile.TemporaryDirectory() as folder:
        sources = [
            exporting.export("c", "int8", checkpoint_path=path, output=folder)[0].path
            for path in bundled.CHECKPOINTS.values()
        ]
        timed = benchmark.bench(sources, threads=[1], duration=2)
    for name, result in zip(bundled.CHECKPOINTS, timed, strict=True):
        int8 = bundled.artifact(name)
        manifest = Manifest.read(int8)
        assert manifest and manifest.proof and manifest.proof.accuracy and manifest.proof.checkpoint_accuracy
        spent = cost(manifest.provenance.spec)
        yield {
            "network": name,
            "bytes": int8.stat().st_size,
            "multiply_adds": spent.multiply_adds,
            "p50": 1000 * result.p50,
            "top1": manifest.proof.accuracy.top1,
            "parameters": spent.parameters,
            "checkpoint": manifest.proof.checkpoint_accuracy.top1,
        }
    data, answer = datasets.cifar10("test"), mlperf_tiny.reference(reference)
    right = np.concatenate([answer(part) for part in np.array_split(data.images, 40)]).argmax(1) == data.labels
    yield {
        "network": RESNET_8,
        "bytes": reference.stat().st_size,
        "multiply_adds": RESNET_8_MULTIPLY_ADDS,
        "p50": 1e6 * _median(lambda: answer(data.images[:1])),
        "top1": float(right.mean()),
    }
    yield {**RESNET_20, "p50": None}


def _median(call: Callable[[], Any], seconds: float = 2.0) -> float:
    times: list[float] = []
    while sum(times) < seconds:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return float(np.median(times))


# ---- The picture

AXES = (("bytes", "bytes of the int8 file"), ("multiply_adds", "multiply-adds"), ("p50", "microseconds, one thread"))
WIDTH, HEIGHT, LEFT, GAP, TOP, BOTTOM = 860, 330, 60, 24, 24, 60
LOWEST, HIGHEST = 0.84, 0.94


def pictures(runs: Runs) -> dict[str, str]:
    """SVG by path; none where nothing was measured."""
    if "ladder" not in runs:
        return {}
    found = runs["ladder"][0]["results"]
    return {
        str(ROOT / "docs" / path.name.replace("artifacts", "ladder")): "\n".join(_lines(found, theme)) + "\n"
        for path, theme in THEMES.items()
    }


def _lines(found: Sequence[Run], theme: Theme) -> Iterator[str]:
    side = (WIDTH - LEFT - 10 - GAP * (len(AXES) - 1)) / len(AXES)
    bottom = HEIGHT - BOTTOM
    small = f' font-size="12" fill="{theme.ink}" opacity="0.75"'

    def text(x: float, y: float, words: str, anchor: str = "middle", style: str = small) -> str:
        return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{words}</text>'

    def height(top1: float) -> float:
        return bottom - (bottom - TOP) * (top1 - LOWEST) / (HIGHEST - LOWEST)

    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="-apple-system, Segoe UI, Helvetica, Arial, sans-serif" font-size="14" fill="{theme.ink}">'
    )
    yield "<title>Top-1 of the bundled networks by bytes, multiply-adds and latency</title>"
    for percent in range(round(100 * LOWEST), round(100 * HIGHEST) + 1, 2):
        y = height(percent / 100)
        yield text(LEFT - 8, y + 4, f"{percent} %", "end")
        yield f'<path d="M{LEFT} {y:.1f}H{WIDTH - 10}" stroke="{theme.faint}"/>'
    for number, (key, words) in enumerate(AXES):
        left = LEFT + number * (side + GAP)
        points = [row for row in found if row[key]]
        low, high = (math.log10(limit(row[key] for row in points)) for limit in (min, max))
        low, high = low - 0.15 * (high - low), high + 0.15 * (high - low)

        def place(value: float, left: float = left, low: float = low, high: float = high) -> float:
            return left + side * (math.log10(value) - low) / (high - low)

        ours = sorted((row for row in points if row["network"] in bundled.CHECKPOINTS), key=lambda row: row["top1"])
        line = "L".join(f"{place(row[key]):.1f} {height(row['top1']):.1f}" for row in ours)
        yield f'<path d="M{line}" fill="none" stroke="{theme.dots["int8"]}" stroke-width="2" opacity="0.5"/>'
        for row in points:
            x, y = place(row[key]), height(row["top1"])
            own = row in ours
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{theme.dots["int8" if own else "fp16"]}"/>'
            name = row["network"].partition(" (")[0].rpartition(" ")[2]
            beside = (x - 9, y - 7, "end") if own else (x, y + 20, "middle")
            yield text(*beside[:2], name, beside[2])
        ticks = [mantissa * 10**power for power in range(9) for mantissa in (1, 3)]
        for tick in ticks:
            if low <= math.log10(tick) <= high:
                yield text(place(tick), bottom + 20, _short(tick))
        yield text(left + side / 2, bottom + 44, words)
    yield "</svg>"


def _short(value: float) -> str:
    for size, letter in ((1_000_000, "M"), (1_000, "K")):
        if value >= size:
            return f"{value // size} {letter}"
    return f"{value}"


if __name__ == "__main__":
    for row in rows(Path(sys.argv[1])):
        print(row)
