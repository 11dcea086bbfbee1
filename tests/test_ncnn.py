"""ncnn: what is inside the files, and running them with nothing else there."""

import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import export, label_without

from mnv1deploy import bundled, checkpoint, datasets, formats
from mnv1deploy.artifact import Precision, manifest_path
from mnv1deploy.errors import MnvError
from mnv1deploy.formats.base import CUDA
from mnv1deploy.quantization import Quantization
from mnv1deploy.spec import CIFAR

pytestmark = pytest.mark.slow

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
WEIGHTED = ("Convolution", "ConvolutionDepthWise", "InnerProduct")


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    network = checkpoint.load(bundled.CHECKPOINT).network
    folder, images = tmp_path_factory.mktemp("ncnn"), datasets.calibration().images
    return {precision: export(network, "ncnn", precision, folder, images) for precision in PRECISIONS}


def weights_of(param: Path) -> Path:
    return param.with_name(param.name.replace(".param", ".bin"))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_layers_have_the_specs_names_and_their_relu_inside(artifacts: dict[str, Path], precision: str) -> None:
    rows = [line.split() for line in artifacts[precision].read_text().splitlines()[2:]]
    layers = [row[1] for row in rows if row[0] in WEIGHTED]
    assert layers == [layer.name for layer in CIFAR.layers() if layer.kind != "pool"]
    assert "ReLU" not in {row[0] for row in rows}
    assert [row[1] for row in rows if "9=1" in row] == layers[:-1]


def test_int8_stays_int8_from_the_stem_to_the_last_convolution(artifacts: dict[str, Path]) -> None:
    rows = [line.split() for line in artifacts["int8"].read_text().splitlines()[2:]]
    terms = [next(item for item in row if item.startswith("8=")) for row in rows if row[0] in WEIGHTED]
    assert terms == ["8=101"] * 16 + ["8=1"] * 2


def test_sizes_follow_the_precision(artifacts: dict[str, Path]) -> None:
    size = {precision: weights_of(path).stat().st_size for precision, path in artifacts.items()}
    assert size["fp16"] < 0.52 * size["fp32"]
    assert size["int8"] < 0.28 * size["fp32"]


def test_int8_multiplies_our_weights(artifacts: dict[str, Path], integers: Quantization) -> None:
    content = weights_of(artifacts["int8"]).read_bytes()
    for weights in integers.weights.values():
        assert weights.values.tobytes() in content


def test_a_file_without_its_manifest_or_its_weights_is_refused(artifacts: dict[str, Path], tmp_path: Path) -> None:
    source, param = artifacts["fp32"], tmp_path / "net.ncnn.param"
    param.write_bytes(source.read_bytes())
    weights_of(param).write_bytes(weights_of(source).read_bytes())
    with pytest.raises(MnvError, match="Copy the manifest along"):
        formats.open_session(param)
    manifest_path(param).write_text(manifest_path(source).read_text().replace(source.name.split(".")[0], "net"))
    assert formats.open_session(param).spec.replace(temperature=1.0) == CIFAR
    weights_of(param).unlink()
    with pytest.raises(MnvError, match=r"proves net\.ncnn\.bin, which is not there"):
        formats.open_session(param)


def test_other_providers_are_refused(artifacts: dict[str, Path]) -> None:
    with pytest.raises(MnvError, match=f"{CUDA} is not available for ncnn"):
        formats.open_session(artifacts["fp32"], provider=CUDA)


def test_several_threads_give_the_same_answers(artifacts: dict[str, Path]) -> None:
    images = datasets.calibration().images[:20]
    one, two = (formats.open_session(artifacts["int8"], threads=threads)(images) for threads in (1, 2))
    np.testing.assert_allclose(one, two, atol=1e-5)


def test_running_needs_no_torch_and_no_onnx(artifacts: dict[str, Path]) -> None:
    session = formats.open_session(artifacts["int8"])
    here = CIFAR.classes[int(session(datasets.calibration().images[:1]).argmax())]
    assert label_without(("torch", "onnx", "onnxruntime", "pnnx"), artifacts["int8"]) == here


def test_without_the_engine_one_sentence_names_the_extra(
    artifacts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ncnn", None)
    assert formats.get("ncnn").providers() == ()
    with pytest.raises(MnvError, match=r"needs ncnn.*pip install 'mnv1deploy\[ncnn\]'"):
        formats.open_session(artifacts["int8"])
