"""The machine a process runs on, as far as it may use it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mnv1deploy.errors import MnvError

MOST_THREADS_PER_PROCESSOR = 8
"""More than that only wait for each other: a thousand on two processors take a minute for one picture."""


_PATIENT = {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0"}
"""For GNU's OpenMP and LLVM's; they read it when they are loaded."""

# options of mallopt(3)
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def processors() -> int:
    """How many processors this process can keep busy: what its affinity and its control group leave of them."""
    counted = getattr(os, "process_cpu_count", os.cpu_count)() or 1  # the former, of Python 3.13, can be overridden
    if hasattr(os, "sched_getaffinity"):
        counted = min(counted, len(os.sched_getaffinity(0)))
    return max(1, math.ceil(min(counted, _quota())))


def count(text: str) -> int:
    """A whole number from 1 up. Raises MnvError for any other text."""
    if not (text.isascii() and text.isdigit() and int(text)):
        raise MnvError(f"{text!r} is no whole number from 1 up.", "Several have commas between them: 1,8.")
    return int(text)


def threads(text: str) -> int | None:
    """A number of threads; None for "auto", which leaves it to the engine. Raises MnvError for any other text."""
    if text.lower() == "auto":
        return None
    number = count(text)
    check_threads(number)
    return number


@contextmanager
def patient_threads() -> Iterator[None]:
    """An OpenMP that is loaded in here has its threads sleep while they wait, unless the environment says otherwise.

    As a rule they spin, which on a machine that is not idle takes the processor from those they wait for: an export
    took 15 times as long.
    """
    ours = {name: value for name, value in _PATIENT.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:  # processes that are started later measure engines as they come
            os.environ.pop(name, None)


def keep_freed_memory() -> None:
    """Has glibc keep the large tensors that every layer frees, instead of having them zeroed again page by page.

    It stays so for the whole process: for commands, and for runs of training.
    """
    import ctypes
    import platform

    if platform.libc_ver()[0] == "glibc":
        for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**29)):
            ctypes.CDLL(None).mallopt(option, value)


def check_threads(threads: int | None) -> None:
    """Raises MnvError for a number of threads that no engine can use; None leaves the number to the engine."""
    if threads is None:
        return
    usable = processors()
    if threads < 1:
        raise MnvError(f"{threads} threads cannot compute anything.", "Ask for one or more.")
    if threads > max(64, MOST_THREADS_PER_PROCESSOR * usable):
        raise MnvError(
            f"{threads:,} threads would only wait for each other on {usable} processors.",
            f"Ask for {usable}, or leave the number to the engine.",
        )


def _quota(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> float:
    """Processors' worth of time that the control groups (version 2, or 1) of this process grant it; else infinity."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return math.inf
    granted = math.inf
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "cpu" if controllers else root  # each controller of version 1 has a tree of its own
        inner = top / path.lstrip("/")
        for group in (inner, *inner.parents):
            granted = min(granted, _quota_of(group, old=bool(controllers)))
            if group == top:
                break
    return granted


def _quota_of(group: Path, *, old: bool) -> float:
    try:
        if old:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        else:
            quota, period = (group / "cpu.max").read_text().split()
        return float(quota) / float(period) if float(quota) > 0 else math.inf
    except (OSError, ValueError):  # no limit is set here: there is no such file, or it says "max"
        return math.inf
