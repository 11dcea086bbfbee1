"""Instructions of any network on the processors that were measured: counted where they were, else estimated."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache

import numpy as np

from mnv1deploy.c.measured import Build, builds
from mnv1deploy.c.plan import padded
from mnv1deploy.spec import CIFAR, ModelSpec


@dataclass(frozen=True)
class Count:
    """Instructions for one picture, and whether just this network was measured."""

    instructions: int
    is_measured: bool


def instructions(spec: ModelSpec, build: Build) -> Count | None:
    """Of a spec's network, whatever its weights; None if nothing like it was measured on that kind of kernels.

    Measured are the bundled network, and narrower ones on some processors; from one processor to another of the same
    kernels they are estimated by the ratio of the bundled network's. Of other networks the estimate is a sum of parts
    that grow with multiply-adds of dense and of depthwise convolutions and with the values that are requantized.
    """
    layers = tuple(spec.layers())
    if layers == tuple(CIFAR.layers()):
        return Count(build.instructions, True)
    alike = [other for other in builds() if other.kernels == build.kernels and other.widths]
    if not alike:
        return None
    model = next((other for other in alike if other.processor == build.processor), alike[0])
    ratio = build.instructions / model.instructions
    for width, number in model.widths.items():
        if layers == tuple(CIFAR.scaled(float(width)).layers()):
            return Count(round(ratio * number), model == build)
    return Count(round(ratio * float(_work(spec) @ _rates(model))), False)


def _work(spec: ModelSpec) -> np.ndarray:
    """Multiply-adds of dense and of depthwise convolutions, and values that they give; float64 ``[3]``."""
    dense = depthwise = values = 0
    for layer in spec.layers():
        if layer.kind == "pool":
            continue
        outputs = layer.out_size**2 * padded(layer.out_channels)
        values += outputs
        if layer.kind == "depthwise":
            depthwise += outputs * layer.kernel**2
        else:
            patch = layer.in_channels * (layer.kernel**2 if layer.kind == "conv" else 1)
            dense += outputs * (-(-patch // 4) * 4)
    return np.array([dense, depthwise, values], float)


@cache
def _fitted(model: Build) -> tuple[float, ...]:
    """The rates of :func:`_rates`."""
    counts = [(CIFAR, model.instructions), *((CIFAR.scaled(float(w)), n) for w, n in model.widths.items())]
    work = np.array([_work(spec) / number for spec, number in counts])
    best: tuple[float, list[float]] = (np.inf, [])
    for kept in itertools.chain.from_iterable(itertools.combinations(range(3), size) for size in (1, 2, 3)):
        rates = np.zeros(3)
        rates[list(kept)] = np.linalg.lstsq(work[:, kept], np.ones(len(counts)), rcond=None)[0]
        error = float(np.square(work @ rates - 1).sum())
        if (rates >= 0).all() and error < best[0]:
            best = (error, rates.tolist())
    return tuple(best[1])


def _rates(model: Build) -> np.ndarray:
    """Instructions for each unit of :func:`_work`, none negative, by least squares of relative errors."""
    return np.array(_fitted(model))
