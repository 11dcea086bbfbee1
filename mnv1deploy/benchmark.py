"""Latency, throughput, load time and memory of any number of artifacts, side by side in one run.

Every contestant has a process of its own, so that no engine's threads, allocator or settings touch another's, and
only one of them computes at any moment: they take turns in short slices, so that a noisy machine is fair to all.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv1deploy import bundled, datasets, formats
from mnv1deploy.errors import MnvError
from mnv1deploy.formats.base import CPU, resolve_provider

PYTORCH = "pytorch"
"""Names the bundled checkpoint in PyTorch's eager mode among the artifacts."""

ROUNDS = 10
WARM_UP_SECONDS = 0.3


@dataclass(frozen=True)
class Result:
    """One contestant at one batch size. Times are per call, in milliseconds, unless the name says otherwise.

    Attributes:
        artifact: its file name, or "pytorch".
        provider: the one that ran, asked of the engine.
        threads: asked for; None left the number to the engine.
        batch_size: images per call.
        calls: timed calls.
        min, mean, p50, p90, p99, std: over all calls.
        p50_lowest, p50_highest: of the medians of the rounds.
        images_per_second: images of all calls over the sum of their times.
        load: opening the artifact, its engine being imported already.
        peak_memory: of the whole process, interpreter and engine included, in MiB; None where the system does not tell.
        ratio: p50 over that of the fastest contestant with the same batch size and threads.
    """

    artifact: str
    provider: str
    threads: int | None
    batch_size: int
    calls: int
    min: float
    mean: float
    p50: float
    p90: float
    p99: float
    std: float
    p50_lowest: float
    p50_highest: float
    images_per_second: float
    load: float
    peak_memory: float | None
    ratio: float


def bench(
    artifacts: Sequence[str | Path] = (bundled.INT8, bundled.FP32),
    *,
    provider: str = CPU,
    batch_sizes: Sequence[int] = (1,),
    threads: Sequence[int | None] = (None,),
    duration: float = 2.0,
    include_copies: bool = False,
    on_slice: Callable[[], None] = lambda: None,
) -> list[Result]:
    """Measures every artifact with every number of threads at every batch size.

    Args:
        artifacts: paths of artifacts or checkpoints, or "pytorch".
        provider: for all of them; used or refused.
        batch_sizes: images per call.
        threads: numbers of threads; None leaves it to each engine.
        duration: seconds of timed calls per contestant and batch size.
        include_copies: on GPU providers, time the copies to and from the device too.
        on_slice: called after every slice of work, ``slices(...)`` times in all.

    Raises:
        MnvError: for an artifact that cannot be opened, or a provider that is not there.
    """
    results = []
    with ExitStack() as stack:
        workers = [
            stack.enter_context(_worker(artifact, resolve_provider(provider), count, include_copies))
            for artifact in artifacts
            for count in threads
        ]
        for batch_size in batch_sizes:
            for worker in workers:
                worker.ask(batch_size=batch_size, seconds=WARM_UP_SECONDS)
                on_slice()
            times: list[list[NDArray[np.float64]]] = [[] for _ in workers]
            for turn in range(ROUNDS):
                for index in np.roll(np.arange(len(workers)), turn):
                    answer = workers[index].ask(batch_size=batch_size, seconds=duration / ROUNDS)
                    times[index].append(np.array(answer["nanoseconds"]) / 1e6)
                    on_slice()
            medians = [float(np.median(np.concatenate(rounds))) for rounds in times]
            for worker, rounds in zip(workers, times, strict=True):
                rivals = [
                    median for other, median in zip(workers, medians, strict=True) if other.threads == worker.threads
                ]
                results.append(_result(worker, batch_size, rounds, min(rivals)))
    return results


def slices(artifacts: int, threads: int, batch_sizes: int) -> int:
    """How often :func:`bench` calls ``on_slice``."""
    return artifacts * threads * batch_sizes * (ROUNDS + 1)


