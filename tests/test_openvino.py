"""OpenVINO: what is inside the files, what the engine makes of them, and running them with nothing else there."""

import json
import sys
from pathlib import Path
from typing import Any

import openvino
import pytest
from conftest import differences, export, label_without

from mnv1deploy import bundled, checkpoint, datasets, formats, importing
from mnv1deploy.artifact import Precision
from mnv1deploy.errors import MnvError
from mnv1deploy.formats.openvino import OpenVinoSession
from mnv1deploy.network import MobileNetV1
from mnv1deploy.spec import CIFAR

pytestmark = pytest.mark.slow

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    network = checkpoint.load(bundled.CHECKPOINT).network
    folder, images = tmp_path_factory.mktemp("openvino"), datasets.calibration().images
    return {precision: export(network, "openvino", precision, folder, images) for precision in PRECISIONS}


def executed(session: OpenVinoSession) -> list[dict[str, str]]:
    """What runs, as the engine itself says: layer type, kernel and precision of every node."""
    keys = ("layerType", "primitiveType", "outputPrecisions", "originalLayersNames")
    graph: Any = session._one.compiled.get_runtime_model()
    return [{key: node.rt_info[key].astype(str) for key in keys} for node in graph.get_ordered_ops()]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_interface_and_metadata(artifacts: dict[str, Path], precision: str) -> None:
    model = openvino.Core().read_model(artifacts[precision])
    (image,), (logits,) = model.inputs, model.outputs
    assert (image.any_name, logits.any_name) == ("image", "logits")
    assert image.element_type == openvino.Type.u8
    assert logits.element_type == openvino.Type.f32
    assert image.partial_shape == openvino.PartialShape([-1, 32, 32, 3])
    assert json.loads(model.get_rt_info(["mnv1deploy"]).astype(str))["precision"] == precision
    provenance = formats.get("openvino").provenance(artifacts[precision])
    assert provenance is not None
    assert provenance.spec.replace(temperature=1.0) == CIFAR


def test_sizes_follow_the_precision(artifacts: dict[str, Path]) -> None:
    size = {precision: path.with_suffix(".bin").stat().st_size for precision, path in artifacts.items()}
    assert size["fp16"] < 0.51 * size["fp32"]
    assert size["int8"] < 0.28 * size["fp32"]


def test_int8_is_integers_from_the_pixels_to_the_logits(artifacts: dict[str, Path]) -> None:
    nodes = executed(OpenVinoSession(artifacts["int8"], "CPUExecutionProvider", 1))
    work = [node for node in nodes if node["layerType"] in ("Convolution", "FullyConnected", "Pooling")]
    assert len(work) == 19
    assert all(node["primitiveType"].endswith(("_I8", "_i8")) for node in work)
    assert [node["outputPrecisions"] for node in work] == ["u8"] * 18 + ["f32"]
    assert not {"Transpose", "Eltwise", "FakeQuantize", "Convert"} & {node["layerType"] for node in nodes}


def test_int8_is_integers_whatever_the_pixels_zero_point_is(tmp_path: Path) -> None:
    """OpenVINO would compute a first convolution whose input has a zero point in float."""
    other = MobileNetV1(CIFAR.replace(normalization=importing.TUTORIAL_NORMALIZATION)).eval()
    other.load_state_dict(checkpoint.load(bundled.CHECKPOINT).network.state_dict())
    path = export(other, "openvino", "int8", tmp_path, datasets.calibration().images)
    nodes = executed(OpenVinoSession(path, "CPUExecutionProvider", 1))
    work = [node for node in nodes if node["layerType"] in ("Convolution", "FullyConnected", "Pooling")]
    assert len(work) == 19
    assert all(node["primitiveType"].endswith(("_I8", "_i8")) for node in work)
    assert [node["outputPrecisions"] for node in work] == ["u8"] * 18 + ["f32"]


def test_fp32_is_float32_also_on_processors_with_bfloat16(artifacts: dict[str, Path]) -> None:
    nodes = executed(OpenVinoSession(artifacts["fp32"], "CPUExecutionProvider", 1))
    work = [node for node in nodes if node["layerType"] in ("Convolution", "FullyConnected", "Pooling")]
    assert len(work) == 19
    assert {node["outputPrecisions"] for node in work} == {"f32"}


def test_the_settings_are_the_manuals_for_latency(artifacts: dict[str, Path]) -> None:
    compiled = OpenVinoSession(artifacts["int8"], "CPUExecutionProvider", 2)._one.compiled
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 2
    assert compiled.get_property("NUM_STREAMS") == 1
    assert compiled.get_property("PERFORMANCE_HINT") == "LATENCY"
    assert compiled.get_property("ENABLE_CPU_PINNING") is True


def test_the_same_logits_as_the_onnx_artifact(artifacts: dict[str, Path], tmp_path: Path) -> None:
    """One quantization: both engines multiply the same integers, and round alike but for ties."""
    images, network = datasets.calibration().images, checkpoint.load(bundled.CHECKPOINT).network
    onnx = export(network, "onnx", "int8", tmp_path, images)
    ours, theirs = (formats.open_session(path)(images) for path in (artifacts["int8"], onnx))
    assert (ours.argmax(1) == theirs.argmax(1)).mean() > 0.995
    assert differences(ours, theirs).mean() < 0.01


def test_a_damaged_or_foreign_model_is_refused(artifacts: dict[str, Path], tmp_path: Path) -> None:
    text = artifacts["fp32"].read_bytes()
    weights = artifacts["fp32"].with_suffix(".bin").read_bytes()
    model = tmp_path / "net.xml"
    for content, beside in (
        (b"", weights),
        (text[: len(text) // 2], weights),
        (text, b""),
        (text, weights[:-1]),
        (text.replace(b'type="Convolution"', b'type="Nonsense"', 1), weights),
    ):
        model.write_bytes(content)
        model.with_suffix(".bin").write_bytes(beside)
        with pytest.raises(MnvError, match=r"openvino cannot run .*net\.xml"):
            formats.open_session(model)
    model.write_bytes(text)
    model.with_suffix(".bin").unlink()
    with pytest.raises(MnvError, match=r"openvino cannot run .*net\.xml"):
        formats.open_session(model)
    model.with_suffix(".bin").write_bytes(weights)
    model.write_bytes(text.replace(b"<mnv1deploy ", b"<somebody "))
    with pytest.raises(MnvError, match="carries no spec"):
        formats.open_session(model)


def test_running_needs_no_torch_and_no_onnx(artifacts: dict[str, Path]) -> None:
    session = formats.open_session(artifacts["int8"])
    here = CIFAR.classes[int(session(datasets.calibration().images[:1]).argmax())]
    assert label_without(("torch", "onnx", "onnxruntime"), artifacts["int8"]) == here


def test_without_the_engine_one_sentence_names_the_extra(
    artifacts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert formats.get("openvino").providers() == ()
    with pytest.raises(MnvError, match=r"needs openvino.*pip install 'mnv1deploy\[openvino\]'"):
        formats.open_session(artifacts["int8"])
