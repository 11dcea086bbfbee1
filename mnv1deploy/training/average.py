"""Averages of networks: over the steps of a run, which is what is evaluated and kept, and between two of them."""

from __future__ import annotations

import copy

import torch

from mnv1deploy.network import PixelNetwork


class Average:
    """The exponential moving average of a network, with the bias correction of arXiv 1412.6980.

    Args:
        learning: the network whose weights and statistics are averaged.
        decay: per step, 0 for the network itself.

    Attributes:
        network: the average, in inference mode.
    """

    def __init__(self, learning: PixelNetwork, decay: float) -> None:
        self.network = copy.deepcopy(learning).eval()
        self._decay = decay
        both = zip(self.network.state_dict().values(), learning.state_dict().values(), strict=True)
        floats = [(mean, value) for mean, value in both if mean.is_floating_point()]
        self._means, self._values = [mean for mean, _ in floats], [value for _, value in floats]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the network as it is after its ``step``-th step, from 1."""
        weight = (1 - self._decay) / (1 - self._decay**step)
        torch._foreach_lerp_(self._means, self._values, weight)


@torch.no_grad()
def between(network: PixelNetwork, other: PixelNetwork, share: float) -> PixelNetwork:
    """A copy of ``network`` whose weights and statistics lie on a line to those of ``other``, ``share`` of the way."""
    mixed = copy.deepcopy(network)
    for value, end in zip(mixed.state_dict().values(), other.state_dict().values(), strict=True):
        if value.is_floating_point():
            value.lerp_(end, share)
    return mixed