def _result(worker: _Worker, batch_size: int, rounds: list[NDArray[np.float64]], fastest: float) -> Result:
    times = np.concatenate(rounds)
    medians = [float(np.median(part)) for part in rounds]
    p50, p90, p99 = (float(value) for value in np.percentile(times, (50, 90, 99)))
    return Result(
        artifact=worker.name,
        provider=worker.provider,
        threads=worker.threads,
        batch_size=batch_size,
        calls=len(times),
        min=float(times.min()),
        mean=float(times.mean()),
        p50=p50,
        p90=p90,
        p99=p99,
        std=float(times.std()),
        p50_lowest=min(medians),
        p50_highest=max(medians),
        images_per_second=float(batch_size * len(times) / times.sum() * 1000),
        load=worker.load,
        peak_memory=worker.ask()["peak_memory"],
        ratio=p50 / fastest,
    )


class _Worker:
    """The parent's end of a contestant's process: one JSON object a line, either way."""

    def __init__(self, process: subprocess.Popen[str], name: str, threads: int | None) -> None:
        self._process, self.name, self.threads = process, name, threads
        opened = self._receive()
        self.provider, self.load = str(opened["provider"]), float(opened["load"])

    def ask(self, **request: float) -> dict[str, Any]:
        """Has calls timed (``batch_size``, ``seconds``), or, without arguments, asks for the peak memory."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._receive()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise MnvError(f"The process that ran {self.name} died with exit code {self._process.wait()}.")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise MnvError(*answer["error"])
        return answer


@contextmanager
def _worker(artifact: str | Path, provider: str, threads: int | None, include_copies: bool) -> Iterator[_Worker]:
    path = bundled.CHECKPOINT if str(artifact) == PYTORCH else Path(artifact)
    formats.of_file(path)  # refuse a wrong name before any process is started
    name = PYTORCH if str(artifact) == PYTORCH else path.name
    settings = {"path": str(path), "provider": provider, "threads": threads, "include_copies": include_copies}
    process = subprocess.Popen(
        [sys.executable, "-m", "mnv1deploy.benchmark", json.dumps(settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield _Worker(process, name, threads)
    finally:
        process.kill()
        process.communicate()


def _serve(settings: dict[str, Any]) -> None:
    """The contestant's process: opens the artifact, then times calls as it is asked to."""
    # engines print to standard output; keep it for the parent alone
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**content: Any) -> None:
        channel.write(json.dumps(content) + "\n")
        channel.flush()

    try:
        path = Path(settings["path"])
        formats.of_file(path).providers()  # imports the engine
        start = time.perf_counter()
        session = formats.open_session(path, provider=settings["provider"], threads=settings["threads"])
        answer(load=(time.perf_counter() - start) * 1000, provider=session.provider)
        pictures = datasets.resized(datasets.calibration(), session.spec.input_size).images
        for line in sys.stdin:
            request = json.loads(line)
            if request:
                batch = np.ascontiguousarray(np.resize(pictures, (request["batch_size"], *pictures.shape[1:])))
                call = session.runner(batch, include_copies=settings["include_copies"])
                answer(nanoseconds=_time(call, request["seconds"]))
            else:
                answer(peak_memory=_peak_memory())
    except MnvError as error:
        answer(error=[error.message, error.hint])


def _time(call: Callable[[], object], seconds: float) -> list[int]:
    """Nanoseconds of each call, for about ``seconds`` and for at least three calls."""
    times: list[int] = []
    gc.disable()
    end = time.perf_counter_ns() + int(seconds * 1e9)
    before = time.perf_counter_ns()
    while before < end or len(times) < 3:
        start = time.perf_counter_ns()
        call()
        before = time.perf_counter_ns()
        times.append(before - start)
    gc.enable()
    return times


def _peak_memory() -> float | None:
    """This process's largest resident size so far, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    try:
        import resource
    except ImportError:
        return None
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def as_dicts(results: Sequence[Result]) -> list[dict[str, Any]]:
    """For JSON."""
    return [asdict(result) for result in results]


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]))
