"""What tensors do not say, told by batch normalisations: they remember the statistics of what they were trained on.

Natural pictures are run through the convolutions under each hypothesis (normalisation of the pixels, padding rule,
activation, hidden skip connections, strides), and every channel's mean and variance is compared with what its batch
normalisation remembers. The distance is the Kullback-Leibler divergence between the two normal distributions, in nats:
the median over a layer's channels, at most 1, and the mean of that over layers. The right hypothesis has a few
hundredths, a wrong normalisation or activation a few tenths and more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from mnv1deploy import datasets, images
from mnv1deploy.errors import MnvError
from mnv1deploy.importing.families import NORMALIZATIONS, for_colours, name_of
from mnv1deploy.importing.found import Found
from mnv1deploy.spec import ModelSpec, Normalization, Pixels

FACTOR, MARGIN = 2.0, 0.02
"""A hypothesis is contradicted by another whose distance, times the one and plus the other, is smaller."""

GOOD = 0.25
"""Distance up to which a hypothesis is believed."""

_EARLY = 5
"""Convolutions by which normalisations are told apart: further on a batch normalisation has evened them out."""

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "relu6": F.relu6,
    **{f"LeakyReLU ({slope})": partial(F.leaky_relu, negative_slope=slope) for slope in (0.01, 0.1, 0.2, 0.3)},
    "SiLU": F.silu,
    "hard swish": F.hardswish,
    "GELU": F.gelu,
    "Mish": F.mish,
    "ELU": F.elu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "no activation": lambda x: x,
}
"""Those of networks whose weights have the same shapes; only the first two are a MobileNetV1's."""


@dataclass(frozen=True)
class Hypothesis:
    """What a network may be, beside its weights."""

    strides: tuple[int, ...]
    padding: str
    activation: str
    normalization: Normalization
    residual: bool = False


@dataclass(frozen=True)
class Verdict:
    """What the statistics say about one option.

    Attributes:
        option: "normalization", "padding", "activation", "strides" or "skip connections".
        chosen: the value that was chosen, by its name.
        best: that which fits best.
        distances: of every value, in nats, the best first.
    """

    option: str
    chosen: str
    best: str
    distances: dict[str, float] = field(default_factory=dict)

    @property
    def contradicts(self) -> bool:
        """Whether another value fits clearly, and the chosen one clearly worse."""
        best, chosen = self.distances[self.best], self.distances[self.chosen]
        return best < GOOD and chosen > FACTOR * best + MARGIN

    @property
    def fits_none(self) -> bool:
        """Whether no value is believed: another kind of network, or of pictures."""
        return self.distances[self.best] >= GOOD

    @property
    def is_sure(self) -> bool:
        """Whether the best value fits, and no other one comes near it."""
        best, *others = self.distances.values()
        return best < GOOD and all(other > FACTOR * best + MARGIN for other in others)

    def __str__(self) -> str:
        rows = ", ".join(f"{name} {distance:.3f}" for name, distance in list(self.distances.items())[:3])
        if self.fits_none:
            return f"fits none: {rows}"
        near = [n for n, d in self.distances.items() if d <= FACTOR * self.distances[self.best] + MARGIN]
        if len(near) > 1:
            return f"cannot tell {' from '.join(near[:3])}: {rows}"
        return f"{self.best}, surely: {rows}"


