"""What the two formats that torch itself runs have in common: the provider, the threads and the session."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnv1deploy.errors import MnvError
from mnv1deploy.formats.base import CPU, CUDA, Images, Logits, OperatorTime, check_images, refuse_provider
from mnv1deploy.packages import engine
from mnv1deploy.spec import ModelSpec

if TYPE_CHECKING:
    from torch import Tensor

LAYER_OF = {"pool": "pool", "linear": "classifier", "addmm": "classifier"}
"""The layer that an operator computes whose kind has this in it; convolutions come in the spec's order."""

DEVICES = {CPU: "cpu", CUDA: "cuda"}
"""torch's names of providers."""


def torch_providers() -> tuple[str, ...]:
    """The CPU and, where torch sees one, the GPU; empty where torch is not installed."""
    try:
        torch = engine("torch", "train")
    except MnvError:
        return ()
    return (CPU, CUDA) if torch.cuda.is_available() else (CPU,)


def torch_device(provider: str, format_name: str, *, allowed: tuple[str, ...] = (CPU, CUDA)) -> str:
    """torch's name of a provider. Raises MnvError for one that is not here or not ``allowed``."""
    torch = engine("torch", "train")
    available = tuple(name for name in torch_providers() if name in allowed)
    if provider not in available:
        build = f"torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices."
        raise refuse_provider(provider, available, format_name, build if provider == CUDA else "")
    return DEVICES[provider]


class TorchSession:
    """A torch module that keeps the contract, on one device.

    The number of threads is the whole process's, and so is the precision of float32 convolutions on GPUs, which torch
    rounds to TF32's 10 bits by default: logits were 0.016 off.
    """

    concurrent = True
    forks = False

    def __init__(self, module: Callable[[Tensor], Tensor], spec: ModelSpec, device: str, threads: int | None) -> None:
        import torch

        if threads:
            torch.set_num_threads(threads)
        if device == "cuda":
            torch.backends.cudnn.allow_tf32 = False
        self._torch, self._module, self._device, self._spec = torch, module, device, spec

    @property
    def spec(self) -> ModelSpec:
        """Of the network inside."""
        return self._spec

    @property
    def provider(self) -> str:
        """By the device the logits of one black picture come back on."""
        used = self._run(self._torch.zeros(1, *self._spec.pixels.shape, dtype=self._torch.uint8)).device.type
        return next(name for name, device in DEVICES.items() if device == used)

    def _run(self, pixels: Tensor) -> Tensor:
        with self._torch.inference_mode():
            return self._module(pixels.to(self._device))

    def __call__(self, images: Images) -> Logits:
        """See Session."""
        check_images(images, self._spec)
        logits: Logits = self._run(self._torch.from_numpy(np.require(images, requirements=["C", "W"]))).cpu().numpy()
        return logits

    def runner(self, images: Images, *, include_copies: bool) -> Callable[[], object]:
        """See Session."""
        check_images(images, self._spec)
        if include_copies or self._device == "cpu":
            return lambda: self(images)
        pixels = self._torch.from_numpy(images).to(self._device)

        def run() -> None:
            self._run(pixels)
            self._torch.cuda.synchronize()

        return run

    def profile(self, images: Images, calls: int) -> list[OperatorTime]:
        """See Profiling: by torch.profiler, of the CPU's operators; convolutions have the names of their layers."""
        check_images(images, self._spec)
        if self._device != "cpu":
            raise MnvError("PyTorch is profiled on the CPU only.", "Leave out --provider.")
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it reports its own start and stop
        pixels = self._torch.from_numpy(images)
        for _ in range(calls):
            self._run(pixels)
        with self._torch.profiler.profile(activities=[self._torch.profiler.ProfilerActivity.CPU]) as recorded:
            for _ in range(calls):
                self._run(pixels)
        events = list(_operators(event for event in recorded.events() if event.cpu_parent is None))
        layers = (layer.name for layer in self._spec.layers() if layer.kind not in ("pool", "linear"))
        operators = []
        for position in range(len(events) // calls):
            kind = events[position].name
            name = next((name for part, name in LAYER_OF.items() if part in kind), kind.rpartition("::")[2])
            if "conv" in kind:
                name = next(layers, kind)
            spent = [event.cpu_time_total for event in events[position :: len(events) // calls]]
            operators.append(OperatorTime(name, kind, float(np.mean(spent)) / 1000))
        return operators


def _operators(events: Iterable[Any]) -> Iterator[Any]:
    """The outermost operators of a profile, without the scopes around them."""
    for event in events:
        if "::" in event.name:
            yield event
        else:
            yield from _operators(event.cpu_children)


def load_error(path: Path, error: Exception) -> MnvError:
    """The error for a file torch cannot read."""
    return MnvError(f"torch cannot read {path}: {MnvError.reason(error)}.", "Export it again.")
