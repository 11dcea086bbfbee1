"""MLPerf's own harness, LoadGen, on any artifact: it sends the queries, keeps the time, writes its logs and judges.

Every contestant has a process of its own, one after the other. LoadGen calls back from threads of C++: a query of one
stream or of the offline scenario is answered on the thread that brings it; the server's queries are put in a queue,
whose one reader calls the session with all that has come, so that LoadGen's thread goes on sending at its times.
"""

from __future__ import annotations

import json
import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mnv1deploy import benchmark, bundled, datasets, formats
from mnv1deploy.errors import MnvError
from mnv1deploy.formats.base import CPU, Logits, Session, resolve_provider
from mnv1deploy.machine import check_threads
from mnv1deploy.packages import engine

Scenario = Literal["single-stream", "multi-stream", "server", "offline"]
SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)

MIN_SECONDS = 600.0
"""MLPerf's rule for a run of any scenario (mlcommons/inference_policies, inference_rules.adoc)."""

MIN_QUERIES = {"single-stream": 100, "multi-stream": 662, "server": 100, "offline": 1}
"""The same rules', by which LoadGen may still ask for more: early stopping."""

OFFLINE_SAMPLES = 24_576
"""That the one query of the offline scenario has at least."""

PERCENTILE = {"single-stream": 0.90, "multi-stream": 0.99, "server": 0.99}
SERVER_SECONDS = 0.015
"""Within which the server answers PERCENTILE of its queries: MLPerf's bound for ResNet-50 in the data centre."""

BATCH = 64
"""Pictures that are run together where more than one waits."""

SERVER_LOAD = 0.5
"""Of what one picture after the other allows: the queries sent a second, if no number is named."""

SUMMARY = "mlperf_log_summary.txt"
ACCURACY = "mlperf_log_accuracy.json"
ANSWER = "mnv1deploy.json"


@dataclass(frozen=True)
class Settings:
    """How LoadGen is to run.

    Attributes:
        scenario: one of SCENARIOS.
        accuracy: every picture once, for the answers instead of the times.
        min_seconds: of a run; what is shorter than MIN_SECONDS is no MLPerf result, whatever LoadGen says.
        server_qps: queries a second in the server scenario; None for SERVER_LOAD.
        server_seconds: see SERVER_SECONDS.

    Raises:
        MnvError: for another scenario, and numbers that are not above zero.
    """

    scenario: Scenario
    accuracy: bool = False
    min_seconds: float = MIN_SECONDS
    server_qps: float | None = None
    server_seconds: float = SERVER_SECONDS

    def __post_init__(self) -> None:
        if self.scenario not in SCENARIOS:
            raise MnvError(f"There is no scenario {self.scenario}.", f"There are {', '.join(SCENARIOS)}.")
        for name, value in (
            ("duration", self.min_seconds),
            ("rate", self.server_qps),
            ("latency", self.server_seconds),
        ):
            if value is not None and not 0 < value < 1e6:
                raise MnvError(f"A {name} of {value:g} cannot be kept.", "Name a number above 0.")

    @property
    def keeps_the_rules(self) -> bool:
        """Whether MLPerf's rules allow such a run, were it submitted."""
        return self.accuracy or (self.min_seconds >= MIN_SECONDS and self.server_seconds <= SERVER_SECONDS)


@dataclass(frozen=True)
class Result:
    """What LoadGen says of one contestant.

    Attributes:
        artifact: see :func:`mnv1deploy.benchmark.names`.
        provider: the one that ran.
        threads: asked for; None left the number to the engine.
        valid: LoadGen's verdict; None of a run for accuracy, of which it says nothing.
        unmet: what it found not satisfied.
        metric: what its scenario is measured by, LoadGen's words.
        value: of it.
        summary: everything in LoadGen's summary, by its own words.
        top1: of a run for accuracy, a fraction.
        images, on: pictures, and whose.
        logs: the folder of LoadGen's logs.
    """

    artifact: str
    provider: str
    threads: int | None
    valid: bool | None
    unmet: tuple[str, ...]
    metric: str
    value: float | None
    summary: dict[str, str]
    top1: float | None
    images: int
    on: str
    logs: str

    def latency(self, percentile: str) -> float | None:
        """In milliseconds, "50", "90", "99" or "99.9", of the queries; None where LoadGen does not tell it."""
        text = self.summary.get(f"{float(percentile):.2f} percentile latency (ns)")
        return float(text) / 1e6 if text else None


METRICS = {
    "single-stream": "90.0th percentile latency (ns)",
    "multi-stream": "99.0th percentile latency (ns)",
    "server": "Completed samples per second",
    "offline": "Samples per second",
}
"""In the words of LoadGen's summary."""


