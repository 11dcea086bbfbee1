"""Where half precision is faster than float32."""

from __future__ import annotations

import torch


def half(device: torch.device) -> torch.dtype:
    """The half precision of a device: bfloat16, which needs no scaled losses, where it has that."""
    return torch.bfloat16 if device.type == "cpu" or torch.cuda.is_bf16_supported() else torch.float16


def is_faster(device: torch.device, *, dense: bool) -> bool:
    """Whether a network is faster in half precision there.

    On GPUs any is. On CPUs ``dense`` convolutions are where oneDNN computes bfloat16 in AVX-512 or AMX; without, torch
    has a loop that takes a hundred times as long. Depthwise ones are slower everywhere.
    """
    return device.type == "cuda" or (dense and torch.backends.cpu.get_cpu_capability() == "AVX512")
