"""Several processes training one network: started by torchrun, one per GPU or machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from mnv1deploy.errors import MnvError

if TYPE_CHECKING:
    from torch import Tensor

Value = TypeVar("Value")


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
    """The processes find each other, by nccl on GPUs and gloo on CPUs, and part at the end; under torchrun one, too."""
    if processes() == 1 and not _is_by_torchrun():
        yield
        return
    import torch
    import torch.distributed as dist

    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank())
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def _is_by_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def _have_joined() -> bool:
    if processes() == 1 and not _is_by_torchrun():
        return False
    from torch.distributed import is_initialized

    return processes() > 1 or is_initialized()


def total(values: Tensor) -> Tensor:
    """The sum over the processes, at each of them."""
    if _have_joined():
        from torch.distributed import all_reduce

        all_reduce(values)
    return values


def mean(values: Tensor) -> Tensor:
    """The mean over the processes, at each of them."""
    return total(values) / processes()


def wait() -> None:
    """Until every process is here."""
    if _have_joined():
        from torch.distributed import barrier

        barrier()


def from_first(make: Callable[[], Value]) -> Value:
    """What the first process makes, at each of them; they need not see its disk. An MnvError of it is raised by all."""
    if not _have_joined():
        return make()
    import torch
    from torch.distributed import broadcast_object_list

    answer: list[Any] = [None, None]
    if rank() == 0:
        try:
            answer[0] = make()
        except MnvError as error:
            answer[1] = error
    broadcast_object_list(answer, device=torch.device("cpu"))
    made, refused = answer
    if refused is not None:
        raise refused
    found: Value = made
    return found


@contextmanager
def first_of_machine() -> Iterator[None]:
    """One process of each machine does it before the others do, and so downloads for them.

    They do it after it failed too: each then says so, instead of waiting for one that is gone.
    """
    if local_rank():
        wait()
    try:
        yield
    finally:
        if not local_rank():
            wait()
