"""The teacher: a larger network that trains fast, after cifar10-airbench (arXiv 2404.00498)."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnv1deploy.errors import MnvError
from mnv1deploy.network import PixelNetwork
from mnv1deploy.spec import ModelSpec

CHANNELS = (64, 256, 256)
LEAST_SIZE = 9
"""Pixels: the 2x2 convolution and three poolings leave one."""

WHITENED = 5000


class _Convolution(nn.Module):
    """A 3x3 convolution that starts as the identity, a batch normalisation that learns only its bias, GELU."""

    def __init__(self, in_channels: int, channels: int, *, pool: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.pool = nn.MaxPool2d(2) if pool else nn.Identity()
        self.norm.weight.requires_grad_(False)
        with torch.no_grad():
            nn.init.dirac_(self.conv.weight[:in_channels])

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.norm(self.pool(self.conv(x))))


class Teacher(PixelNetwork):
    """A convolutional network of 1.97 M parameters and 118 M multiply-adds at 32x32.

    A whitening 2x2 convolution, three stages of two 3x3 convolutions that start as the identity, the largest value of
    every channel, and small logits. Same contract as MobileNetV1: raw pixels in, logits out; of the spec it takes size,
    colours, normalisation and classes.

    Raises:
        MnvError: for pictures of less than :data:`LEAST_SIZE` pixels.
    """

    bias_rate: ClassVar[float] = 64.0  # as in arXiv 2404.00498
    is_dense: ClassVar[bool] = True

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        if spec.input_size < LEAST_SIZE:
            raise MnvError(f"A teacher's pictures have {LEAST_SIZE} pixels or more a side, not {spec.input_size}.")
        self.stem = nn.Conv2d(spec.colours, 2 * 4 * spec.colours, 2)
        self.stem.weight.requires_grad_(False)
        layers: list[nn.Module] = []
        channels = self.stem.out_channels
        for width in CHANNELS:
            layers += [_Convolution(channels, width, pool=True), _Convolution(width, width, pool=False)]
            channels = width
        self.stages = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, len(spec.classes), bias=False)

    @torch.no_grad()
    def prepare(self, images: Tensor) -> None:
        """Sets the first convolution to the whitening transform of the pictures' 2x2 patches, and its negative.

        Args:
            images: uint8 ``[N, H, W, C]``, on any device, of which the first :data:`WHITENED` are looked at.
        """
        size = 4 * self.spec.colours
        patches = (
            F.unfold(self.normalize(images[:WHITENED].to(self.mean.device)), 2)
            .transpose(1, 2)
            .reshape(-1, size)
            .double()
        )
        values, vectors = torch.linalg.eigh(patches.T.cov())
        filters = (vectors / (values + 5e-4).sqrt()).T.flip(0).view(size, -1, 2, 2)
        self.stem.weight.copy_(torch.cat([filters, -filters]))
        self.get_parameter("stem.bias").zero_()

    def forward(self, images: Tensor) -> Tensor:
        """Raw pixels, uint8 ``[N, H, W, C]`` -> logits, float32 ``[N, classes]``."""
        x = self.stages(F.gelu(self.stem(self.normalize(images))))
        # not amax, whose gradient looks for the largest again: compiled, in another precision, it finds none
        logits: Tensor = self.classifier(x.flatten(2).max(2).values) / 9
        return logits.float()
