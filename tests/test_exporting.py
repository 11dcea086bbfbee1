"""The whole way from a checkpoint to a proved artifact, and what happens to one that is not."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mnv1deploy as mnv1
from mnv1deploy import bundled, checkpoint, datasets, evidence, exporting, formats, images, verification
from mnv1deploy.artifact import Manifest
from mnv1deploy.camera import Camera
from mnv1deploy.device import Device
from mnv1deploy.errors import MnvError
from mnv1deploy.exporting import Exported
from mnv1deploy.files import sha256
from mnv1deploy.network import MobileNetV1
from mnv1deploy.quantization import quantize
from mnv1deploy.spec import CIFAR
from mnv1deploy.verification import Limits


@pytest.mark.slow
def test_int8_reaches_its_limits_on_the_10_000_test_images(cifar10: Path, tmp_path: Path) -> None:
    for item in mnv1.export(["onnx", "litert"], "int8", output=tmp_path):
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


@pytest.mark.slow
def test_fp32_of_every_format(tmp_path: Path) -> None:
    for item in exporting.export("all", "fp32", output=tmp_path / "out"):
        assert item.failures == ()
        if item.manifest.not_run:
            assert item.proof is None
            continue
        assert item.proof is not None
        assert item.proof.max_logit_difference <= 1e-4
        assert item.proof.accuracy is not None
        assert item.proof.accuracy.on == "1,000-image sample of the CIFAR-10 test split"
        assert mnv1.load(item.path).spec.replace(temperature=1.0) == CIFAR


@pytest.mark.slow
def test_an_artifact_that_fails_its_proof_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(verification.LIMITS, "fp32", Limits(0.0, 1.01, 0.0, 0.0, 0.0))
    output = tmp_path / "out"
    (item,) = exporting.export("onnx", "fp32", output=output)
    assert len(item.failures) >= 2
    assert "a logit differs by" in item.failures[0]
    assert list(output.iterdir()) == []


@pytest.mark.slow
def test_an_older_artifact_survives_a_failed_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (first,) = exporting.export("onnx", "fp32", output=tmp_path / "out")
    monkeypatch.setitem(verification.LIMITS, "fp32", Limits(0.0, 1.0, 0.0, 0.0, 0.0))
    (second,) = exporting.export("onnx", "fp32", output=tmp_path / "out")
    assert second.failures
    assert Manifest.read(first.path) == first.manifest


@pytest.mark.parametrize(
    ("format", "precision", "message"),
    [("caffe", "fp32", "no format called caffe"), ("pytorch", "fp32", "cannot be exported in fp32")],
)
def test_formats_that_are_not_there(format: str, precision: exporting.Precision, message: str) -> None:
    with pytest.raises(MnvError, match=message):
        exporting.export(format, precision)


@pytest.fixture(scope="module")
def renamed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled checkpoint with names of its own for its classes, so that nothing bundled is known to be its data."""
    network = checkpoint.load(bundled.CHECKPOINT).network
    network.spec = CIFAR.replace(name="own", classes=tuple(f"class {i}" for i in range(10)))
    path = tmp_path_factory.mktemp("renamed") / "own.safetensors"
    checkpoint.save(path, network, training={})
    return path


@pytest.mark.slow
def test_cifar10_is_known_in_any_order_and_spelling(tmp_path: Path) -> None:
    """Neither calibration nor accuracy needs pictures of the user's; an export is done when it returns."""
    network = checkpoint.load(bundled.CHECKPOINT).network
    classes = ("lorry", "boat", "horse", "frog", "dog", "deer", "cat", "bird", "Car", "plane")
    with torch.no_grad():
        for parameter in network.classifier.parameters():
            parameter.copy_(parameter.flip(0))
    network.spec = CIFAR.replace(classes=classes)
    checkpoint.save(tmp_path / "own.safetensors", network, training={})
    mnv1.export("onnx", checkpoint_path=tmp_path / "own.safetensors", output=tmp_path)
    session = formats.open_session(tmp_path / f"{CIFAR.name}_fp32.onnx")
    manifest = Manifest.read(tmp_path / f"{CIFAR.name}_fp32.onnx")
    assert manifest and manifest.proof and manifest.proof.accuracy
    assert manifest.proof.accuracy.top1 > 0.9
    found = verification.evaluate(session, datasets.sample())
    assert found.accuracy.top1 == manifest.proof.accuracy.top1
    assert found.dataset.classes == classes
    gathered = evidence.gather(network.spec, "int8", None, None)
    assert gathered.calibration and gathered.calibration.name == evidence.bundled(CIFAR).name
    assert gathered.labelled and gathered.labelled.classes == classes


