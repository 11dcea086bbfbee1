"""MLPerf's LoadGen on artifacts: its logs, its verdict, its answers; sessions called rightly from its threads."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import figures
import mlperf_tiny
import numpy as np
import pytest

from mnv1deploy import bundled, datasets, loadgen
from mnv1deploy.errors import MnvError
from mnv1deploy.loadgen import SCENARIOS, Settings, read_summary

SHORT = 0.5


def mnv1_bench(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mnv1deploy.cli", "bench", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_scenario_runs_with_loadgens_own_logs(scenario: loadgen.Scenario, tmp_path: Path) -> None:
    (result,) = loadgen.run([bundled.INT8], Settings(scenario, min_seconds=SHORT), threads=1, logs=tmp_path)
    folder = Path(result.logs)
    assert folder == tmp_path / bundled.INT8.name / f"{scenario}-performance"
    assert {"mlperf_log_summary.txt", "mlperf_log_detail.txt"} <= {path.name for path in folder.iterdir()}
    assert result.valid is (result.summary["Result is"] == "VALID")
    assert result.valid or result.unmet
    assert result.value
    assert result.value > 0
    assert result.provider == "CPUExecutionProvider"
    assert result.images == len(datasets.sample())
    median = result.latency("50")
    assert median
    assert 0 < median <= (result.latency("99") or 0)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["single-stream", "server"])
def test_answers_are_those_of_the_session(scenario: loadgen.Scenario, tmp_path: Path) -> None:
    """One at a time, and through the server's queue."""
    from mnv1deploy import formats

    (result,) = loadgen.run([bundled.INT8], Settings(scenario, accuracy=True), threads=1, logs=tmp_path)
    data = datasets.sample()
    expected = (formats.open_session(bundled.INT8)(data.images).argmax(1) == data.labels).mean()
    assert result.top1 == pytest.approx(expected)
    assert result.valid is None
    rows = json.loads((Path(result.logs) / "mlperf_log_accuracy.json").read_text())
    assert sorted(row["qsl_idx"] for row in rows) == list(range(len(data)))


@pytest.mark.slow
def test_what_the_server_cannot_keep_is_invalid(tmp_path: Path) -> None:
    settings = Settings("server", min_seconds=SHORT, server_qps=50, server_seconds=1e-6)
    (result,) = loadgen.run([bundled.INT8], settings, threads=1, logs=tmp_path)
    assert result.valid is False
    assert "Performance constraints" in result.unmet


