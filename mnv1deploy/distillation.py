"""Distillation (arXiv 1503.02531): a larger network's answers are the targets of the small one.

Teacher and student see the very same augmented pictures, as arXiv 2106.05237 found best. The views are numbered, so
that the teacher answers each of them once, and its answers are kept on disk for every later epoch and run. Where
pictures may be mirrored, its answer is the mean over both ways round, and serves for both.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnv1deploy import distributed
from mnv1deploy.augmentation import View
from mnv1deploy.files import atomic
from mnv1deploy.network import PixelNetwork
from mnv1deploy.spec import ModelSpec

CHANNELS = (64, 256, 256)
BATCH = 500


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
    """A convolutional network of 1.97 M parameters and 118 M multiply-adds at 32x32, which trains fast.

    After cifar10-airbench (arXiv 2404.00498): a whitening 2x2 convolution, three stages of two 3x3 convolutions that
    start as the identity, the largest value of every channel, and small logits. Same contract as MobileNetV1: raw
    pixels in, logits out.
    """

    bias_rate = 64
    """How many times the learning rate the biases of batch normalisations have, as in arXiv 2404.00498."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.stem = nn.Conv2d(3, 24, 2)
        self.stem.weight.requires_grad_(False)
        layers: list[nn.Module] = []
        channels = self.stem.out_channels
        for width in CHANNELS:
            layers += [_Convolution(channels, width, pool=True), _Convolution(width, width, pool=False)]
            channels = width
        self.stages = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, len(spec.classes), bias=False)

    @torch.no_grad()
    def whiten(self, images: Tensor) -> None:
        """Sets the first convolution to the whitening transform of these pictures' 2x2 patches, and its negative."""
        patches = F.unfold(self.normalize(images), 2).transpose(1, 2).reshape(-1, 12).double()
        values, vectors = torch.linalg.eigh(patches.T.cov())
        filters = (vectors / (values + 5e-4).sqrt()).T.flip(0).view(12, 3, 2, 2)
        self.stem.weight.copy_(torch.cat([filters, -filters]))
        self.get_parameter("stem.bias").zero_()

    def forward(self, images: Tensor) -> Tensor:
        """Raw pixels, uint8 ``[N, H, W, 3]`` -> logits, float32 ``[N, classes]``."""
        x = self.stages(F.gelu(self.stem(self.normalize(images))))
        logits: Tensor = self.classifier(x.amax((2, 3))) / 9
        return logits.float()


class Targets:
    """A teacher's logits for numbered views, computed when first asked for and then read from ``folder``.

    Args:
        teacher: in inference mode, on the device of the pictures.
        folder: a subfolder of it, named after ``key``, holds one file per view.
        key: what the logits depend on besides the view's number; other facts, other files.
        flip: whether to average over the pictures and their mirror images.
    """

    def __init__(self, teacher: Teacher, folder: Path, key: dict[str, Any], *, flip: bool) -> None:
        self._teacher, self._flip = teacher, flip
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
        self._folder = folder / f"logits-{digest}"

    @torch.inference_mode()
    def of(self, number: int, view: View, count: int, device: torch.device) -> Tensor:
        """Logits of all ``count`` pictures of a view, float32 ``[N, classes]`` (kept as float16).

        Each process has the teacher answer its share of them.
        """
        path = self._folder / f"{number:04}.npy"
        if not path.is_file():
            processes, rank = distributed.processes(), distributed.rank()
            end = count * (rank + 1) // processes
            logits = torch.zeros(count, len(self._teacher.spec.classes), device=device)
            for start in range(count * rank // processes, end, BATCH):
                chosen = torch.arange(start, min(start + BATCH, end), device=device)
                pixels = view(chosen)
                with torch.autocast(device.type, torch.bfloat16):
                    answer = self._teacher(pixels)
                    if self._flip:
                        answer = (answer + self._teacher(pixels.flip(2))) / 2
                logits[chosen] = answer
            logits = distributed.total(logits)
            if rank == 0:
                with atomic(path) as temporary, temporary.open("wb") as file:
                    np.save(file, logits.half().cpu().numpy())
        distributed.wait()
        return torch.from_numpy(np.load(path)).to(device).float()
