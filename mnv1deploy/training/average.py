"""The moving average of a network's weights and statistics: what is evaluated and kept."""

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
