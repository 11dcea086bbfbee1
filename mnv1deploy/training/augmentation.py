"""Augmentation as batched tensor operations: one numbered view of every picture, drawn once, made batch by batch."""

from __future__ import annotations

import torch
from torch import Tensor


class View:
    """One augmented version of every picture of a data set; asking for a picture twice gives the same version.

    Every picture is cropped at random from itself padded by ``crop`` pixels, mirrored or not, and has a square of
    ``cutout`` pixels blanked (arXiv 1708.04552). Padding and cutout have the colour that the network sees as zero.

    Args:
        images: uint8 ``[N, S, S, C]``, on any device.
        seed: of everything drawn here; the same seed and settings give the same view.
        crop: pixels of padding of the random crop.
        flip: whether half the pictures are mirrored.
        cutout: side of the blanked square in pixels; 0 for none.
        fill: the colour of padding and cutout, per colour in 0..255.
        mirror: turns every picture of the view round in the end: another view, of which a network that averages
            over both ways round says the same.
    """

    def __init__(
        self,
        images: Tensor,
        seed: int,
        *,
        crop: int,
        flip: bool,
        cutout: int,
        fill: tuple[float, ...],
        mirror: bool = False,
    ) -> None:
        self._images = images
        self._cutout, self._mirror = cutout, mirror
        self._side = images.shape[1]
        count, device = len(images), images.device
        generator = torch.Generator().manual_seed(seed)

        def random(high: int) -> Tensor:
            return torch.randint(high, (count, 1), generator=generator).to(device)

        self._pixel = torch.arange(self._side, device=device)
        self._colour = torch.tensor(fill, device=device).round().clamp(0, 255).to(torch.uint8)
        self._top, self._left = random(2 * crop + 1) - crop, random(2 * crop + 1) - crop
        self._mirrored = random(2).bool() if flip else None
        self._cut_row, self._cut_column = random(self._side + 1), random(self._side + 1)

    def __call__(self, chosen: Tensor) -> Tensor:
        """The pictures at the indices ``chosen``, int64 ``[B]`` -> uint8 ``[B, S, S, C]``, on the device of these."""
        device = chosen.device
        chosen = chosen.to(self._images.device)
        rows = self._top[chosen] + self._pixel
        columns = self._left[chosen] + self._pixel
        if self._mirrored is not None:
            columns = torch.where(self._mirrored[chosen], columns.flip(1), columns)
        blank = self._outside(rows)[:, :, None] | self._outside(columns)[:, None, :]
        if self._cutout:
            near_row = (self._pixel + 0.5 - self._cut_row[chosen]).abs() < self._cutout / 2
            near_column = (self._pixel + 0.5 - self._cut_column[chosen]).abs() < self._cutout / 2
            blank |= near_row[:, :, None] & near_column[:, None, :]
        rows, columns = rows.clamp(0, self._side - 1), columns.clamp(0, self._side - 1)
        pixels = self._images[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]
        pixels = torch.where(blank[..., None], self._colour, pixels)
        return (pixels.flip(2) if self._mirror else pixels).to(device)

    def _outside(self, index: Tensor) -> Tensor:
        return (index < 0) | (index >= self._side)
