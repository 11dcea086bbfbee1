"""The bundled networks: a ladder of widths, each proved, and known by name."""

from pathlib import Path

import pytest
from commands import mnv1

from mnv1deploy import bundled, checkpoint
from mnv1deploy.artifact import Manifest
from mnv1deploy.benchmark import contestants
from mnv1deploy.spec import CIFAR
from mnv1deploy.training import start


@pytest.mark.parametrize("name", bundled.CHECKPOINTS)
def test_int8_of_every_width_loses_less_than_a_tenth_of_a_point(name: str) -> None:
    kept = checkpoint.load(bundled.CHECKPOINTS[name])
    assert kept.spec.blocks == CIFAR.scaled(float(name[1:])).blocks
    manifest = Manifest.read(bundled.artifact(name))
    assert manifest
    assert manifest.provenance.spec.blocks == kept.spec.blocks
    proof = manifest.proof
    assert proof and proof.accuracy and proof.checkpoint_accuracy
    assert proof.checkpoint_accuracy == kept.accuracy[0]
    assert proof.accuracy.images == 10_000
    assert proof.accuracy.top1 > proof.checkpoint_accuracy.top1 - 0.001


def test_wider_networks_are_more_accurate_and_larger() -> None:
    paths = list(bundled.CHECKPOINTS.values())
    accuracies = [checkpoint.load(path).accuracy[0].top1 for path in paths]
    assert accuracies == sorted(accuracies)
    assert [path.stat().st_size for path in paths] == sorted(path.stat().st_size for path in paths)


def test_a_file_of_such_a_name_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bundled.checkpoint("w0.25") == bundled.CHECKPOINTS["w0.25"]
    assert bundled.artifact("w1") == bundled.INT8
    assert bundled.artifact("some.onnx") == Path("some.onnx")
    monkeypatch.chdir(tmp_path)
    Path("w0.25").write_text("mine")
    assert bundled.checkpoint("w0.25") == bundled.artifact("w0.25") == Path("w0.25")


@pytest.mark.slow
def test_commands_know_them_by_name(tmp_path: Path) -> None:
    done = mnv1("export", "--checkpoint", "w0.25", "--quantize", "int8", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "mobilenetv1_cifar10_w0.25_int8.onnx" in done.stdout
    shown = mnv1("info", "w0.5", cwd=tmp_path).stdout
    assert bundled.artifact("w0.5").name in shown
    assert contestants(["w0.75", "pytorch"]) == [str(bundled.artifact("w0.75")), "pytorch"]
    assert mnv1("predict", "--model", "w0.3", "cat.png", cwd=tmp_path).returncode == 1


@pytest.mark.slow
@pytest.mark.parametrize("width", [0.25, 1.0, 0.4])
def test_few_pictures_start_from_the_one_of_their_width(width: float, class_folders: Path, tmp_path: Path) -> None:
    ready = start.begin(tmp_path / "run", class_folders, width=width)
    found = bundled.CHECKPOINTS.get(f"w{width:g}")
    assert ready.run.init == (found.name if found else "")
    named = start.begin(tmp_path / "run", class_folders, init="w0.5")
    assert named.run.spec.blocks == CIFAR.scaled(0.5).blocks
