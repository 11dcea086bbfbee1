"""Real files of other people: what comes in is what their own engines compute; what is no MobileNetV1 is refused."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import mnv1

from mnv1deploy import datasets
from mnv1deploy.errors import MnvError
from mnv1deploy.importing import NORMALIZATIONS, Imported, Options, import_file, import_state_dict, labels
from mnv1deploy.network import MobileNetV1

VARIABLE = "MNV1_WEIGHTS"
FOLDER = Path(os.environ.get(VARIABLE) or Path(__file__).parent.parent.parent / "shared" / "weights")


def file(name: str) -> Path:
    if not (FOLDER / name).is_file():
        pytest.skip(f"{name} is not in {FOLDER}; set {VARIABLE}")
    return FOLDER / name


def fact(imported: Imported, what: str) -> str:
    return next(f.value for f in imported.facts if f.what == what)


def logits(network: MobileNetV1) -> torch.Tensor:
    pictures = datasets.resized(datasets.calibration().subset(np.arange(8), "eight"), network.spec.pixels)
    with torch.inference_mode():
        return network(torch.from_numpy(pictures.images))


@pytest.mark.slow
def test_visual_wake_words_is_one_network_in_keras_and_in_litert() -> None:
    keras, lite = import_file(file("vww_96.h5")), import_file(file("vww_96_float.tflite"))
    assert keras.network.spec.classes == lite.network.spec.classes == ("non_person", "person")
    assert keras.network.spec.replace(name="x") == lite.network.spec.replace(name="x")
    for name, tensor in keras.network.folded().state_dict().items():
        other = lite.network.folded().state_dict()[name]
        assert (tensor - other).abs().max() <= 1e-5 * max(1, other.abs().max()), name
    verdict = next(v for v in keras.verdicts if v.option == "normalization")
    assert verdict.best == "unit" and verdict.is_sure
    assert lite.proof is not None and lite.proof.largest < 1e-4 and lite.proof.agreement == 1


@pytest.mark.parametrize(
    ("name", "normalization", "classes", "colours", "agreement"),
    [
        ("vww_96_int8.tflite", "unit", 2, 3, 0.95),
        ("slim_0.25_128_quant.tflite", "mean 128", 1001, 3, 0.85),
        ("person_detect.tflite", "mean 127, std 127.5", 2, 1, 0.9),
    ],
)
def test_integers_come_in_as_floats_that_mean_the_same(
    name: str, normalization: str, classes: int, colours: int, agreement: float
) -> None:
    imported = import_file(file(name))
    assert fact(imported, "normalization").startswith(normalization)
    assert (len(imported.network.spec.classes), imported.network.spec.colours) == (classes, colours)
    assert imported.proof is not None and imported.proof.quantized and imported.proof.agreement >= agreement


def test_slim_in_floats_has_a_background_that_can_be_dropped() -> None:
    kept = import_file(file("slim_0.25_224_float.tflite"))
    assert kept.network.spec.classes == labels.imagenet(background=True)
    assert any("background, and kept" in note for note in kept.notes)
    assert kept.proof is not None and kept.proof.largest < 1e-4 and kept.proof.agreement == 1
    dropped = import_file(file("slim_0.25_224_float.tflite"), Options(drop_background=True))
    assert dropped.network.spec.classes == labels.imagenet()
    assert torch.equal(logits(dropped.network), logits(kept.network)[:, 1:])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["keras_mobilenet_128_0_25.h5", "keras_mobilenet_224_0_25.h5"])
def test_keras_applications_know_a_cats_breed(name: str) -> None:
    from PIL import Image

    from mnv1deploy import images

    imported = import_file(file(name))
    spec = imported.network.spec
    assert (spec.activation, spec.padding, spec.classes) == ("relu6", "same", labels.imagenet())
    verdict = imported.verdicts[0]
    assert (verdict.best, verdict.is_sure) == ("half", True)
    cat = images.read(Image.open(Path(__file__).parent.parent / "examples" / "cat.png"), spec.pixels)
    with torch.inference_mode():
        first = imported.network(torch.from_numpy(cat[None].copy())).topk(5).indices[0].tolist()
    assert {spec.classes[i] for i in first} & {
        "tabby",
        "tiger cat",
        "Egyptian cat",
        "Persian cat",
        "Siamese cat",
        "lynx",
    }


@pytest.mark.slow
def test_a_wrong_normalisation_of_a_real_network_is_said() -> None:
    imported = import_file(file("vww_96.h5"), Options(normalization=NORMALIZATIONS["imagenet"]))
    (sentence, hint), *_ = imported.doubts
    assert "its normalization: unit, surely" in sentence
    assert "--normalization unit" in hint


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("retinaface_0.25_leaky.tar", "RetinaFace's backbone.*LeakyReLU"),
        ("not_a_mobilenetv1.pth", "is not a MobileNetV1: after module.conv1"),
        ("person_detect_vela.tflite", "compiled by Vela"),
    ],
)
def test_what_is_no_mobilenetv1_is_refused(name: str, message: str) -> None:
    with pytest.raises(MnvError, match=message):
        import_state_dict(file(name))


@pytest.mark.slow
def test_leaky_activations_show_in_the_statistics_whatever_the_names(tmp_path: Path) -> None:
    content = torch.load(file("retinaface_0.25_leaky.tar"), map_location="cpu", weights_only=True)["state_dict"]
    layers = list(dict.fromkeys(name.rsplit(".", 1)[0] for name in content))
    renamed = {}
    for name, tensor in content.items():
        parent, leaf = name.rsplit(".", 1)
        renamed[f"layer{layers.index(parent)}.{leaf}"] = tensor
    torch.save(renamed, tmp_path / "weights.pth")
    with pytest.raises(MnvError, match=r"network with LeakyReLU \(0\.1\)"):
        import_file(tmp_path / "weights.pth", Options(activation=None, normalization=NORMALIZATIONS["imagenet"]))


@pytest.mark.slow
def test_a_refused_file_leaves_nothing(tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    assert mnv1("import", file("not_a_mobilenetv1.pth"), "--output", output).returncode == 1
    assert not list(tmp_path.iterdir())
