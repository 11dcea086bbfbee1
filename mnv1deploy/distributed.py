"""Several processes training one network: started by torchrun, one per GPU or machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def processes() -> int:
    """How many there are; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Which one this is. The first, 0, writes the files and reports."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Which one this is on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextmanager
def joined() -> Iterator[None]:
    """The processes find each other, by nccl if they have GPUs and by gloo if not, and part at the end."""
    if processes() == 1:
        yield
        return
    import torch
    import torch.distributed as dist

    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def total(values: Tensor) -> Tensor:
    """The sum over the processes, at each of them."""
    if processes() > 1:
        from torch.distributed import all_reduce

        all_reduce(values)
    return values


def mean(values: Tensor) -> Tensor:
    """The mean over the processes, at each of them."""
    return total(values) / processes()


def wait() -> None:
    """Until every process is here."""
    if processes() > 1:
        from torch.distributed import barrier

        barrier()