def pictures(pixels: Pixels, folder: Path | None = None) -> NDArray[np.uint8]:
    """Natural pictures for a network: those of a folder, else mosaics of the bundled ones. uint8 ``[N, H, W, C]``.

    Enlarging a 32x32 picture to 224 leaves nothing as sharp as a photograph has; a mosaic of pictures at twice their
    size has a photograph's statistics.
    """
    count = max(8, min(64, 64 * 96**2 // pixels.size**2))
    if folder is not None:
        paths = images.find([folder])
        every = max(len(paths) // count, 1)
        return np.stack([images.read(path, pixels) for path in paths[::every][:count]])
    bundled = datasets.calibration().images
    if pixels.size < 64:
        return np.stack([images.read(picture, pixels) for picture in bundled[:64]])
    side = -(-pixels.size // 64)
    order = np.random.default_rng(0).integers(0, len(bundled), (count, side, side))
    doubled: Callable[[int], Any] = lambda i: Image.fromarray(bundled[i]).resize((64, 64), Image.Resampling.BICUBIC)  # noqa: E731
    mosaics = [np.concatenate([np.concatenate([doubled(i) for i in row], 1) for row in square]) for square in order]
    whole = Pixels(pixels.size, pixels.colours)
    return np.stack([images.read(mosaic[: pixels.size, : pixels.size], whole) for mosaic in mosaics])


def is_untrained(found: Found) -> bool:
    """Whether its batch normalisations have the statistics they start with."""
    norms = [c.norm for c in found.convolutions if c.norm is not None]
    return all((norm.mean == 0).all() and (norm.variance == 1).all() for norm in norms)


@torch.inference_mode()
def distance(found: Found, shown: NDArray[np.uint8], guess: Hypothesis, *, layers: int | None = None) -> float:
    """How far its statistics are from those the pictures have under a hypothesis, in nats; see the module."""
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (guess.normalization.mean, guess.normalization.std))
    x = (torch.from_numpy(shown).permute(0, 3, 1, 2).float() - mean) / std  # channels_last, as the pixels are
    distances = []
    entering = x
    for number, convolution in enumerate(found.convolutions[:layers]):
        stride = guess.strides[(number + 1) // 2] if number % 2 or number == 0 else 1
        if number % 2:
            entering, skips = x, guess.residual and stride == 1
        x = _convolved(x, torch.from_numpy(convolution.weight), stride, guess.padding, convolution.depthwise)
        norm = convolution.norm
        assert norm is not None
        epsilon = 1e-5 if norm.epsilon is None else norm.epsilon
        kept_mean, kept = torch.from_numpy(norm.mean), torch.from_numpy(norm.variance) + epsilon
        if convolution.bias is not None:  # which moves the mean alone
            kept_mean = kept_mean - torch.from_numpy(convolution.bias)
        seen_mean, seen = torch.batch_norm_update_stats(x, None, None, 0.0)  # var_mean takes ten times as long
        count = x.numel() // len(seen)
        seen = seen * (count / max(count - 1, 1)) + epsilon
        divergence = (seen / kept + (seen_mean - kept_mean) ** 2 / kept - 1 - (seen / kept).log()) / 2
        distances.append(min(divergence.nan_to_num(1.0).median().item(), 1.0))
        scale = kept.rsqrt() if norm.gamma is None else torch.from_numpy(norm.gamma) / kept.sqrt()
        shift = -kept_mean * scale if norm.beta is None else torch.from_numpy(norm.beta) - kept_mean * scale
        x = x.mul_(scale.view(1, -1, 1, 1)).add_(shift.view(1, -1, 1, 1))
        x = _ACTIVATIONS[guess.activation](x)
        if number and number % 2 == 0 and skips and x.shape == entering.shape:
            x = x + entering
    return sum(distances) / len(distances)


def _convolved(x: Tensor, weight: Tensor, stride: int, padding: str, depthwise: bool) -> Tensor:
    if weight.shape[2] > 1:
        if padding == "symmetric":
            x = F.pad(x, (1, 1, 1, 1))
        else:
            size = x.shape[-1]
            total = max((-(-size // stride) - 1) * stride + 3 - size, 0)
            x = F.pad(x, (total // 2, total - total // 2) * 2)
    return F.conv2d(x, weight, None, stride, groups=len(weight) if depthwise else 1)


OPTIONS = ("normalization", "activation", "padding", "skip connections", "strides")
"""What is judged, in the order in which one choice bears on the next."""


def judge(option: str, found: Found, spec: ModelSpec, shown: NDArray[np.uint8]) -> Verdict:
    """What the statistics say about one of OPTIONS of a network, given what was chosen for the others.

    Args:
        option: what is judged.
        found: the network, with its batch normalisations.
        spec: what was chosen for it.
        shown: see :func:`pictures`.

    Returns:
        The distances of every value; activations and skip connections that no MobileNetV1 has are among them.
    """
    strides = (spec.stem.stride, *(block.stride for block in spec.blocks))
    chosen = Hypothesis(strides, spec.padding, spec.activation, spec.normalization)
    layers = None
    if option == "normalization":
        own, layers = name_of(spec.normalization), _EARLY
        known = {name: for_colours(value, spec.colours) for name, value in NORMALIZATIONS.items()}
        guesses = {own: chosen, **{name: replace(chosen, normalization=value) for name, value in known.items()}}
    elif option == "padding":
        own, guesses = spec.padding, {name: replace(chosen, padding=name) for name in ("symmetric", "same")}
    elif option == "activation":
        own, guesses = spec.activation, {name: replace(chosen, activation=name) for name in _ACTIVATIONS}
    elif option == "skip connections":
        own, guesses = "none", {"none": chosen, "around blocks of stride 1": replace(chosen, residual=True)}
    else:
        own, guesses = _written(strides), {_written(s): replace(chosen, strides=s) for s in _neighbours(strides)}
    return _verdict(
        option, own, {name: distance(found, shown, guess, layers=layers) for name, guess in guesses.items()}
    )


def _written(strides: tuple[int, ...]) -> str:
    return ",".join(map(str, strides))


def _neighbours(strides: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """The strides themselves, another stem, and every stride of 2 a block earlier or later."""
    yield strides
    yield (3 - strides[0], *strides[1:])
    for first in range(len(strides) - 1):
        if strides[first] != strides[first + 1]:
            moved = list(strides)
            moved[first], moved[first + 1] = moved[first + 1], moved[first]
            yield tuple(moved)


def _verdict(option: str, chosen: str, distances: Mapping[str, float]) -> Verdict:
    ordered = dict(sorted(distances.items(), key=lambda row: row[1]))
    best = next(iter(ordered))
    if ordered[chosen] <= ordered[best]:  # the same network under another name
        best = chosen
        ordered = {chosen: ordered.pop(chosen), **ordered}
    return Verdict(option, chosen, best, ordered)


def other_activations() -> tuple[str, ...]:
    """Activations that are told by the statistics and that no MobileNetV1 has."""
    return tuple(_ACTIVATIONS)[2:]


def refusal(verdict: Verdict) -> MnvError | None:
    """The error for statistics that only another kind of network can have."""
    if not verdict.contradicts:
        return None
    if verdict.best in other_activations():
        return MnvError(
            f"The statistics of its batch normalisations are those of a network with {verdict.best}, not "
            f"{verdict.chosen} ({verdict}).",
            "Such a network is no MobileNetV1 and would give wrong answers; with --activation relu it is imported all "
            "the same.",
        )
    if verdict.option == "skip connections":
        return MnvError(
            f"The statistics of its batch normalisations are those of a residual network ({verdict}).",
            "There are no skip connections in a MobileNetV1.",
        )
    return None
