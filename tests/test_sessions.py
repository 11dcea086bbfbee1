"""A session in threads, in other processes and after a fork; files that say what is not so."""

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import export

import mnv1deploy as mnv1
from mnv1deploy import bundled, checkpoint, datasets, formats, schema
from mnv1deploy.artifact import Precision
from mnv1deploy.errors import MnvError

pytestmark = pytest.mark.slow

CASES: list[tuple[str, Precision]] = [
    (name, precision)
    for name in formats.exportable()
    for precision in formats.get(name).precisions
    if precision != "fp16" and not formats.get(name).elsewhere
]


def artifact(name: str, precision: Precision, folder: Path) -> Path:
    return export(checkpoint.load(bundled.CHECKPOINT).network, name, precision, folder, datasets.calibration().images)


@pytest.mark.parametrize(("name", "precision"), [*CASES, ("pytorch", "fp32")])
def test_eight_threads_get_the_bits_that_one_gets(name: str, precision: Precision, tmp_path: Path) -> None:
    """OpenVINO gave wrong labels without a word, MNN and Micro some, and LiteRT raised."""
    path = bundled.CHECKPOINT if name == "pytorch" else artifact(name, precision, tmp_path)
    session = formats.open_session(path, threads=1)
    images = datasets.calibration().images
    calls = [images[i : i + 1 + i % 2] for i in range(40)]
    expected = [session(call).tobytes() for call in calls]
    rounds = 1 if name == "tflm" else 2  # a call of Micro's takes 10 ms, in which every other thread comes by
    wrong: list[object] = []
    start = threading.Barrier(8)

    def hammer(seed: int) -> None:
        start.wait()
        try:
            for i in np.random.default_rng(seed).permutation(len(calls)).tolist() * rounds:
                if session(calls[i]).tobytes() != expected[i]:
                    wrong.append(i)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=hammer, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("path", [bundled.INT8, bundled.CHECKPOINT], ids=lambda path: path.suffix)
def test_a_classifier_pickles(path: Path) -> None:
    classifier = mnv1.load(path, threads=1)
    again = pickle.loads(pickle.dumps(classifier))
    pictures = datasets.sample().images[:5]
    np.testing.assert_array_equal(again(pictures), classifier(pictures))
    assert again.session.threads == 1
    assert again.session.path == path


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_worker_processes_take_a_classifier(method: str) -> None:
    classifier = mnv1.load(threads=1)
    pictures = list(datasets.sample().images[:4])
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.map(classifier.predict, pictures) == [classifier.predict(picture) for picture in pictures]


FORK = """
import os, signal, sys, warnings
warnings.simplefilter("ignore")
import numpy as np
from mnv1deploy import datasets, formats
from mnv1deploy.errors import MnvError
session = formats.open_session(sys.argv[1], threads=2)
images = datasets.calibration().images[:16]
before = session(images)
child = os.fork()
if child == 0:
    signal.alarm(60)  # ends a child that hangs
    try:
        sys.exit(0 if np.array_equal(session(images), before) else 3)
    except MnvError as error:
        sys.exit(7 if "spawn" in str(error) else 4)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
assert np.array_equal(session(images), before)
os._exit(status)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is none")
@pytest.mark.parametrize(("name", "precision"), [case for case in CASES if case[1] == "int8"])
def test_a_forked_child_answers_or_says_that_it_cannot(name: str, precision: Precision, tmp_path: Path) -> None:
    """It used to wait for ever for threads that had stayed with the parent: when it asked, or when it ended."""
    path = artifact(name, precision, tmp_path)
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", FORK, str(path)], env=environment, timeout=200)
    assert done.returncode == (0 if formats.open_session(path).engine.forks else 7)


def test_onnxruntimes_threads_sleep_between_calls() -> None:
    """They kept a processor busy for 50 ms after each, which decoding threads then had not."""
    session = formats.open_session(bundled.INT8, threads=2)
    used = []
    for _ in range(5):
        session(np.zeros((32, 32, 32, 3), np.uint8))
        before = time.process_time()
        time.sleep(0.1)
        used.append(time.process_time() - before)
    assert min(used) < 0.01


@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("0", "0")])
def test_onnxruntime_does_not_report_what_it_is_used_for(given: str | None, expected: str) -> None:
    """Unless somebody says that it may."""
    script = "import os, mnv1deploy; mnv1deploy.load(); print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    if given is not None:
        environment["ORT_DISABLE_TELEMETRY"] = given
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == [expected], done.stderr


@pytest.mark.parametrize("images", [None, [[1]], "cat.png", 3], ids=str)
def test_what_is_no_array_is_refused_in_a_sentence(images: object) -> None:
    with pytest.raises(MnvError, match="takes a numpy array"):
        mnv1.load()(images)  # type: ignore[arg-type]


def test_an_artifact_without_a_manifest_says_so_once(tmp_path: Path) -> None:
    copied = tmp_path / "net.onnx"
    copied.write_bytes(bundled.INT8.read_bytes())
    (note,) = formats.open_session(copied).notes
    assert "no manifest net.onnx.json beside it" in note
    assert formats.open_session(bundled.INT8).notes == ()
    assert formats.open_session(bundled.CHECKPOINT).notes == ()


@pytest.mark.parametrize("name", formats.NAMES)
def test_what_executes_code_says_so_before_it_is_opened(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"net{formats.get(name).suffix}"
    path.write_bytes(b"nothing that could be opened")
    notes = formats.notes(path)
    assert any("is code that runs as you" in note for note in notes) == (name in ("torchscript", "aoti", "c"))
    assert any("has no manifest" in note for note in notes) == (name != "pytorch")


def test_a_provenance_of_blanks_is_not_unpacked(tmp_path: Path) -> None:
    """A zip archive of some kilobytes may hold gigabytes."""
    path = tmp_path / "net.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/extra/mnv1deploy.json", b" " * (schema.LIMIT + 1))
    with pytest.raises(MnvError, match="more than"):
        formats.get("torchscript").provenance(path)


@pytest.mark.parametrize("arena", [0, 1, 100, True, "100000", -5], ids=str)
def test_an_arena_that_is_too_small_is_refused(arena: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Micro wrote past its end, and the process died of signal 11."""
    path = artifact("tflm", "int8", tmp_path)
    said = formats.get("tflm").provenance(path)
    assert said
    lie = replace(said, quantization={**(said.quantization or {}), "arena_bytes": arena})
    monkeypatch.setattr("mnv1deploy.formats.tflm.read_provenance", lambda path: lie)
    with pytest.raises(MnvError, match="needs an arena of"):
        formats.open_session(path)
