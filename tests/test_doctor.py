"""The doctor: engines that work, crash, hang and lie; versions that do not go together; what is nobody's business."""

import importlib.metadata as metadata
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mnv1deploy import doctor, formats
from mnv1deploy.doctor import Doubt, Engine, Report
from mnv1deploy.report import tables


def mnv1_doctor(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mnv1deploy.cli", "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def fake_engine(folder: Path, code: str) -> dict[str, str]:
    """An environment whose onnxruntime is this code."""
    (folder / "onnxruntime").mkdir()
    (folder / "onnxruntime" / "__init__.py").write_text(textwrap.dedent(code))
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


@pytest.mark.slow
def test_an_engine_that_works_is_run_and_its_answers_are_judged() -> None:
    done = mnv1_doctor("onnx", "coreml", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["is_well"]
    onnx, coreml = facts["engines"]
    assert (onnx["format"], onnx["status"]) == ("onnx", "works")
    assert onnx["versions"] == {"onnxruntime": metadata.version("onnxruntime")}
    assert "CPUExecutionProvider" in onnx["providers"]
    assert "mobilenetv1_cifar10_int8.onnx: 9" in onnx["detail"]
    assert coreml["status"] == ("works" if sys.platform == "darwin" else "elsewhere")
    assert facts["machine"]["Python"].startswith(f"CPython {sys.version.split()[0]}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os; os.abort()", "SIGABRT"),
        ("import os, signal; print('noise'); os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        (
            "import os, sys; sys.stderr.write('no such symbol: x\\n'); os._exit(3)",
            "exit code 3, saying: no such symbol: x",
        ),
        ("raise ImportError('libwhatever.so.1: cannot open shared object file')", "cannot be imported"),
        ("", "AttributeError"),
    ],
    ids=["aborts", "segmentation fault", "leaves", "cannot be imported", "is empty"],
)
def test_an_engine_that_dies_is_a_line_and_not_the_end(code: str, said: str, tmp_path: Path) -> None:
    done = mnv1_doctor("onnx", "coreml", "--json", **fake_engine(tmp_path, code))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    facts = json.loads(done.stdout)
    assert not facts["is_well"]
    onnx, coreml = facts["engines"]
    assert onnx["status"] == "broken"
    assert said in onnx["detail"]
    assert coreml["status"] != "broken"


def test_an_engine_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    child = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(77)']); "
    command = [sys.executable, "-c", child + "time.sleep(77)"]
    answer = doctor._in_a_process(command, tmp_path, 2)
    assert answer == {"status": "broken", "detail": "It had not ended after 2 seconds."}


def test_what_an_engine_prints_is_no_answer(tmp_path: Path) -> None:
    command = [sys.executable, "-c", 'print(\'{"status": "works"}\')']
    assert doctor._in_a_process(command, tmp_path, 20)["status"] == "broken"


def test_an_engine_that_answers_wrongly_is_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Wrong:
        def __call__(self, images):  # type: ignore[no-untyped-def]
            from numpy import eye, float32

            return eye(10, dtype=float32)[[3] * len(images)]

    monkeypatch.setattr(formats, "open_session", lambda *_, **__: Wrong())
    answer = doctor._try("onnx", tmp_path)
    assert answer["status"] == "broken"
    assert "is right in" in answer["detail"]
    answer = doctor._try("torchscript", tmp_path)
    assert answer["status"] == "broken"
    assert "gives other logits than PyTorch" in answer["detail"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torchscript", "c"])
def test_the_smallest_artifact_is_written_and_run(name: str, tmp_path: Path) -> None:
    """In float and in int8."""
    answer = doctor._try(name, tmp_path)
    assert answer["status"] == "works", answer
    assert "written and run in" in answer["detail"]


@pytest.mark.slow
def test_what_is_not_installed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "missing", lambda packages: list(packages))
    (engine,) = doctor.examine(["litert"]).engines
    assert engine.status == "not installed"
    assert "pip install 'mnv1deploy[litert]'" in engine.detail
    monkeypatch.setattr(doctor, "missing_to_export", lambda entry: ["torch"])
    answer = doctor._try("torchscript", tmp_path)
    assert answer["status"] == "not tried"
    assert "to write something to run takes torch" in answer["detail"]