def run(
    artifacts: Sequence[str | Path],
    settings: Settings,
    *,
    provider: str = CPU,
    threads: int | None = None,
    logs: str | Path = "loadgen",
    on_artifact: Callable[[str], None] = lambda name: None,
) -> list[Result]:
    """Runs LoadGen on every artifact.

    Args:
        artifacts: paths of artifacts or checkpoints, or benchmark.REFERENCES.
        settings: how.
        provider: for all of them; used or refused.
        threads: for all of them; None leaves it to each engine.
        logs: a folder; each contestant's logs are in one of its own below.
        on_artifact: called with the name of each before it runs.

    Raises:
        MnvError: for an artifact that cannot be opened, a provider that is not there, or LoadGen missing.
    """
    engine("mlperf_loadgen", "loadgen")
    check_threads(threads)
    results = []
    for artifact, name in zip(artifacts, benchmark.names(artifacts), strict=True):
        on_artifact(name)
        mode = "accuracy" if settings.accuracy else "performance"
        folder = Path(logs) / re.sub(r"[^\w.-]+", "_", name) / f"{settings.scenario}-{mode}"
        results.append(_run(artifact, name, settings, resolve_provider(provider), threads, folder))
    return results


def _run(
    artifact: str | Path, name: str, settings: Settings, provider: str, threads: int | None, folder: Path
) -> Result:
    path = bundled.CHECKPOINT if artifact in benchmark.REFERENCES else Path(artifact)
    formats.of_file(path)  # refuse a wrong name before any process is started
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in (SUMMARY, ACCURACY, ANSWER):
            (folder / old).unlink(missing_ok=True)
    except OSError as error:
        raise MnvError(f"LoadGen's logs cannot be written to {folder}: {error.strerror}.") from error
    told = {
        **asdict(settings),
        "path": str(path),
        "compiled": artifact == benchmark.COMPILED,
        "provider": provider,
        "threads": threads,
        "folder": str(folder.resolve()),
    }
    limit = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    command = [sys.executable, "-m", "mnv1deploy.loadgen", json.dumps(told)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env={**os.environ, **limit})
    if not (folder / ANSWER).exists():
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise MnvError(f"The process that ran {name} died with exit code {done.returncode}. {' '.join(last)}".strip())
    answer = json.loads((folder / ANSWER).read_text("utf-8"))
    if "error" in answer:
        raise MnvError(*answer["error"])
    summary = read_summary((folder / SUMMARY).read_text("utf-8", "replace"))
    metric = METRICS[settings.scenario]
    verdict = summary.get("Result is")
    return Result(
        name,
        answer["provider"],
        threads,
        None if settings.accuracy or verdict is None else verdict == "VALID",
        tuple(key.removesuffix(" satisfied") for key, value in summary.items() if value == "NO"),
        metric,
        float(summary[metric]) if metric in summary else None,
        summary,
        answer["top1"],
        answer["images"],
        answer["on"],
        str(folder),
    )


def read_summary(text: str) -> dict[str, str]:
    """LoadGen's summary by its own words; what stands there twice is kept as it stands first."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon and value.strip():
            words = value.strip()
            found.setdefault(key.strip(), words.upper() if words in ("Yes", "No") else words)
    return found


# ---- The contestant's process


class _Contestant:
    """What LoadGen tests: a session, and pictures that are in memory."""

    def __init__(self, session: Session, images: NDArray[np.uint8], loadgen: Any, *, queued: bool) -> None:
        self._session, self._images, self._loadgen = session, images, loadgen
        self._waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read) if queued else None
        self.failure: Exception | None = None
        if self._reader:
            self._reader.start()

    def issue(self, samples: list[Any]) -> None:
        """LoadGen's queries, from whatever thread."""
        if self._reader:
            for sample in samples:
                self._waiting.put(sample)
            return
        for start in range(0, len(samples), BATCH):
            self._answer(samples[start : start + BATCH])

    def close(self) -> None:
        """After the last query."""
        if self._reader:
            self._waiting.put(None)
            self._reader.join()

    def _read(self) -> None:
        while True:
            samples = [self._waiting.get()]
            while len(samples) < BATCH and samples[-1] is not None:
                try:
                    samples.append(self._waiting.get_nowait())
                except queue.Empty:
                    break
            last = samples[-1] is None
            if found := [sample for sample in samples if sample is not None]:
                self._answer(found)
            if last:
                return

    def _answer(self, samples: list[Any]) -> None:
        """Every sample is answered whatever happens: LoadGen would wait for it for ever."""
        indices = [sample.index for sample in samples]
        try:
            logits: Logits = self._session(self._images[indices])
            labels = logits.argmax(1).astype(np.int64)
        except Exception as error:
            self.failure = self.failure or error
            labels = np.full(len(samples), -1, np.int64)
        address = labels.ctypes.data
        self._loadgen.QuerySamplesComplete(
            [
                self._loadgen.QuerySampleResponse(sample.id, address + 8 * place, 8)
                for place, sample in enumerate(samples)
            ]
        )