def own_export(network: Path, output: Path, precision: exporting.Precision = "int8", **pictures: Path) -> Exported:
    (item,) = exporting.export("onnx", precision, checkpoint_path=network, output=output, **pictures)  # type: ignore[arg-type]
    return item


def write(folder: Path, pictures: np.ndarray) -> Path:
    folder.mkdir(parents=True)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{number}.png")
    return folder


def test_int8_of_other_classes_needs_their_own_pictures(renamed: Path, tmp_path: Path) -> None:
    with pytest.raises(MnvError, match="this network has other classes") as refusal:
        own_export(renamed, tmp_path)
    assert "--data" in refusal.value.hint
    assert "--calibration" in refusal.value.hint


@pytest.mark.slow
def test_fp32_of_other_classes_is_proved_on_any_pictures(renamed: Path, tmp_path: Path) -> None:
    item = own_export(renamed, tmp_path, "fp32")
    assert item.failures == ()
    assert item.proof is not None
    assert (item.proof.images, item.proof.others) == (datasets.calibration().name, "28 synthetic pictures")
    assert item.proof.accuracy is None


RANDOM = np.random.default_rng(0)
ONE = datasets.calibration().images[:1]
USELESS = {
    "black": np.zeros((20, 32, 32, 3), np.uint8),
    "nearly black": RANDOM.integers(0, 3, (20, 32, 32, 3), np.uint8),
    "grey": np.full((20, 32, 32, 3), 128, np.uint8),
    "one white picture": np.full((1, 32, 32, 3), 255, np.uint8),
    "colours": np.broadcast_to(RANDOM.integers(0, 256, (20, 1, 1, 3), np.uint8), (20, 32, 32, 3)),
    "noise": RANDOM.integers(0, 256, (200, 32, 32, 3), np.uint8),
    "one picture": ONE,
    "copies": np.repeat(ONE, 20, 0),
    "near copies": (ONE // 2 + RANDOM.integers(0, 5, (200, 32, 32, 3))).astype(np.uint8),
    "eight real ones": datasets.calibration().images[:8],
}


@pytest.mark.parametrize("pictures", USELESS)
def test_pictures_that_cannot_calibrate_are_refused(pictures: str, renamed: Path, tmp_path: Path) -> None:
    """Black ones were "100 % agreement, proved" with an accuracy of 27 %."""
    folder = write(tmp_path / "pictures", USELESS[pictures])
    with pytest.raises(MnvError, match="different pictures are too few to calibrate") as refusal:
        own_export(renamed, tmp_path / "out", calibration=folder)
    assert "16 or more" in refusal.value.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("pictures", ["nearly black", "noise", "near copies"])
def test_a_proof_catches_useless_calibration_by_its_logits(
    pictures: str, renamed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were such pictures let through, the held-out ones would say nothing: those that are bundled do."""
    monkeypatch.setattr(evidence, "FEWEST", 0)
    item = own_export(renamed, tmp_path / "out", calibration=write(tmp_path / "pictures", USELESS[pictures]))
    assert any("128 bundled pictures" in failure for failure in item.failures)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.slow
def test_a_small_folder_of_two_classes_is_enough(renamed: Path, class_folders: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "pictures", images.read_all(images.find([class_folders])[20:60], CIFAR.pixels))
    item = own_export(renamed, tmp_path / "out", calibration=folder)
    assert item.failures == ()
    assert item.proof is not None
    assert item.proof.images == "8 held-out pictures of 40 pictures in pictures"
    assert item.proof.count == 8
    assert item.manifest.provenance.quantization is not None
    assert item.manifest.provenance.quantization["calibration"] == "32 of 40 pictures in pictures"


@pytest.fixture(scope="module")
def two_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled network as one of cats and dogs."""
    whole = checkpoint.load(bundled.CHECKPOINT).network
    network = MobileNetV1(CIFAR.replace(name="pets", classes=("cat", "dog")))
    state = whole.state_dict()
    state |= {name: state[name][[3, 5]] for name in ("classifier.weight", "classifier.bias")}
    network.load_state_dict(state)
    path = tmp_path_factory.mktemp("two") / "pets.safetensors"
    checkpoint.save(path, network.eval(), training={})
    return path


@pytest.mark.slow
@pytest.mark.parametrize("named", ["both", "data alone"])
def test_no_picture_is_calibrated_on_that_accuracy_is_proved_on(
    named: str, two_classes: Path, class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--calibration pets --data pets`` calibrated on all 80, of which 16 are the test part."""
    seen: list[np.ndarray] = []
    monkeypatch.setattr(
        exporting.quantization,
        "quantize",
        lambda folded, images, *rest: seen.append(images) or quantize(folded, images, *rest),
    )
    given = {"data": class_folders} | ({"calibration": class_folders} if named == "both" else {})
    item = own_export(two_classes, tmp_path / "out", **given)
    assert item.failures == ()
    assert item.proof is not None
    assert item.proof.accuracy is not None
    assert item.proof.accuracy.images == item.proof.count == 16
    train, test = datasets.load(class_folders, CIFAR.pixels)
    calibrated, trained, tested = ({image.tobytes() for image in part} for part in (seen[0], train.images, test.images))
    assert calibrated == trained
    assert not calibrated & tested
    assert item.path.name == "pets_int8.onnx"


def test_what_is_held_out_does_not_depend_on_names_or_order(renamed: Path, class_folders: Path, tmp_path: Path) -> None:
    pictures = images.read_all(images.find([class_folders]), CIFAR.pixels)
    spec = checkpoint.load(renamed).spec
    first = evidence.gather(spec, "int8", write(tmp_path / "a", pictures), None)
    second = evidence.gather(spec, "int8", write(tmp_path / "b", np.concatenate([pictures[::-1], pictures[:9]])), None)
    np.testing.assert_array_equal(first.unseen.images, second.unseen.images)
    assert first.calibration is not None
    assert second.calibration is not None
    np.testing.assert_array_equal(first.calibration.images, second.calibration.images)
    assert (len(first.unseen), len(first.calibration)) == (16, 64)


def test_calibrating_on_the_test_part_alone_is_refused(two_classes: Path, class_folders: Path, tmp_path: Path) -> None:
    test = write(tmp_path / "test", datasets.load(class_folders, CIFAR.pixels)[1].images)
    with pytest.raises(MnvError, match="are among those it is to be proved on"):
        own_export(two_classes, tmp_path / "out", calibration=test, data=class_folders)


# Untrained networks ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_untrained_network_is_exported_and_says_so(tmp_path: Path) -> None:
    spec = exporting.untrained_spec("cifar", width=0.25, input_size=40, colours=1, classes=3)
    items = list(exporting.export(["onnx", "litert"], "int8", untrained=spec, output=tmp_path))
    assert [item.path.name for item in items] == [
        "mobilenetv1_cifar10_untrained_int8.onnx",
        "mobilenetv1_cifar10_untrained_int8.tflite",
    ]
    for item in items:
        manifest = Manifest.read(item.path)
        assert manifest is not None
        assert manifest.proof is None
        assert "weights are random" in manifest.not_run
        assert (item.failures, manifest.provenance.checkpoint_sha256) == ((), "")
    logits = formats.open_session(items[0].path)(np.zeros((2, 40, 40, 1), np.uint8))
    assert logits.shape == (2, 3)


def test_an_artifact_says_how_jpegs_are_decoded(tmp_path: Path) -> None:
    picture = Path(__file__).parents[1] / "examples" / "truck.jpg"
    spec = CIFAR.scaled(0.25).replace(input_size=16)
    (item,) = exporting.export(untrained=spec, jpeg="scaled", output=tmp_path)
    scaled, pixels = mnv1.load(item.path), item.spec.pixels
    assert pixels.preprocessing.jpeg == "scaled"
    expected = scaled(images.read(picture, pixels)[None])
    assert scaled.predict(picture) == scaled.named(expected)[0]
    whole = mnv1.load(item.path, jpeg="whole")
    assert whole.spec.pixels == spec.pixels
    assert whole.predict(picture).top != scaled.predict(picture).top


def test_what_decodes_jpegs_itself_refuses_to_scale_them(tmp_path: Path) -> None:
    with pytest.raises(MnvError, match="web cannot be exported with --jpeg scaled: browsers decode no JPEG"):
        exporting.export(["onnx", "web"], "int8", untrained=CIFAR, jpeg="scaled", output=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_untrained_specs(tmp_path: Path) -> None:
    file = tmp_path / "spec.json"
    file.write_text(CIFAR.replace(name="mine").to_json())
    assert exporting.untrained_spec(str(file)).name == "mine"
    assert len(exporting.untrained_spec("paper").classes) == 1000
    with pytest.raises(MnvError, match="no preset and no file"):
        exporting.untrained_spec("large")


@pytest.mark.parametrize("name", ["net.onnx", "net.tflite", "net.safetensors"])
def test_an_output_that_is_an_artifacts_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(MnvError, match="is the name of an artifact"):
        list(exporting.export("onnx", output=tmp_path / name))
    assert list(tmp_path.iterdir()) == []


def test_calibration_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(MnvError, match="There is no folder"):
        list(exporting.export(calibration=tmp_path / "none"))
    with pytest.raises(MnvError, match="There is no picture"):
        list(exporting.export(calibration=tmp_path))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(MnvError, match=r"broken\.png cannot be read"):
        list(exporting.export(calibration=tmp_path))


@pytest.mark.slow
def test_int8_is_calibrated_on_the_pictures_given(class_folders: Path, tmp_path: Path) -> None:
    (item,) = exporting.export("onnx", "int8", output=tmp_path / "out", calibration=class_folders)
    assert item.manifest.provenance.quantization is not None
    assert item.manifest.provenance.quantization["calibration"] == "80 pictures in pets"
    assert item.proof is not None
    assert item.proof.images == datasets.sample().name


@pytest.mark.slow
def test_manifest_is_plain_json(tmp_path: Path) -> None:
    (item,) = exporting.export("onnx", output=tmp_path / "out")
    data = json.loads((tmp_path / "out" / "mobilenetv1_cifar10_fp32.onnx.json").read_text())
    assert set(data) == {"version", "provenance", "files", "proof", "not_run"}
    assert data["files"][item.path.name] == {"bytes": item.path.stat().st_size, "sha256": sha256(item.path)}


def test_pictures_at_the_networks_size_are_read_as_they_are(tmp_path: Path) -> None:
    pixels = datasets.calibration().images[:5]
    found = evidence.calibration_pictures(CIFAR, write(tmp_path / "pictures", pixels), None, None)
    np.testing.assert_array_equal(found.images, pixels)
    assert found.name == "5 pictures in pictures"


@pytest.mark.parametrize("format", ["onnx", "torchscript", "aoti", "c", "all"])
def test_a_provider_that_is_not_there_is_refused_before_anything_is_computed(format: str, tmp_path: Path) -> None:
    with pytest.raises(MnvError, match=r"TensorrtExecutionProvider is not available for (any|\w+)"):
        exporting.export(format, provider="tensorrt", output=tmp_path / "artifacts")
    assert not (tmp_path / "artifacts").exists()


def test_a_camera_is_for_c_alone(tmp_path: Path) -> None:
    with pytest.raises(MnvError, match="Only C is written for a device, not onnx, ncnn") as error:
        exporting.export(["onnx", "ncnn"], output=tmp_path / "out", device=Device(Camera(320, 240, "grey")))
    assert error.value.hint == "Add --format c."
    assert not (tmp_path / "out").exists()
