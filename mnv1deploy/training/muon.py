"""Muon (Jordan et al. 2024, arXiv 2502.16982), in the precision that the device is fast in.

``torch.optim.Muon`` does the same in bfloat16 everywhere, which a CPU without AVX-512 emulates: 0.7 s for a step of
MobileNetV1 on one core, where float32 takes 0.03; and its learning rate is a number, which a recorded step would keep.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mnv1deploy.training import precision

ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the odd polynomial that every iteration applies to the singular values; those from 0.01 on end up near 1."""


class Muon(torch.optim.Optimizer):
    """Moves matrices along their orthogonalised momentum, with decoupled weight decay.

    Args:
        matrices: float32 ``[O, I]``, all on one device; each has its gradient in ``grad`` when :meth:`step` is called.
        lr: learning rate, a scalar tensor on that device; a change of its value is seen by a recorded step.
        weight_decay: fraction of the learning rate that the weights lose.
        momentum: Nesterov's.
    """

    def __init__(self, matrices: Sequence[Tensor], lr: Tensor, weight_decay: float, momentum: float = 0.9) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        device = matrices[0].device
        self._dtype = torch.bfloat16 if precision.is_faster(device, dense=True) else torch.float32
        # short kernels, which one after the other would take a GPU as long as half the network's
        self._streams: list[torch.cuda.Stream] = []
        if device.type == "cuda":
            self._streams = [torch.cuda.Stream(device) for _ in matrices]  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Moves every matrix once; on a GPU side by side. ``closure`` is not used."""
        (group,) = self.param_groups
        if not self._streams:
            for matrix in group["params"]:
                self._move(matrix, group)
            return
        here = torch.cuda.current_stream()
        for matrix, stream in zip(group["params"], self._streams, strict=True):
            stream.wait_stream(here)
            with torch.cuda.stream(stream):
                self._move(matrix, group)
        for stream in self._streams:
            here.wait_stream(stream)

    def _move(self, matrix: Tensor, group: dict[str, Any]) -> None:
        assert matrix.grad is not None
        state = self.state[matrix]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        mean: Tensor = state["momentum_buffer"]
        mean.lerp_(matrix.grad, 1 - group["momentum"])
        direction = orthogonalized(matrix.grad.lerp(mean, group["momentum"]), self._dtype)
        matrix.mul_(1 - group["lr"] * group["weight_decay"])
        # a tall matrix's step is larger, so that what it adds to its outputs is as large as a wide one's
        matrix.sub_(direction * (group["lr"] * math.sqrt(max(1, len(matrix) / matrix.shape[1]))))


def orthogonalized(matrix: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """About ``U @ V.T`` of the singular value decomposition, by Newton-Schulz iterations computed in ``dtype``.

    Singular values end between 0.7 and 1.2, which is near enough.
    """
    tall = len(matrix) > matrix.shape[1]
    found = (matrix.T if tall else matrix).to(dtype)
    found = found / found.norm().clamp(min=1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = found @ found.T
        found = torch.addmm(found, torch.addmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return (found.T if tall else found).to(matrix.dtype)
