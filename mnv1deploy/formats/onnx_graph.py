"""The ONNX model of a network: written layer by layer, quantised by onnxruntime's quantizer."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnv1deploy.artifact import METADATA_KEY, Provenance
from mnv1deploy.formats.base import Images
from mnv1deploy.formats.onnx import OPTIONS, OPTIONS_KEY, OnnxFormat
from mnv1deploy.formats.onnx_layers import model_of
from mnv1deploy.packages import engine, silenced
from mnv1deploy.spec import ModelSpec

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from mnv1deploy.network import MobileNetV1
    from mnv1deploy.quantization import Quantization


def build(
    network: MobileNetV1, provenance: Provenance, quantization: Quantization | None, *, two_pixels: bool
) -> ModelProto:
    """The model that OnnxFormat writes and other formats start from.

    Args:
        network, provenance, quantization: see Format.export.
        two_pixels: has the stem of an int8 model compute two pixels at once, which is faster in onnxruntime and slower
            in OpenVINO; False for other engines' converters.
    """
    onnx = engine("onnx", OnnxFormat.export_extra)
    model = model_of(network, half=provenance.precision == "fp16")
    if quantization:
        model = _quantize_graph(model, network, quantization)
        if two_pixels:
            _join_pixels(model, network.spec)
        _compact(model)
    _strip(model)
    model.metadata_props.add(key=METADATA_KEY, value=provenance.to_json())
    model.metadata_props.add(key=OPTIONS_KEY, value=json.dumps({"session_options": OPTIONS}))
    model.producer_name, model.producer_version = "mnv1deploy", provenance.versions.get("mnv1deploy", "")
    model.graph.name = network.spec.name
    onnx.checker.check_model(model, full_check=True)
    return model


def _rename(node: NodeProto, names: dict[str, str]) -> None:
    node.input[:] = [names.get(name, name) for name in node.input]
    node.output[:] = [names.get(name, name) for name in node.output]


def _strip(model: ModelProto) -> None:
    """Drops what names the machine that wrote the model or repeats what the graph says."""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for part in (model, model.graph):
        del part.metadata_props[:]
        part.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
        value.doc_string = ""
    del model.graph.value_info[:]


def _quantize_graph(model: ModelProto, network: MobileNetV1, quantization: Quantization) -> ModelProto:
    """The QDQ model: onnxruntime's quantizer writes it, every scale and zero point is ours."""
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    overrides: dict[str, list[dict[str, Any]]] = {
        name: [{"scale": np.array(grid.scale, np.float32), "zero_point": np.array(grid.zero_point, np.uint8)}]
        for name, grid in quantization.activations.items()
    }
    weight_of = {node.name: node.input[1] for node in model.graph.node if node.op_type in ("Conv", "Gemm")}
    for layer, weights in quantization.weights.items():
        overrides[weight_of[layer]] = [
            {"quant_type": QuantType.QInt8, "scale": np.array(scale), "zero_point": np.array(0, np.int8), "axis": 0}
            for scale in weights.scales
        ]
    with tempfile.TemporaryDirectory() as folder, silenced(prints=False):
        result = Path(folder) / "int8.onnx"
        quantize_static(
            model,
            str(result),
            _OneImage(network.spec.pixels.shape),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "Relu", "AveragePool", "Reshape", "Gemm"],
            extra_options={
                "TensorQuantOverrides": overrides,
                "OpTypesToExcludeOutputQuantization": ["Gemm"],
                "QDQDisableWeightAdjustForInt32Bias": True,
            },
        )
        quantized = onnx.load(result)
    _feed_pixels(quantized)
    return quantized


class _OneImage:
    """A calibration reader with one black picture: the quantizer insists on measuring ranges, none of which is used."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._rest = iter([{"image": np.zeros((1, *shape), np.uint8)}])

    def get_next(self) -> dict[str, Images] | None:
        return next(self._rest, None)


def _feed_pixels(model: ModelProto) -> None:
    """Makes the raw pixels the first convolution's quantised input: Transpose and DequantizeLinear alone before it."""
    graph = model.graph
    producer = {name: node for node in graph.node for name in node.output}
    stem = next(node for node in graph.node if node.name == "stem")
    dequantize = producer[stem.input[0]]
    transpose = next(node for node in graph.node if node.op_type == "Transpose")
    chain = producer[dequantize.input[0]]
    dequantize.input[0] = transpose.output[0]
    while chain is not transpose:
        before = producer[chain.input[0]]
        graph.node.remove(chain)
        chain = before


