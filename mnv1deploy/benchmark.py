"""Latency, throughput, load time and memory of any number of artifacts, side by side in one run.

Every contestant has a process of its own, so that no engine's threads, allocator or settings touch another's, and
only one of them computes at any moment: they take turns in short slices, so that a noisy machine is fair to all.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv1deploy import bundled, datasets, formats
from mnv1deploy.artifact import manifest_path
from mnv1deploy.errors import MnvError
from mnv1deploy.formats.base import CPU, OperatorTime, Profiling, Session, resolve_provider
from mnv1deploy.machine import check_threads, processors
from mnv1deploy.packages import versions
from mnv1deploy.progress import OnProgress, untold

PYTORCH = "pytorch"
"""Names the bundled checkpoint in PyTorch's eager mode among the artifacts."""

COMPILED = "pytorch-compiled"
"""Names the bundled checkpoint, batch-norms folded, under torch.compile."""

REFERENCES = (PYTORCH, COMPILED)

ROUNDS = 10
WARM_UP_SECONDS = 0.3
"""Or as long as is measured, if that is shorter."""
PROFILED_CALLS = 500


@dataclass(frozen=True)
class Result:
    """One contestant at one batch size. Times are per call, in milliseconds, unless the name says otherwise.

    Attributes:
        artifact: see :func:`names`.
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


@dataclass(frozen=True)
class Profile:
    """One artifact's time by operator, in the order they run.

    Attributes:
        artifact: see :func:`names`.
        provider: the one that ran.
        batch_size: images per call.
        operators: what each takes with the engine's profiler on, which costs time itself.
    """

    artifact: str
    provider: str
    batch_size: int
    operators: tuple[OperatorTime, ...]


def raise_refusal(artifact: str, error: MnvError) -> None:
    """What :func:`bench` does, unless told otherwise, about an artifact that cannot be measured."""
    raise error


def bench(
    artifacts: Sequence[str | Path] = (bundled.INT8, bundled.FP32),
    *,
    provider: str = CPU,
    batch_sizes: Sequence[int] = (1,),
    threads: Sequence[int | None] = (None,),
    duration: float = 2.0,
    include_copies: bool = False,
    on_slice: Callable[[], None] = lambda: None,
    on_refusal: Callable[[str, MnvError], None] = raise_refusal,
) -> list[Result]:
    """Measures every artifact with every number of threads at every batch size.

    Args:
        artifacts: paths of artifacts or checkpoints, or REFERENCES.
        provider: for all of them; used or refused.
        batch_sizes: images per call.
        threads: numbers of threads, one after the other; None leaves it to each engine.
        duration: seconds of timed calls per contestant and batch size.
        include_copies: on GPU providers, time the copies to and from the device too.
        on_slice: called after every slice of work, ``slices(...)`` times in all if nothing is refused.
        on_refusal: called with the name of an artifact that cannot be measured, and why; it is then left out.

    Raises:
        MnvError: for an artifact that cannot be opened, or a provider that is not there, if ``on_refusal`` raises it.
    """
    results = []
    for count in threads:
        with ExitStack() as stack:
            workers = []
            for artifact, name in zip(artifacts, names(artifacts), strict=True):
                try:
                    opened = _worker(artifact, name, resolve_provider(provider), count, include_copies)
                    workers.append(stack.enter_context(opened))
                except MnvError as error:
                    on_refusal(name, error)
                on_slice()
            for batch_size in batch_sizes:
                results += _race(workers, batch_size, duration, on_slice, on_refusal)
    return results


def slices(artifacts: int, threads: int, batch_sizes: int) -> int:
    """How often :func:`bench` calls ``on_slice``."""
    return artifacts * threads * (1 + batch_sizes * (ROUNDS + 1))


def profile(
    artifacts: Sequence[str | Path] = (bundled.INT8, bundled.FP32),
    *,
    provider: str = CPU,
    batch_size: int = 1,
    threads: int | None = None,
    on_artifact: Callable[[], None] = lambda: None,
) -> list[Profile]:
    """Measures every operator of every artifact, each in a process of its own.

    Raises:
        MnvError: for an artifact that cannot be opened, a provider that is not there, or an engine without a profiler.
    """
    profiles = []
    for artifact, name in zip(artifacts, names(artifacts), strict=True):
        with _worker(artifact, name, resolve_provider(provider), threads, include_copies=False) as worker:
            answer = worker.ask(batch_size=batch_size, profiled_calls=PROFILED_CALLS)
            operators = tuple(OperatorTime(**operator) for operator in answer["operators"])
            profiles.append(Profile(worker.name, worker.provider, batch_size, operators))
        on_artifact()
    return profiles


def latencies(
    artifacts: Sequence[Path], duration: float = 0.5, on_progress: OnProgress = untold, provider: str = CPU
) -> dict[Path, float]:
    """The p50 of one picture on one thread in milliseconds, by artifact. Raises MnvError as :func:`bench` does."""
    total, done = slices(len(artifacts), 1, 1), itertools.count(1)
    results = bench(
        artifacts,
        provider=provider,
        threads=[1],
        duration=duration,
        on_slice=lambda: on_progress("measuring latency", next(done), total),
    )
    return {path: result.p50 for path, result in zip(artifacts, results, strict=True)}


def contestants(named: Sequence[str], *, everything: bool = False) -> list[str]:
    """Whom to measure: the artifacts that are named, else the bundled ones.

    With ``everything`` folders are named, by default "artifacts": all artifacts in them, and REFERENCES.

    Raises:
        MnvError: for a folder without artifacts.
    """
    if not everything:
        return [str(bundled.artifact(name)) for name in named] or [str(bundled.INT8), str(bundled.FP32)]
    return [*(str(path) for folder in named or ["artifacts"] for path in artifacts_in(folder)), *REFERENCES]


def notes(artifacts: Sequence[str | Path]) -> list[str]:
    """What to know of them before they are opened; of one that cannot be opened :func:`bench` says that."""
    found: list[str] = []
    for artifact in artifacts:
        if artifact not in REFERENCES:
            with suppress(MnvError):
                found += formats.notes(artifact)
    return list(dict.fromkeys(found))


def names(artifacts: Sequence[str | Path]) -> list[str]:
    """What to call each: its file name, with as many of its folders as tell it apart from the others."""
    paths = [
        (str(artifact),) if artifact in REFERENCES else Path(os.path.abspath(artifact)).parts for artifact in artifacts
    ]
    found: list[str] = []
    for path in paths:
        others = [other for other in paths if other != path]
        length = next((n for n in range(1, len(path)) if all(other[-n:] != path[-n:] for other in others)), len(path))
        name = str(Path(*path[-length:]))
        again = paths[: len(found)].count(path)
        found.append(f"{name} ({again + 1})" if again else name)
    return found


def artifacts_in(folder: str | Path) -> list[Path]:
    """The artifacts in a folder that a manifest stands for. Raises MnvError if there is none."""
    manifests = sorted(Path(folder).glob("*.json"))
    found = [path.with_suffix("") for path in manifests if path == manifest_path(path.with_suffix(""))]
    found = [path for path in found if path.exists()]
    if not found:
        here = Path(folder).resolve()
        raise MnvError(f"There are no artifacts with their manifests in {here}.", "mnv1 export makes some.")
    return found


def _race(
    workers: list[_Worker],
    batch_size: int,
    duration: float,
    on_slice: Callable[[], None],
    on_refusal: Callable[[str, MnvError], None],
) -> list[Result]:
    """Has the workers take turns; one that fails is out of the race."""
    workers = [*workers]
    times: dict[_Worker, list[NDArray[np.float64]]] = {worker: [] for worker in workers}
    for turn in range(-1, ROUNDS):
        seconds = duration / ROUNDS if turn >= 0 else min(WARM_UP_SECONDS, duration)
        for worker in np.roll(np.array(workers, object), turn):
            try:
                answer = worker.ask(batch_size=batch_size, seconds=seconds)
            except MnvError as error:
                on_refusal(worker.name, error)
                workers.remove(worker)
                continue
            if turn >= 0:
                times[worker].append(np.array(answer["nanoseconds"]) / 1e6)
            on_slice()
    fastest = min((float(np.median(np.concatenate(times[worker]))) for worker in workers), default=0.0)
    return [_result(worker, batch_size, times[worker], fastest) for worker in workers]


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
        """Has calls timed or profiled (see :func:`_serve`), or, without arguments, asks for the peak memory."""
        assert self._process.stdin
        with suppress(BrokenPipeError):  # that it died is found out on receiving
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
def _worker(
    artifact: str | Path, name: str, provider: str, threads: int | None, include_copies: bool
) -> Iterator[_Worker]:
    check_threads(threads)
    path = bundled.CHECKPOINT if artifact in REFERENCES else Path(artifact)
    formats.of_file(path)  # refuse a wrong name before any process is started
    settings = {
        "path": str(path),
        "compiled": artifact == COMPILED,
        "provider": provider,
        "threads": threads,
        "include_copies": include_copies,
    }
    # engines that take their threads from OpenMP may start more than they were asked for otherwise
    limit = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    process = subprocess.Popen(
        [sys.executable, "-m", "mnv1deploy.benchmark", json.dumps(settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **limit},
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
        format_ = formats.of_file(path)
        if format_.elsewhere:
            raise MnvError(f"{format_.name} cannot be run here: {format_.elsewhere}")
        format_.providers()  # imports the engine
        start = time.perf_counter()
        session = opened(path, settings)
        answer(load=(time.perf_counter() - start) * 1000, provider=session.provider)
        pictures = datasets.resized(datasets.calibration(), session.spec.pixels).images
    except Exception as error:
        answer(error=sentences(error))
        return
    for line in sys.stdin:
        request = json.loads(line)
        if not request:
            answer(peak_memory=_peak_memory())
            continue
        try:
            batch = np.ascontiguousarray(np.resize(pictures, (request["batch_size"], *pictures.shape[1:])))
            if "seconds" in request:
                call = session.runner(batch, include_copies=settings["include_copies"])
                answer(nanoseconds=_time(call, request["seconds"]))
            else:
                assert isinstance(session, Profiling)
                answer(operators=[asdict(operator) for operator in session.profile(batch, request["profiled_calls"])])
        except Exception as error:
            answer(error=sentences(error))


def sentences(error: Exception) -> tuple[str, str]:
    """An error's message and hint; an engine's own, which may be of any type, becomes one sentence."""
    if isinstance(error, MnvError):
        return error.message, error.hint
    return f"The engine failed: {type(error).__name__}: {MnvError.reason(error)}.", ""


def opened(path: Path, settings: dict[str, Any]) -> Session:
    """The session that a contestant's process was told of: its provider, number of threads, compiled or not."""
    if settings["compiled"]:
        from mnv1deploy.formats.pytorch import PyTorchFormat

        return PyTorchFormat().open_compiled(path, provider=settings["provider"], threads=settings["threads"])
    return formats.open_session(path, provider=settings["provider"], threads=settings["threads"])


