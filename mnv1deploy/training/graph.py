"""A training step recorded once on the GPU, and replayed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[..., tuple[Tensor, ...]]
"""From tensors of always the same shapes to tensors; it may change others on the way, such as weights."""

WARM_UP = 3
"""Steps before the recording: compiled kernels and optimizers' buffers come into being in the first ones."""


class Recorded:
    """A step of a network so small that a GPU finishes its kernels faster than Python starts them, as a CUDA graph.

    Its first :data:`WARM_UP` calls run the step, the next one records it, and all from then on replay the record.
    What a call gives is overwritten by the next one.

    Args:
        step: without a wait for the GPU in it.
    """

    def __init__(self, step: Step) -> None:
        self._step = step
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: tuple[Tensor, ...] = ()
        self._outputs: tuple[Tensor, ...] = ()

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """One step, with inputs of the shapes of the first call's."""
        self._calls += 1
        if self._calls <= WARM_UP:
            return self._beside(inputs)
        if self._graph is None:
            self._inputs = tuple(given.clone() for given in inputs)
            self._graph = torch.cuda.CUDAGraph()
            # what other threads do meanwhile, such as nccl's, is no part of the record
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._outputs = self._step(*self._inputs)
        for kept, given in zip(self._inputs, inputs, strict=True):
            kept.copy_(given)
        self._graph.replay()
        return self._outputs

    def _beside(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Runs the step on another stream than the default one, which cannot be recorded."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            outputs = self._step(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        return outputs