def _join_pixels(model: ModelProto, spec: ModelSpec) -> None:
    """Has the stem compute two neighbouring pixels at once, from one window as wide as the two need.

    Half as many windows are gathered and requantised. The weights are there twice, a stride apart among zeros, so
    every integer stays what it was. Where convolutions are channels last, as onnxruntime's integer ones are, parting
    the pixels is a Reshape that moves nothing.
    """
    from onnx import helper, numpy_helper

    layer = next(spec.layers())
    if layer.out_size % 2 or layer.out_channels == 1:  # a single channel's scale has no axis to be doubled along
        return
    graph = model.graph
    producer = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    stem = next(node for node in graph.node if node.name == "stem")
    parameters = [name for dequantized in stem.input[1:] for name in producer[dequantized].input]
    for name in parameters:  # those of the weight, and of the bias unless that was all zeros
        once = numpy_helper.to_array(constants[name])
        if name == parameters[0]:
            width = [(0, 0)] * 3
            left, right = (np.pad(once, [*width, side]) for side in ((0, layer.stride), (layer.stride, 0)))
        else:
            left = right = once
        constants[name].CopyFrom(numpy_helper.from_array(np.concatenate([left, right]), name))
    for attribute in stem.attribute:
        if attribute.name == "kernel_shape":
            attribute.ints[1] += layer.stride
        elif attribute.name == "strides":
            attribute.ints[1] *= 2
    graph.initializer.append(
        numpy_helper.from_array(np.array([0, layer.out_size, layer.out_size, layer.out_channels]), "stem.shape")
    )
    position, quantize = next(
        (i, node) for i, node in enumerate(graph.node) if node.op_type == "QuantizeLinear" and node.input[0] == "stem"
    )
    parted = quantize.output[0]
    quantize.output[0] = "stem.pairs"
    nodes = [
        helper.make_node("Transpose", ["stem.pairs"], ["stem.pairs.last"], "stem.pairs.last", perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["stem.pairs.last", "stem.shape"], ["stem.last"], "stem.parted"),
        helper.make_node("Transpose", ["stem.last"], [parted], "stem.first", perm=[0, 3, 1, 2]),
    ]
    for offset, node in enumerate(nodes, 1):
        graph.node.insert(position + offset, node)


SHORTER = {
    ".conv.": ".",
    "_QuantizeLinear_Output": ".q",
    "_DequantizeLinear_Output": ".dq",
    "_quantized_scale": ".scale",
    "_quantized": ".q",
    "_scale": ".scale",
}
"""What the quantizer's names are abbreviated to: at its lengths they are 6 % of the file."""


def _compact(model: ModelProto) -> None:
    """Drops what a QDQ graph need not say: zero points of biases, all but one of equal ones, long names."""
    from onnx import TensorProto, numpy_helper

    graph = model.graph
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.name = ""
            if initializers.get(node.input[0], TensorProto()).data_type == TensorProto.INT32:
                del node.input[2:]
    names = {name: name for node in graph.node for name in (*node.input, *node.output)}
    for name in names:
        for long, short in SHORTER.items():
            names[name] = names[name].replace(long, short)
        if name.endswith("_zero_point"):  # every one is a number, or zeros: the same for many tensors
            values = numpy_helper.to_array(initializers[name])
            names[name] = f"zero_points.{len(values)}" if values.ndim else f"zero_point.{values}"
    for node in graph.node:
        _rename(node, names)
    kept = {names[name]: tensor for name, tensor in initializers.items() if name in names}
    del graph.initializer[:]
    for name, tensor in kept.items():
        tensor.name = name
        graph.initializer.append(tensor)
