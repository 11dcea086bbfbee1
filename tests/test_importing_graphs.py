"""Graphs as other tools write them: what is read of them is what their own engine computes, or they are refused."""

from pathlib import Path
from typing import Any

import definitions
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mnv1deploy import bundled
from mnv1deploy.errors import MnvError
from mnv1deploy.importing import NORMALIZATIONS, Imported, Options, import_file
from mnv1deploy.spec import Normalization

BLOCKS = ((8, 1), (16, 2), (16, 1))
"""Channels and stride of each block, after a stem of four channels and stride 2 on 32x32 pictures."""

CLASSES = ("ant", "bee", "wasp")


class Graph:
    """An ONNX graph that grows by one operator at a time."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(0)
        self.current = "image"

    def constant(self, values: Any, name: str = "") -> str:
        name = name or f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def floats(self, low: float, high: float, *shape: int, name: str = "") -> str:
        return self.constant(self.random.uniform(low, high, shape).astype(np.float32), name)

    def add(self, kind: str, *constants: str, name: str = "", **attributes: Any) -> None:
        output = f"{kind}{len(self.nodes)}"
        inputs = [self.current, *constants]
        self.nodes.append(helper.make_node(kind, inputs, [output], name=name or output, **attributes))
        self.current = output

    def model(self, shape: tuple[int | str, ...], kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
        image = helper.make_tensor_value_info("image", kind, shape)
        output = helper.make_tensor_value_info(self.current, TensorProto.FLOAT, ["n", len(CLASSES)])
        made = helper.make_graph(self.nodes, "network", [image], [output], self.constants)
        return helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def network(
    *,
    same: bool = False,
    channels_last: bool = False,
    normalized: bool = False,
    activation: str = "Relu",
    folded: bool = False,
    head: str = "gemm",
    branch: str = "",
    ends: tuple[str, ...] = (),
    entry: str = "",
    pads: bool = False,
    window: int = 0,
    blocks: tuple[tuple[int, int], ...] = BLOCKS,
    names: tuple[str, ...] = (),
) -> onnx.ModelProto:
    """A MobileNetV1 with random weights, as one tool or another writes it; ``names`` are its convolutions'."""
    graph = Graph()
    named = iter(names)
    if normalized:
        graph.add("Mul", graph.constant(np.float32(1 / 127.5)))
        graph.add("Sub", graph.constant(np.float32(1)))
    if entry == "bytes":  # pixels as they are decoded, normalised by the graph
        graph.add("Cast", to=TensorProto.FLOAT)
        graph.add("Transpose", perm=[0, 3, 1, 2])
        graph.add("Div", graph.constant(np.float32(255)))
        for kind, values in (("Sub", (0.485, 0.456, 0.406)), ("Div", (0.229, 0.224, 0.225))):
            graph.add(kind, graph.constant(np.array(values, np.float32).reshape(1, 3, 1, 1)))
    if channels_last:
        graph.add("Transpose", perm=[0, 3, 1, 2])

    def convolve(inputs: int, outputs: int, kernel: int, stride: int, groups: int, size: int) -> None:
        before = (kernel - stride) // 2 if same and stride <= kernel and size % stride == 0 else kernel // 2
        after = max((-(-size // stride) - 1) * stride + kernel - size, 0) - before if same else kernel // 2
        name = next(named, "")
        weight, offset = (name and f"{name}_{what}_fused_bn" for what in ("weights", "bias"))
        weight = graph.floats(-0.5, 0.5, outputs, inputs // groups, kernel, kernel, name=weight)
        bias = [graph.floats(-0.2, 0.2, outputs, name=offset)] if folded else []
        if pads and kernel == 3:
            graph.add("Pad", graph.constant(np.array([0, 0, before, before, 0, 0, after, after])), mode="constant")
            before = after = 0
        sides = [before, before, after, after]
        graph.add("Conv", weight, *bias, name=name, strides=[stride] * 2, group=groups, pads=sides)
        if not folded:
            ranges = ((0.5, 1.5), (-0.2, 0.4), (-0.1, 0.1), (0.5, 1.5))
            graph.add("BatchNormalization", *(graph.floats(*ends, outputs) for ends in ranges), epsilon=1e-3)
        if activation == "Clip":
            graph.add("Clip", graph.constant(np.float32(0)), graph.constant(np.float32(6)))
        elif activation == "Min":
            graph.add("Max", graph.constant(np.zeros((), np.float32)))
            graph.add("Min", graph.constant(np.full((), 6, np.float32)))
        elif activation == "Scale":
            graph.add("Mul", graph.floats(0.5, 1.5, outputs, 1, 1))
            graph.add("Add", graph.floats(-0.2, 0.2, outputs, 1, 1))
            graph.add("Relu")
        elif activation == "open Clip":
            graph.add("Clip", "", graph.constant(np.float32(6)))
        else:
            graph.add(activation)

    convolve(3, 4, 3, 2, 1, 32)
    inputs, size = 4, 16
    for outputs, stride in blocks:
        before = graph.current
        convolve(inputs, inputs, 3, stride, inputs, size)
        size = -(-size // stride)
        convolve(inputs, outputs, 1, 1, 1, size)
        if branch == "residual" and (inputs, stride) == (outputs, 1):
            graph.add("Add", before)
        inputs = outputs
    if head in ("mean", "sides"):
        graph.add("Transpose", perm=[0, 2, 3, 1])
        for axes in [[2], [1]] if head == "sides" else [[1, 2]]:
            graph.add("ReduceMean", axes=axes, keepdims=0)
        graph.add("MatMul", graph.floats(-1, 1, inputs, len(CLASSES)))
        graph.add("Add", graph.floats(-1, 1, len(CLASSES)))
        graph.add("Softmax")
    elif head == "convolution":
        graph.add("GlobalAveragePool")
        graph.add("Conv", graph.floats(-1, 1, len(CLASSES), inputs, 1, 1), graph.floats(-1, 1, len(CLASSES)))
        graph.add("Flatten")
    else:
        graph.add("AveragePool", kernel_shape=[window or size] * 2)
        graph.add("Reshape", graph.constant(np.array([-1, inputs])))
        graph.add("Gemm", graph.floats(-1, 1, len(CLASSES), inputs), graph.floats(-1, 1, len(CLASSES)), transB=1)
    for kind in ends:
        graph.add(kind, **({"axis": 1} if kind != "Sigmoid" else {}))
    if entry == "bytes":
        return graph.model(("n", 32, 32, 3), TensorProto.UINT8)
    return graph.model(("n", 32, 32, 3) if channels_last else ("n", 3, 32, 32))


def imported(model: onnx.ModelProto, folder: Path, normalization: Normalization | None = None) -> Imported:
    onnx.save(model, folder / "network.onnx")
    return import_file(folder / "network.onnx", Options(classes=CLASSES, normalization=normalization))


HALF = NORMALIZATIONS["half"]


@pytest.mark.parametrize("head", ["gemm", "mean", "sides", "convolution"])
@pytest.mark.parametrize(("same", "activation", "folded"), [(False, "Relu", True), (True, "Clip", False)])
def test_onnx_is_what_onnxruntime_computes(
    same: bool, activation: str, folded: bool, head: str, tmp_path: Path
) -> None:
    found = imported(network(same=same, activation=activation, folded=folded, head=head), tmp_path, HALF)
    spec = found.network.spec
    assert (spec.padding, spec.activation) == (
        "same" if same else "symmetric",
        "relu6" if activation == "Clip" else "relu",
    )
    assert [spec.stem.stride, *(block.stride for block in spec.blocks)] == [2, *(stride for _, stride in BLOCKS)]
    assert found.proof and found.proof.engine == "onnxruntime"
    assert found.proof.agreement == 1 and found.proof.largest < 1e-5


@pytest.mark.parametrize(
    ("family", "stem", "depthwise", "pointwise"),
    [
        ("TensorFlow-Slim", "Conv2d_0/Conv2D", "Conv2d_{}_depthwise/depthwise", "Conv2d_{}_pointwise/Conv2D"),
        ("Keras Applications", "conv1/Conv2D", "conv_dw_{}/depthwise", "conv_pw_{}/Conv2D"),
    ],
)
def test_onnx_by_tf2onnx_is_known_by_tensorflows_names(
    family: str, stem: str, depthwise: str, pointwise: str, tmp_path: Path
) -> None:
    scope = "MobilenetV1/MobilenetV1/" if family == "TensorFlow-Slim" else "mobilenet_0.125_32/"
    parts = [stem, *(form.format(n) for n in range(1, 14) for form in (depthwise, pointwise))]
    blocks = tuple((channels // 8, stride) for channels, stride in definitions.PAPER)
    names = tuple(scope + part for part in parts)
    made = network(
        same=True, channels_last=True, activation="Clip", folded=True, head="mean", blocks=blocks, names=names
    )
    found = imported(made, tmp_path)
    (fact,) = (fact for fact in found.facts if fact.what == "normalization")
    assert family in fact.how
    assert (found.network.spec.normalization, found.network.spec.padding) == (HALF, "same")
    assert found.proof and found.proof.agreement == 1 and found.proof.largest < 1e-5


def test_onnx_with_channels_last_and_a_normalisation_of_its_own(tmp_path: Path) -> None:
    model = network(same=True, channels_last=True, normalized=True, activation="Clip", head="mean")
    found = imported(model, tmp_path)
    np.testing.assert_allclose(found.network.spec.normalization.mean, HALF.mean, rtol=1e-6)
    np.testing.assert_allclose(found.network.spec.normalization.std, HALF.std, rtol=1e-6)
    assert found.proof and found.proof.agreement == 1 and found.proof.largest < 1e-5
    assert imported(model, tmp_path, HALF).proof == found.proof
    with pytest.raises(MnvError, match="normalises its pixels itself"):
        imported(model, tmp_path, NORMALIZATIONS["imagenet"])


@pytest.mark.parametrize("ends", [("Softmax",), ("LogSoftmax",), ("Sigmoid",), ("ArgMax",), ("Softmax", "ArgMax")])
def test_onnx_with_what_makes_answers_of_its_logits(ends: tuple[str, ...], tmp_path: Path) -> None:
    model = network(ends=ends)
    if "ArgMax" in ends:
        model.graph.output[0].CopyFrom(
            helper.make_tensor_value_info(model.graph.output[0].name, TensorProto.INT64, None)
        )
    found = imported(model, tmp_path, HALF)
    assert found.proof and found.proof.agreement == 1 and found.proof.largest < 1e-5
    assert any("at the end is left out" in note for note in found.notes)


@pytest.mark.parametrize(("activation", "read"), [("Min", "relu6"), ("Scale", "relu")])
@pytest.mark.parametrize("pads", [True, False])
def test_onnx_of_older_converters(activation: str, read: str, pads: bool, tmp_path: Path) -> None:
    """A ReLU6 of two operators, Caffe's scale behind a normalisation, and paddings that stand alone."""
    found = imported(network(activation=activation, same=True, pads=pads), tmp_path, HALF)
    assert (found.network.spec.activation, found.network.spec.padding) == (read, "same")
    assert found.proof and found.proof.agreement == 1 and found.proof.largest < 1e-5


def test_onnx_that_takes_bytes_and_normalises_them(tmp_path: Path) -> None:
    found = imported(network(entry="bytes"), tmp_path)
    np.testing.assert_allclose(found.network.spec.normalization.mean, NORMALIZATIONS["imagenet"].mean, rtol=1e-5)
    np.testing.assert_allclose(found.network.spec.normalization.std, NORMALIZATIONS["imagenet"].std, rtol=1e-5)
    assert found.proof and found.proof.agreement == 1 and found.proof.largest < 1e-5


def test_onnx_with_its_weights_in_a_file_beside_it(tmp_path: Path) -> None:
    onnx.save(
        network(), tmp_path / "network.onnx", save_as_external_data=True, location="network.onnx.data", size_threshold=0
    )
    known = Options(classes=CLASSES, normalization=HALF)
    found = import_file(tmp_path / "network.onnx", known)
    assert found.proof and found.proof.agreement == 1 and found.proof.largest < 1e-5
    (tmp_path / "network.onnx.data").unlink()
    with pytest.raises(MnvError, match=r"network\.onnx\.data"):
        import_file(tmp_path / "network.onnx", known)


def test_a_graph_of_other_strides_is_not_of_the_tutorials_family(tmp_path: Path) -> None:
    """Its eight blocks alone gave it the tutorial's normalisation."""
    eight = ((8, 1), (16, 2), (16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2))
    with pytest.raises(MnvError, match="does not say its normalization"):
        imported(network(blocks=eight), tmp_path)


def test_onnx_nodes_may_stand_in_any_order(tmp_path: Path) -> None:
    """onnxruntime's own converter to float16 puts its casts behind all others."""
    model = network()
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes[3:], *nodes[:3]])
    found = imported(model, tmp_path, HALF)
    assert found.proof and found.proof.largest < 1e-5


def test_onnx_in_float16(tmp_path: Path) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    found = imported(convert_float_to_float16(network(folded=True)), tmp_path, HALF)
    assert found.proof and found.proof.agreement == 1 and 1e-5 < found.proof.largest < 1e-2


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_onnx_in_integers_comes_in_as_the_floats_that_they_mean(form: str, per_channel: bool, tmp_path: Path) -> None:
    """onnxruntime's quantizer leaves the ReLUs out, where a grid that begins at zero does their work."""
    from onnxruntime import quantization

    class Pictures(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            random = np.random.default_rng(1)
            self.left = iter([{"image": random.uniform(-1, 1, (1, 3, 32, 32)).astype(np.float32)} for _ in range(8)])

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            return next(self.left, None)

    floats = network(folded=True, head="convolution")
    onnx.save(floats, tmp_path / "floats.onnx")
    quantization.quantize_static(
        tmp_path / "floats.onnx",
        tmp_path / "integers.onnx",
        Pictures(),
        quant_format=quantization.QuantFormat[form],
        per_channel=per_channel,
    )
    found = imported(onnx.load(tmp_path / "integers.onnx"), tmp_path, HALF)
    assert found.network.spec.activation == "relu"
    assert found.proof and found.proof.quantized and found.proof.largest < 0.2
    onnx.save(floats, tmp_path / "network.onnx")
    original = imported(floats, tmp_path, HALF).network.folded().state_dict()
    for name, tensor in found.network.folded().state_dict().items():
        np.testing.assert_allclose(tensor, original[name], atol=0.02, err_msg=name)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: network(branch="residual"), "branches, as in a residual network"),
        (lambda: network(activation="LeakyRelu"), "LeakyReLU"),
        (lambda: network(activation="HardSwish"), "HardSwish"),
        (lambda: network(activation="open Clip"), "a clip to -inf .. 6"),
        (lambda: network(window=5), "averages over 5x5 of the 8x8 places"),
        (lambda: onnx.load(bundled.INT8), "an int8 artifact of mnv1deploy"),
    ],
    ids=["residual", "leaky", "hard-swish", "open-clip", "window", "ours"],
)
def test_onnx_of_another_kind_is_refused(model: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(MnvError, match=message):
        imported(model(), tmp_path, HALF)


def test_onnx_quantised_dynamically_is_refused(tmp_path: Path) -> None:
    from onnxruntime import quantization

    onnx.save(network(folded=True), tmp_path / "floats.onnx")
    quantization.quantize_dynamic(tmp_path / "floats.onnx", tmp_path / "network.onnx")
    with pytest.raises(MnvError, match="quantised dynamically"):
        import_file(tmp_path / "network.onnx", Options(classes=CLASSES, normalization=HALF))
