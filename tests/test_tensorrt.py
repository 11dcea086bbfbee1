"""TensorRT's ONNX: symmetric integers that are ours, proved in onnxruntime."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import export
from onnx import numpy_helper

from mnv1deploy import bundled, checkpoint, datasets, formats
from mnv1deploy.errors import MnvError
from mnv1deploy.formats.base import CPU, TENSORRT
from mnv1deploy.formats.tensorrt import symmetric_scale
from mnv1deploy.quantization import Grid, Quantization

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = checkpoint.load(bundled.CHECKPOINT).network
    return export(network, "tensorrt", "int8", tmp_path_factory.mktemp("trt"), datasets.calibration().images)


def test_every_zero_point_is_zero_and_every_integer_int8(path: Path) -> None:
    model = onnx.load(path)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(nodes) == 2 * 19 + 18
    for node in nodes:
        zero_point = constants[node.input[2]]
        assert zero_point.dtype == np.int8
        assert not zero_point.any()


def test_every_layer_reads_integers(path: Path) -> None:
    model = onnx.load(path)
    producer = {name: node for node in model.graph.node for name in node.output}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm", "AveragePool")]
    assert len(layers) == 19
    for node in layers:
        read = producer[node.input[0]]
        while read.op_type == "Reshape":
            read = producer[read.input[0]]
        assert read.op_type == "DequantizeLinear", node.name
        assert node.op_type == "AveragePool" or producer[node.input[1]].op_type == "DequantizeLinear"


def test_weights_are_ours(path: Path, integers: Quantization) -> None:
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    for name, weights in integers.weights.items():
        np.testing.assert_array_equal(constants[f"{name}.weight.q"], weights.values)
        np.testing.assert_array_equal(constants[f"{name}.weight.scale"], weights.scales)


def test_scales_hold_the_same_range() -> None:
    assert symmetric_scale(Grid(1 / 64, 128)) == 1 / 64
    assert 127 * symmetric_scale(Grid(0.1, 0)) == pytest.approx(25.5)
    assert 127 * symmetric_scale(Grid(0.1, 200)) == pytest.approx(20)


def test_it_is_for_int8_and_runs_on_the_cpu_too(path: Path) -> None:
    entry = formats.of_file(path)
    assert (entry.name, entry.precisions) == ("tensorrt", ("int8",))
    assert set(entry.providers()) <= {CPU, TENSORRT}
    assert formats.open_session(path).provider == CPU
    if TENSORRT not in entry.providers():
        with pytest.raises(MnvError, match=TENSORRT):
            formats.open_session(path, provider="tensorrt")
