"""The wheel, in an environment of its own that has onnxruntime and no torch, far from the repo."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import export

from mnv1deploy import bundled, checkpoint, datasets, formats

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (found,) = folder.glob("*.whl")
    return found


def test_the_wheel_holds_the_bundled_files(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for name in ("calibration.webp", "calibration.json", "sample.webp", "sample.json"):
        assert f"mnv1deploy/data/{name}" in names
    for name in (".safetensors", "_int8.onnx", "_int8.onnx.json", "_fp32.onnx"):
        assert f"mnv1deploy/models/mobilenetv1_cifar10{name}" in names
    for path in bundled.CHECKPOINTS.values():
        assert {
            f"mnv1deploy/models/{path.stem}{end}" for end in (".safetensors", "_int8.onnx", "_int8.onnx.json")
        } <= names
    for name in ("best", "quick", "teacher"):
        assert f"mnv1deploy/training/recipes/{name}.toml" in names
    assert "mnv1deploy/py.typed" in names
    assert not any(name.startswith(("tests/", "docs/")) for name in names)
    assert wheel.stat().st_size < 8_000_000


def test_the_wheel_runs_with_its_engine_alone(wheel: Path, tmp_path: Path, cifar10_folder: Path) -> None:
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / "bin" / "python"
    install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", str(python)]
    subprocess.run([*install, str(wheel)], check=True)
    shutil.copy(ROOT / "examples" / "cat.png", tmp_path)
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}

    def mnv1(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(environment / "bin" / "mnv1"), *arguments]
        return subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True)

    absent = subprocess.run([str(python), "-c", "import torch"], capture_output=True, env=clean)
    assert absent.returncode == 1
    lacking = mnv1("predict", "cat.png")
    assert lacking.returncode == 1
    hint = re.search(r"pip install '(mnv1deploy\[cpu\])'", lacking.stderr)
    assert hint, lacking.stderr
    subprocess.run([*install, hint[1]], check=True)  # adds to what is installed, whether an index has a release or not
    predicted = mnv1("predict", "cat.png", "--json")
    assert predicted.returncode == 0, predicted.stderr
    assert json.loads(predicted.stdout)[0]["label"] == "cat"
    benched = mnv1("bench", "--duration", "0.02", "--provider", "CPUExecutionProvider")
    assert benched.returncode == 0, benched.stderr
    assert mnv1("info").returncode == 0
    evaluated = mnv1("evaluate", "--data", str(cifar10_folder), "--json")
    assert evaluated.returncode == 0, evaluated.stderr
    assert json.loads(evaluated.stdout)["images"] == 10_000
    for command, extra in ((["export"], "export"), (["train"], "train"), (["bench", "pytorch"], "train")):
        refused = mnv1(*command)
        assert refused.returncode == 1
        assert f"pip install 'mnv1deploy[{extra}]'" in refused.stderr
        assert "Traceback" not in refused.stderr


WITHOUT_TORCH = [e.name for e in map(formats.get, formats.exportable()) if "torch" not in e.runners and not e.elsewhere]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where environments are made one after another, so that modules which several have are compiled once."""
    return tmp_path_factory.mktemp("place")


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_an_artifact_runs_where_there_is_its_engine_and_nothing_else(
    wheel: Path, place: Path, name: str, tmp_path: Path
) -> None:
    entry = formats.get(name)
    network, images = checkpoint.load(bundled.CHECKPOINT).network, datasets.calibration().images
    artifact = export(network, name, entry.precisions[-1], tmp_path, images)
    python = place / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(place / "venv")], check=True)
    install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", str(python)]
    subprocess.run([*install, f"{wheel}[{entry.extra}]" if entry.extra else str(wheel)], check=True)
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    clean["PYTHONPYCACHEPREFIX"] = str(place / "compiled")
    for module in ("torch", "onnx"):
        absent = subprocess.run([str(python), "-c", f"import {module}"], capture_output=True, env=clean)
        assert absent.returncode == 1
    command = [str(python), "-m", "mnv1deploy.cli", "predict", ROOT / "examples" / "cat.png", "--json"]
    done = subprocess.run([*command, "--model", artifact], cwd=tmp_path, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["label"] == "cat"
