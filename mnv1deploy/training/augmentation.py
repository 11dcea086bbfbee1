"""Augmentation as batched tensor operations: one numbered view of every picture, drawn once, made batch by batch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

NOISES = 256
"""Pictures of noise in a view, of which every picture has one, at its own strength."""


class View:
    """One augmented version of every picture of a data set; asking for a picture twice gives the same version.

    Every picture is cropped at random from itself padded by ``crop`` pixels, mirrored or not, and has a square of
    ``cutout`` pixels blanked (arXiv 1708.04552). Padding and cutout have the colour that the network sees as zero.

    Photographs differ from a data set in scale, sharpness and noise, which can be drawn too. A picture that is made
    smaller has its mirror image around it. Pictures that are left as they are keep a network from paying for that with
    its accuracy on the data set.

    Args:
        images: uint8 ``[N, S, S, C]``, on any device.
        seed: of everything drawn here; the same seed and settings give the same view.
        crop: pixels of padding of the random crop.
        flip: whether half the pictures are mirrored.
        cutout: side of the blanked square in pixels; 0 for none.
        fill: the colour of padding and cutout, per colour in 0..255.
        zoom: pictures are scaled by a factor, drawn evenly on a logarithmic scale, up to 1 + zoom or down to one over
            it (bilinear); 0 leaves their pixels alone.
        sharpness: what a picture has beyond its blurred self (a binomial filter of 3x3) is multiplied by a factor
            drawn from 1 - sharpness to 1 + sharpness; 1 goes from blurred to twice as sharp.
        noise: largest standard deviation of Gaussian noise, in 0..255; every picture draws its own.
        altered: fraction of the pictures that zoom, sharpness and noise are for, all three together.
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
        zoom: float = 0.0,
        sharpness: float = 0.0,
        noise: float = 0.0,
        altered: float = 1.0,
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
        # what is not asked for draws nothing: recipes without it keep their views

        some = torch.rand(count, generator=generator) < altered if altered < 1 else None

        def even(largest: float) -> Tensor | None:
            """float32 ``[N]``, evenly in -largest .. largest for those that are altered; None for 0."""
            if not largest:
                return None
            drawn = (torch.rand(count, generator=generator) * 2 - 1) * largest
            return (drawn if some is None else drawn * some).to(device)

        self._zoom, self._sharpness, self._noise = even(math.log1p(zoom)), even(sharpness), even(noise)
        if noise:
            field = torch.randn(NOISES, images.shape[3], self._side, self._side, generator=generator)
            self._field, self._which = field.to(device), random(NOISES)[:, 0]

    def __call__(self, chosen: Tensor) -> Tensor:
        """The pictures at the indices ``chosen``, int64 ``[B]`` -> uint8 ``[B, S, S, C]``, on the device of these."""
        device = chosen.device
        chosen = chosen.to(self._images.device)
        rows = self._top[chosen] + self._pixel
        columns = self._left[chosen] + self._pixel
        if self._mirrored is not None:
            columns = torch.where(self._mirrored[chosen], columns.flip(1), columns)
        cut = torch.zeros(len(chosen), self._side, self._side, dtype=torch.bool, device=chosen.device)
        if self._cutout:
            near_row = (self._pixel + 0.5 - self._cut_row[chosen]).abs() < self._cutout / 2
            near_column = (self._pixel + 0.5 - self._cut_column[chosen]).abs() < self._cutout / 2
            cut = near_row[:, :, None] & near_column[:, None, :]
        if self._zoom is None:
            cut |= self._outside(rows)[:, :, None] | self._outside(columns)[:, None, :]
            rows, columns = rows.clamp(0, self._side - 1), columns.clamp(0, self._side - 1)
            pixels = self._images[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]
        else:
            pixels = self._zoomed(chosen, rows, columns, self._zoom[chosen].exp())
        if self._sharpness is not None or self._noise is not None:
            pixels = self._disturbed(chosen, pixels)
        pixels = torch.where(cut[..., None], self._colour, pixels)
        return (pixels.flip(2) if self._mirror else pixels).to(device)

    def _zoomed(self, chosen: Tensor, rows: Tensor, columns: Tensor, factor: Tensor) -> Tensor:
        """The pixels at ``rows`` and ``columns``, int64 ``[B, S]``, drawn together around the middle by the factor."""
        middle = (self._side - 1) / 2
        x, y = ((index - middle) / factor[:, None] / (self._side / 2) for index in (columns, rows))
        grid = torch.stack([x[:, None, :].expand(-1, self._side, -1), y[:, :, None].expand(-1, -1, self._side)], -1)
        planes = self._images[chosen].permute(0, 3, 1, 2).float()
        found = F.grid_sample(planes, grid, "bilinear", "reflection", align_corners=False)
        return found.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def _disturbed(self, chosen: Tensor, pixels: Tensor) -> Tensor:
        """Pictures blurred or sharpened, and noisy: uint8 ``[B, S, S, C]``, likewise."""
        planes = pixels.permute(0, 3, 1, 2).float()
        if self._sharpness is not None:
            around = F.pad(planes, (1, 1, 1, 1), "replicate")
            across = (around[..., :-2] + 2 * around[..., 1:-1] + around[..., 2:]) / 4
            blurred = (across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]) / 4
            planes = planes + self._sharpness[chosen][:, None, None, None] * (planes - blurred)
        if self._noise is not None:
            planes = planes + self._noise[chosen][:, None, None, None] * self._field[self._which[chosen]]
        return planes.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def _outside(self, index: Tensor) -> Tensor:
        return (index < 0) | (index >= self._side)