def _serve(told: dict[str, Any]) -> None:
    folder = Path(told["folder"])
    try:
        answer = _test(told, folder)
    except Exception as error:
        answer = {"error": benchmark.sentences(error)}
    (folder / ANSWER).write_text(json.dumps(answer), "utf-8")


def _test(told: dict[str, Any], folder: Path) -> dict[str, Any]:
    loadgen: Any = engine("mlperf_loadgen", "loadgen")
    session = benchmark.opened(Path(told["path"]), told)
    data = _pictures(session)
    scenario, accuracy = told["scenario"], told["accuracy"]
    settings = _settings(loadgen, told, *_rates(session, data.images))
    contestant = _Contestant(session, data.images, loadgen, queued=scenario == "server")
    system = loadgen.ConstructSUT(contestant.issue, lambda: None)
    # all pictures are in memory already
    library = loadgen.ConstructQSL(len(data), len(data), lambda indices: None, lambda indices: None)
    logs = loadgen.LogSettings()
    logs.enable_trace = False
    logs.log_output.outdir = str(folder)
    logs.log_output.copy_summary_to_stdout = False
    loadgen.StartTestWithLogSettings(system, library, settings, logs, str(folder / "audit.config"))
    contestant.close()
    loadgen.DestroyQSL(library)
    loadgen.DestroySUT(system)
    if contestant.failure:
        raise contestant.failure
    top1 = _top1(folder / ACCURACY, data.labels) if accuracy else None
    return {"provider": session.provider, "top1": top1, "images": len(data), "on": data.name}


def _pictures(session: Session) -> datasets.Dataset:
    """CIFAR-10's test split where it is at hand, else the bundled sample of it, for a network with its classes."""
    spec = session.spec
    data = datasets.cifar10("test") if datasets.has_cifar10() else datasets.sample()
    if spec.classes != data.classes:
        raise MnvError(
            f"{spec.name} has other classes than CIFAR-10, whose pictures LoadGen is given here.",
            "mnv1 bench without --scenario measures any network.",
        )
    return datasets.resized(data, spec.pixels)


def _rates(session: Session, images: NDArray[np.uint8]) -> tuple[float, float]:
    """Pictures a second, one after the other and in batches, of some tenths of a second: what LoadGen plans by."""
    rates = []
    for batch in (images[:1], images[:BATCH]):
        session(batch)
        calls, start = 0, time.perf_counter()
        while time.perf_counter() < start + 0.3:
            session(batch)
            calls += 1
        rates.append(len(batch) * calls / (time.perf_counter() - start))
    return rates[0], rates[1]


def _settings(loadgen: Any, told: dict[str, Any], alone: float, batched: float) -> Any:
    settings, scenario = loadgen.TestSettings(), told["scenario"]
    settings.scenario = {
        "single-stream": loadgen.TestScenario.SingleStream,
        "multi-stream": loadgen.TestScenario.MultiStream,
        "server": loadgen.TestScenario.Server,
        "offline": loadgen.TestScenario.Offline,
    }[scenario]
    modes = loadgen.TestMode
    settings.mode = modes.AccuracyOnly if told["accuracy"] else modes.PerformanceOnly
    settings.min_duration_ms = round(1000 * told["min_seconds"])
    settings.min_query_count = MIN_QUERIES[scenario]
    settings.single_stream_expected_latency_ns = round(1e9 / alone)
    settings.single_stream_target_latency_percentile = PERCENTILE["single-stream"]
    settings.multi_stream_expected_latency_ns = round(8e9 / batched)
    settings.multi_stream_samples_per_query = 8
    settings.multi_stream_target_latency_percentile = PERCENTILE["multi-stream"]
    # for the answers no query has to be in time
    settings.server_target_qps = told["server_qps"] or (batched if told["accuracy"] else SERVER_LOAD * alone)
    settings.server_target_latency_ns = round(1e9 * told["server_seconds"])
    settings.server_target_latency_percentile = PERCENTILE["server"]
    settings.offline_expected_qps = max(batched, OFFLINE_SAMPLES / told["min_seconds"] / 1.1)
    return settings


def _top1(path: Path, labels: NDArray[np.int64]) -> float:
    """Of LoadGen's accuracy log, whose rows have answers in hexadecimal. Raises MnvError if a picture has none."""
    rows = json.loads(path.read_text("utf-8"))
    answers = {row["qsl_idx"]: int.from_bytes(bytes.fromhex(row["data"]), "little", signed=True) for row in rows}
    if len(answers) != len(labels):
        raise MnvError(f"LoadGen has {len(answers):,} answers for {len(labels):,} pictures.")
    return float(np.mean([answers[index] == label for index, label in enumerate(labels.tolist())]))


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]))
