"""What the two formats that torch itself runs have in common: the provider, the threads and the session."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mnv1deploy.errors import MnvError
from mnv1deploy.formats.base import CPU, CUDA, Images, Logits, check_images, engine, refuse_provider
from mnv1deploy.spec import ModelSpec

if TYPE_CHECKING:
    from torch import Tensor

_DEVICES = {CPU: "cpu", CUDA: "cuda"}


def torch_providers() -> tuple[str, ...]:
    """The CPU and, where torch sees one, the GPU; empty where torch is not installed."""
    if importlib.util.find_spec("torch") is None:
        return ()
    import torch

    return (CPU, CUDA) if torch.cuda.is_available() else (CPU,)


def torch_device(provider: str, format_name: str, *, allowed: tuple[str, ...] = (CPU, CUDA)) -> str:
    """torch's name of a provider. Raises MnvError for one that is not here or not ``allowed``."""
    torch = engine("torch", "train")
    available = tuple(name for name in torch_providers() if name in allowed)
    if provider not in available:
        build = f"torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices."
        raise refuse_provider(provider, available, format_name, build if provider == CUDA else "")
    return _DEVICES[provider]


class TorchSession:
    """A torch module that keeps the contract, on one device. The number of threads is the whole process's."""

    def __init__(self, module: Callable[[Tensor], Tensor], spec: ModelSpec, device: str, threads: int | None) -> None:
        import torch

        if threads:
            torch.set_num_threads(threads)
        self._torch, self._module, self._device, self._spec = torch, module, device, spec

    @property
    def spec(self) -> ModelSpec:
        """Of the network inside."""
        return self._spec

    @property
    def provider(self) -> str:
        """By the device the logits of one black picture come back on."""
        size = self._spec.input_size
        used = self._run(self._torch.zeros(1, size, size, 3, dtype=self._torch.uint8)).device.type
        return next(name for name, device in _DEVICES.items() if device == used)

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


def load_error(path: Path, error: Exception) -> MnvError:
    """The error for a file torch cannot read."""
    return MnvError(f"torch cannot read {path}: {MnvError.reason(error)}.", "Export it again.")
