"""What is inside a LiteRT file, and that it runs where there is nothing but ai-edge-litert."""

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from conftest import differences, export, run_silently
from hypothesis import given, settings
from hypothesis import strategies as st

from mnv1deploy import bundled, checkpoint, datasets, formats, verification
from mnv1deploy.errors import MnvError
from mnv1deploy.formats.litert import read_provenance
from mnv1deploy.quantization import INPUT, Quantization
from mnv1deploy.spec import CIFAR

PRECISIONS = formats.get("litert").precisions
CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    network, images = checkpoint.load(bundled.CHECKPOINT).network, datasets.calibration().images
    folder = tmp_path_factory.mktemp("litert")
    return {precision: export(network, "litert", precision, folder, images) for precision in PRECISIONS}


def model(path: Path) -> Any:
    return schema.ModelT.InitFromPackedBuf(path.read_bytes())


def operators(path: Path) -> Iterator[tuple[str, list[Any], Any]]:
    """Every operator: its name, its input tensors and its output tensor, each with its ``value`` or None."""
    unpacked = model(path)
    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    graph = unpacked.subgraphs[0]
    for tensor in graph.tensors:
        tensor.value = unpacked.buffers[tensor.buffer].data
    for operator in graph.operators:
        name = names[unpacked.operatorCodes[operator.opcodeIndex].builtinCode]
        yield name, [graph.tensors[i] for i in operator.inputs], graph.tensors[operator.outputs[0]]


def test_every_layer_is_one_operator_in_the_layout_of_the_pixels(files: dict[str, Path]) -> None:
    network = {"CONV_2D": 9, "DEPTHWISE_CONV_2D": 8, "PAD": 4, "MEAN": 1, "FULLY_CONNECTED": 1}
    assert Counter(name for name, _, _ in operators(files["fp32"])) == {**network, "DEQUANTIZE": 1}
    assert Counter(name for name, _, _ in operators(files["fp16"])) == {**network, "DEQUANTIZE": 1 + 2 * 18}
    assert Counter(name for name, _, _ in operators(files["int8"])) == {**network, "QUANTIZE": 1, "DEQUANTIZE": 1}


@pytest.mark.slow
def test_int8_is_our_integers(files: dict[str, Path], integers: Quantization) -> None:
    layers = {layer.name: layer for layer in CIFAR.layers()}
    for kind, inputs, output in operators(files["int8"]):
        if kind == "QUANTIZE":
            assert inputs[0].type == schema.TensorType.UINT8, "raw pixels are the quantised input"
            assert (inputs[0].quantization.scale, inputs[0].quantization.zeroPoint) == (1 / 64, 128)
        if kind not in CONVOLUTIONS:
            continue
        name = output.name.decode()
        data, weight, bias = inputs
        ours, grid = integers.weights[name], integers.activations[name]
        assert (data.type, weight.type, bias.type, output.type) == (*[schema.TensorType.INT8] * 2, 2, 9)
        order = (1, 2, 3, 0) if layers[name].kind == "depthwise" else (0, 2, 3, 1)
        np.testing.assert_array_equal(weight.value.view(np.int8), ours.values.transpose(order).ravel())
        np.testing.assert_array_equal(bias.value.view(np.int32), ours.bias)
        np.testing.assert_array_equal(weight.quantization.scale, ours.scales)
        assert output.quantization.scale[0] == np.float32(grid.scale)
        assert output.quantization.zeroPoint[0] == grid.zero_point - 128 == -128
    assert integers.activations[INPUT].zero_point == 128


@pytest.mark.slow
def test_int8_computes_what_the_integers_say(files: dict[str, Path], integers: Quantization) -> None:
    images = datasets.calibration().images
    with torch.inference_mode():
        expected = integers.simulated()(torch.from_numpy(images)).numpy()
    logits = verification.logits(formats.open_session(files["int8"]), images)
    assert differences(logits, expected).max() < 0.054
    assert (logits.argmax(1) == expected.argmax(1)).mean() >= 0.998


@pytest.mark.parametrize("precision", PRECISIONS)
def test_constants_are_aligned(files: dict[str, Path], precision: str) -> None:
    """Interpreters read them in place; the schema asks for 16 bytes."""
    content = np.frombuffer(files[precision].read_bytes(), np.uint8)
    buffers = [buffer.data for buffer in schema.ModelT.InitFromPackedBuf(content).buffers if buffer.data is not None]
    assert len(buffers) > 36
    start = content.__array_interface__["data"][0]
    assert {(data.__array_interface__["data"][0] - start) % 16 for data in buffers} == {0}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_one_delegate_takes_the_graph(files: dict[str, Path], precision: str) -> None:
    interpreter = Interpreter(str(files[precision]))
    interpreter.allocate_tensors()
    kinds = Counter(row["op_name"] for row in interpreter._get_ops_details())
    assert kinds["DELEGATE"] == 1


def test_the_signature_has_names(files: dict[str, Path]) -> None:
    runner = Interpreter(str(files["int8"])).get_signature_runner()
    pixels = datasets.calibration().images[:1]
    np.testing.assert_array_equal(runner(image=pixels)["logits"], formats.open_session(files["int8"])(pixels))


def test_batch_sizes_alternate(files: dict[str, Path]) -> None:
    session, images = formats.open_session(files["fp32"], threads=1), datasets.calibration().images[:40]
    whole = session(images)
    for count in (1, 40, 3, 3, 1, 17):
        np.testing.assert_allclose(session(images[:count]), whole[:count], atol=1e-5)


def test_a_model_of_somebody_else_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    import flatbuffers

    other = model(files["fp32"])
    other.metadata = []
    builder = flatbuffers.Builder()
    builder.Finish(other.Pack(builder), b"TFL3")
    path = tmp_path / "other.tflite"
    path.write_bytes(builder.Output())
    with pytest.raises(MnvError, match="carries no spec"):
        formats.open_session(path)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_files_are_refused_or_read(
    files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(files["int8"].read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, 3000) | st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "net.tflite"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        assert read_provenance(path).format == "litert"
    except MnvError as error:
        assert str(path) in error.message or "provenance" in error.message or "spec" in error.message


def test_opening_needs_neither_torch_nor_onnx_and_is_silent(files: dict[str, Path]) -> None:
    script = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnxruntime', 'ai_edge_litert.schema_py_generated'):\n"
        "    sys.modules[name] = None\n"
        "import numpy as np, mnv1deploy\n"
        "from mnv1deploy import formats\n"
        "session = formats.open_session(sys.argv[1], threads=1)\n"
        "assert session(np.zeros((5, 32, 32, 3), np.uint8)).shape == (5, 10)\n"
        "assert formats.of_file(formats.Path(sys.argv[1])).provenance(formats.Path(sys.argv[1])).spec == session.spec\n"
    )
    run_silently(script, files["int8"])


@pytest.mark.slow
def test_it_runs_where_there_is_only_its_engine(files: dict[str, Path], tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python, f"{root}[litert]"]
    subprocess.run(install, check=True)
    absent = "import importlib.util as u; assert not any(map(u.find_spec, ('torch', 'onnx', 'onnxruntime', 'jax')))"
    subprocess.run([python, "-c", absent], check=True)
    picture = root / "examples" / "cat.png"
    command = [python, "-m", "mnv1deploy.cli", "predict", "--model", files["int8"], picture, "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '"cat"' in done.stdout
