"""The whole way from a checkpoint to a proved artifact, and what happens to one that is not."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mnv1deploy as mnv1
from mnv1deploy import bundled, checkpoint, datasets, exporting, formats, verification
from mnv1deploy.artifact import Manifest
from mnv1deploy.errors import MnvError
from mnv1deploy.files import sha256
from mnv1deploy.network import MobileNetV1
from mnv1deploy.spec import CIFAR
from mnv1deploy.verification import Limits


def test_int8_reaches_its_limits_on_the_10_000_test_images(cifar10_test: datasets.Dataset, tmp_path: Path) -> None:
    for item in mnv1.export(["onnx", "torchscript", "litert"], "int8", output=tmp_path):
        proof = item.proof
        assert item.failures == ()
        assert proof is not None
        assert proof.accuracy is not None
        assert proof.checkpoint_accuracy is not None
        assert proof.accuracy.on == "CIFAR-10 test split"
        assert proof.accuracy.images == 10_000
        assert proof.accuracy.top1 >= proof.checkpoint_accuracy.top1 - 0.003
        assert proof.agreement >= 0.985
        assert item.path.stat().st_size < 400_000
        manifest = Manifest.read(item.path)
        assert manifest == item.manifest
        assert manifest.provenance.checkpoint_sha256 == sha256(bundled.CHECKPOINT)
        assert manifest.provenance.quantization == {
            "quantizer": "mnv1deploy",
            "ranges": "percentile",
            "equalization": 0.5,
            "compensation": True,
            "bias_correction": True,
            "images": 512,
            "calibration": "512 bundled CIFAR-10 training images",
        }


@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-4), ("fp16", 0.1)])
def test_float_precisions(precision: exporting.Precision, limit: float, offline: Path, tmp_path: Path) -> None:
    for item in exporting.export("all", precision, output=tmp_path / "out"):
        assert item.failures == ()
        if item.manifest.not_run:
            assert item.proof is None
            continue
        assert item.proof is not None
        assert item.proof.max_logit_difference <= limit
        assert item.proof.accuracy is not None
        assert item.proof.accuracy.on == "1,000-image sample of the CIFAR-10 test split"
        assert mnv1.load(item.path).spec == CIFAR


def test_the_shipped_artifacts_are_what_the_exporter_writes(tmp_path: Path) -> None:
    """The bytes of another version of torch or onnx may differ; the answers may not."""
    images = datasets.sample().images
    for path, precision in ((bundled.FP32, "fp32"), (bundled.INT8, "int8")):
        (item,) = exporting.export("onnx", precision, output=tmp_path)  # type: ignore[arg-type]
        ours, shipped = formats.open_session(item.path)(images), formats.open_session(path)(images)
        np.testing.assert_allclose(ours, shipped, atol=1e-5)


def test_an_artifact_that_fails_its_proof_leaves_nothing(
    offline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(verification.LIMITS, "int8", Limits(0.0, 1.01, 0.0))
    output = tmp_path / "out"
    (item,) = exporting.export("onnx", "int8", output=output)
    assert len(item.failures) >= 2
    assert "a logit differs by" in item.failures[0]
    assert list(output.iterdir()) == []


def test_an_older_artifact_survives_a_failed_export(
    offline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first,) = exporting.export("onnx", "int8", output=tmp_path / "out")
    monkeypatch.setitem(verification.LIMITS, "int8", Limits(0.0, 1.0, 0.0))
    (second,) = exporting.export("onnx", "int8", output=tmp_path / "out")
    assert second.failures
    assert Manifest.read(first.path) == first.manifest


@pytest.mark.parametrize(
    ("format", "precision", "message"),
    [("caffe", "fp32", "no format called caffe"), ("pytorch", "fp32", "cannot be exported in fp32")],
)
def test_formats_that_are_not_there(format: str, precision: exporting.Precision, message: str) -> None:
    with pytest.raises(MnvError, match=message):
        list(exporting.export(format, precision))


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A checkpoint with two classes of its own, at 48 pixels."""
    torch.manual_seed(0)
    network = MobileNetV1(CIFAR.scaled(0.5).replace(name="pets", classes=("cat", "dog"), input_size=48)).eval()
    with torch.no_grad():
        network.classifier.weight.mul_(100)
    path = tmp_path / "pets.safetensors"
    checkpoint.save(path, network, training={})
    return path


def test_other_classes_need_their_own_pictures(pets: Path, tmp_path: Path) -> None:
    with pytest.raises(MnvError, match="this network has other classes") as refusal:
        list(exporting.export("onnx", "int8", checkpoint_path=pets, output=tmp_path))
    assert "--calibration" in refusal.value.hint


def test_other_classes_with_their_own_pictures(pets: Path, class_folders: Path, tmp_path: Path) -> None:
    (item,) = exporting.export(
        "onnx", "fp32", checkpoint_path=pets, output=tmp_path, calibration=class_folders, data=class_folders
    )
    assert item.failures == ()
    assert item.proof is not None
    assert item.proof.images == "80 pictures in pets"
    assert item.proof.accuracy is not None
    assert item.proof.accuracy.images == 16
    assert item.path.name == "pets_fp32.onnx"
    (bare,) = exporting.export("onnx", "fp32", checkpoint_path=pets, output=tmp_path, calibration=class_folders)
    assert bare.proof is not None
    assert bare.proof.accuracy is None


def test_calibration_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(MnvError, match="There is no folder"):
        list(exporting.export(calibration=tmp_path / "none"))
    with pytest.raises(MnvError, match="There is no picture"):
        list(exporting.export(calibration=tmp_path))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(MnvError, match=r"broken\.png cannot be read"):
        list(exporting.export(calibration=tmp_path))


def test_int8_is_calibrated_on_the_pictures_given(class_folders: Path, offline: Path, tmp_path: Path) -> None:
    (item,) = exporting.export("onnx", "int8", output=tmp_path / "out", calibration=class_folders)
    assert item.manifest.provenance.quantization is not None
    assert item.manifest.provenance.quantization["calibration"] == "80 pictures in pets"


def test_manifest_is_plain_json(offline: Path, tmp_path: Path) -> None:
    (item,) = exporting.export("onnx", output=tmp_path / "out")
    data = json.loads((tmp_path / "out" / "mobilenetv1_cifar10_fp32.onnx.json").read_text())
    assert set(data) == {"provenance", "files", "proof", "not_run"}
    assert data["files"][item.path.name] == {"bytes": item.path.stat().st_size, "sha256": sha256(item.path)}


def test_pictures_at_the_networks_size_are_read_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    pixels = datasets.calibration().images[:5]
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{number}.png")
    found, name = exporting.calibration_images(CIFAR, folder)
    np.testing.assert_array_equal(found, pixels)
    assert name == "5 pictures in pictures"