def _time(call: Callable[[], object], seconds: float) -> list[int]:
    """Nanoseconds of each call, for about ``seconds`` and for at least one call."""
    times: list[int] = []
    gc.disable()
    end = time.perf_counter_ns() + int(seconds * 1e9)
    before = time.perf_counter_ns()
    while before < end or not times:
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


def machine() -> dict[str, Any]:
    """What a figure was measured on: processor, its instruction sets for small integers, cores, system, versions."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    fields = {key.strip(): value.strip() for key, colon, value in (line.partition(":") for line in lines) if colon}
    model = fields.get("model name") or platform.processor() or platform.machine()
    flags = fields.get("flags", fields.get("Features", ""))
    known = ("avx2", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
    engines = [package for name in formats.NAMES for package in formats.get(name).runners]
    return {
        "cpu": model,
        "cores": processors(),
        "instructions": [flag for flag in known if flag in flags.split()],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions("numpy", *dict.fromkeys(engines), "onnxruntime-gpu", "onnxruntime-openvino"),
    }


def processor(facts: dict[str, Any]) -> str:
    """Of what :func:`machine` says, the processor and its number of cores: AMD EPYC, 2 cores (avx2)."""
    sets = f" ({', '.join(facts['instructions'])})" if facts["instructions"] else ""
    return f"{facts['cpu']}, {facts['cores']} cores{sets}"


def machine_line() -> str:
    """:func:`machine` in one line, for under a table."""
    facts = machine()
    packages = ", ".join(f"{name} {version}" for name, version in facts["versions"].items() if name != "mnv1deploy")
    return f"{processor(facts)}; {packages}"


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]))