def test_two_packages_that_hold_one_module_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime and onnxruntime-gpu: whichever came last has overwritten the other."""
    holders = {"onnxruntime": ["onnxruntime", "onnxruntime-gpu", "onnxruntime"], "torch": ["torch"]}
    monkeypatch.setattr(metadata, "packages_distributions", lambda: holders)
    (doubt,) = doctor._overwritten()
    assert "onnxruntime and onnxruntime-gpu are both installed" in doubt.what


def test_requirements_that_are_not_met_are_named_with_whose_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    from packaging.requirements import Requirement

    monkeypatch.setattr(doctor, "_requirements", lambda: iter([(Requirement("numpy>=99"), "gpu")]))
    monkeypatch.setattr(doctor, "_packages", lambda: {"torch": "2.0"})
    monkeypatch.setattr(
        metadata, "requires", lambda name: ["pillow<1", "rich>1", "nosuchpackage>3", 'typer>99; extra == "x"']
    )
    found = list(doctor._unmet())
    assert [doubt.source for doubt in found] == ["the requirements of mnv1deploy", "the requirements of torch"]
    assert "mnv1deploy[gpu] needs numpy >=99" in found[0].what
    assert "torch needs pillow <1" in found[1].what


@pytest.mark.slow
def test_telemetry_that_was_switched_on_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "versions", lambda *_: {"onnxruntime": "1.32.0"})
    for value, expected in (("0", 1), ("1", 0)):
        monkeypatch.setenv("ORT_DISABLE_TELEMETRY", value)
        assert sum("reports its use" in doubt.what for doubt in doctor.doubts()) == expected


def test_a_report_names_no_user_and_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNV1_DATA", "/somewhere/of/mine")
    monkeypatch.setenv("MNV1_C_BACKEND", "portable")
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    facts = doctor.machine()
    text = json.dumps(facts)
    for private in ("/somewhere", "hunter2", "SECRET_TOKEN", str(Path.home()) + "/", str(Path(sys.prefix).parent)):
        assert private not in text
    assert "MNV1_DATA=a path" in facts["variables"]
    assert "MNV1_C_BACKEND=portable" in facts["variables"]
    assert {"Python", "system", "processor", "memory", "GPU", "C compiler", "packages"} <= set(facts)
    assert "numpy" in facts["packages"]
    assert doctor._shareable(f"{Path.home()}/x") in ("~/x", f"{Path.home()}/x")


def test_packages_of_the_extras_are_named_once_and_those_of_developers_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that fails is reported with the versions of its packages."""
    from packaging.requirements import Requirement

    own = [("numpy", ""), ("mnn", "mnn"), ("starlette", "serve"), ("ray", "ray"), ("mypy", "dev")]
    monkeypatch.setattr(doctor, "_requirements", lambda: [(Requirement(name), extra) for name, extra in own])
    named = doctor._packages()
    assert {"numpy", "MNN", "starlette", "ray"} <= set(named)
    assert {"mypy", "mnn"}.isdisjoint(named)


def test_it_is_one_screen(capsys: pytest.CaptureFixture[str]) -> None:
    engines = tuple(Engine(name, "works", {"e": "1"}, ("CPUExecutionProvider",), "x", 1.0) for name in formats.NAMES)
    broken = Engine("onnx", "broken", {}, (), "died of SIGSEGV")
    tables.show_doctor(Report(doctor.machine(), (*engines, broken), (Doubt("A and B clash.", "their files"),)))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 45
    assert lines[-1] == "Broken: onnx."
    assert "A and B clash. (From their files.)" in lines


def test_a_format_that_there_is_none_of_is_wrong_usage() -> None:
    done = mnv1_doctor("tensorcore")
    assert done.returncode == 2
    assert "There is no format called tensorcore" in done.stderr