@pytest.mark.slow
def test_the_command_shows_engines_side_by_side_and_says_what_is_no_mlperf_result(tmp_path: Path) -> None:
    arguments = ["--scenario", "single-stream", "--min-duration", SHORT, "--threads", 1]
    done = mnv1_bench(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "this is no MLPerf result" in done.stdout
    assert done.stdout.count("VALID") >= 2
    assert (tmp_path / "loadgen" / bundled.FP32.name / "single-stream-performance").is_dir()
    done = mnv1_bench(*arguments, "--json", bundled.INT8, cwd=tmp_path)
    facts = json.loads(done.stdout)
    assert facts["settings"]["keeps_the_rules"] is False
    assert facts["results"][0]["summary"]["Scenario"] == "SingleStream"
    assert facts["loadgen"]


class Recorder:
    """In place of LoadGen and of a session: what was called, with how much, on which thread."""

    def __init__(self, *, fails: bool = False) -> None:
        self.batches: list[int] = []
        self.threads: set[int] = set()
        self.answered: list[tuple[int, int]] = []
        self._fails = fails

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.batches.append(len(images))
        self.threads.add(threading.get_ident())
        time.sleep(0.002)
        if self._fails:
            raise ValueError("no")
        return np.eye(256, dtype=np.float32)[images[:, 0, 0, 0]]

    def QuerySampleResponse(self, number: int, address: int, size: int) -> tuple[int, int]:  # noqa: N802
        import ctypes

        return number, ctypes.c_int64.from_address(address).value

    def QuerySamplesComplete(self, responses: list[tuple[int, int]]) -> None:  # noqa: N802
        self.answered += responses


def contestant(recorder: Recorder, *, queued: bool) -> loadgen._Contestant:
    images = np.arange(200, dtype=np.uint8).reshape(200, 1, 1, 1)
    return loadgen._Contestant(recorder, images, recorder, queued=queued)  # type: ignore[arg-type]


def samples(numbers: range) -> list[SimpleNamespace]:
    return [SimpleNamespace(id=1000 + number, index=number) for number in numbers]


def test_queries_of_many_threads_are_answered_once_each_by_the_one_that_calls_the_session() -> None:
    recorder = Recorder()
    tested = contestant(recorder, queued=True)
    senders = [
        threading.Thread(target=lambda start=start: [tested.issue([one]) for one in samples(range(start, start + 40))])  # type: ignore[misc]
        for start in range(0, 200, 40)
    ]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    tested.close()
    assert sorted(recorder.answered) == [(1000 + number, number) for number in range(200)]
    assert len(recorder.threads) == 1
    assert threading.get_ident() not in recorder.threads
    assert max(recorder.batches) > 1
    assert max(recorder.batches) <= loadgen.BATCH


def test_one_large_query_is_run_in_batches() -> None:
    recorder = Recorder()
    tested = contestant(recorder, queued=False)
    tested.issue(samples(range(200)))
    tested.close()
    assert recorder.batches == [64, 64, 64, 8]
    assert recorder.answered == [(1000 + number, number) for number in range(200)]


@pytest.mark.parametrize("queued", [False, True])
def test_an_engine_that_fails_is_told_of_and_loadgen_does_not_wait_for_ever(queued: bool) -> None:
    recorder = Recorder(fails=True)
    tested = contestant(recorder, queued=queued)
    tested.issue(samples(range(5)))
    tested.close()
    assert sorted(number for number, _ in recorder.answered) == list(range(1000, 1005))
    assert isinstance(tested.failure, ValueError)


def test_a_summary_is_read_by_loadgens_own_words() -> None:
    found = read_summary(
        "Result is : VALID\n  Min duration satisfied : NO\n50.00 percentile latency (ns)   : 12\nx\n* y\n"
    )
    assert found == {"Result is": "VALID", "Min duration satisfied": "NO", "50.00 percentile latency (ns)": "12"}


def test_what_is_shorter_than_the_rules_is_no_result() -> None:
    assert Settings("offline").keeps_the_rules
    assert not Settings("offline", min_seconds=599).keeps_the_rules
    assert not Settings("server", server_seconds=0.1).keeps_the_rules
    assert Settings("server", accuracy=True, min_seconds=1).keeps_the_rules
    for wrong in ({"min_seconds": 0}, {"server_qps": -1}, {"server_seconds": float("nan")}):
        with pytest.raises(MnvError, match="cannot be kept"):
            Settings("server", **wrong)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--accuracy"], 2, "--accuracy would change nothing without --scenario"),
        (["--scenario", "offline", "--batch-size", "8"], 2, "--batch-size would change nothing with --scenario"),
        (["--scenario", "offline", "--target-qps", "8"], 2, "--target-qps would change nothing"),
        (["--scenario", "server", "--threads", "1,2"], 2, "--scenario takes one --threads"),
        (["--scenario", "endless"], 2, "endless"),
        (["--scenario", "server", "none.onnx"], 1, "There is no file none.onnx"),
        (["--scenario", "server", "--logs", "file"], 1, "LoadGen's logs cannot be written"),
    ],
)
def test_wrong_usage_is_a_sentence(arguments: list[str], status: int, said: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = mnv1_bench(*arguments, cwd=tmp_path)
    assert done.returncode == status, done.stderr
    assert said in " ".join(done.stderr.split())


def test_mlperf_tinys_pictures_are_twenty_of_each_class() -> None:
    labels = np.arange(10_000) % 10
    found = mlperf_tiny.chosen(labels)
    assert len(set(found.tolist())) == 200
    assert np.bincount(labels[found]).tolist() == [20] * 10
    row = figures.measured()["tiny"][0]["results"][0]
    assert row["few"] >= mlperf_tiny.REQUIRED


def test_mlperf_tinys_pictures_are_the_published_ones(cifar10_test: datasets.Dataset) -> None:
    """The first and last of perf_samples_idxs.npy."""
    found = mlperf_tiny.chosen(cifar10_test.labels)
    assert found[:10].tolist() == [7657, 8959, 3596, 327, 2783, 6567, 7295, 1945, 8799, 4605]
