"""A network as ONNX in floats, layer by layer; nodes and tensors have the names of the layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mnv1deploy.quantization import INPUT, parameters_of

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

    from mnv1deploy.network import MobileNetV1

OPSET = 18
"""Any onnxruntime since 1.14 (2023) knows it."""

IR_VERSION = 8
"""The one that came with the opset, and has all that is written here; onnxruntime 1.14 to 1.17 refuse 10 and later."""

AVERAGE = {"count_include_pad": 1, "ceil_mode": 0, "pads": [0] * 4, "auto_pad": "NOTSET"}
PRODUCT = {"beta": 1.0, "transB": 1, "alpha": 1.0, "transA": 0}


class _Graph:
    """Nodes and constants in the order they are added in."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, TensorProto] = {}

    def node(self, kind: str, name: str, inputs: Sequence[str], output: str, **attributes: object) -> str:
        """Returns its output; attributes stay in the order given, which is not that of onnx.helper.make_node."""
        from onnx import helper

        made = helper.make_node(kind, inputs, [output], name)
        made.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self.nodes.append(made)
        return output

    def constant(self, name: str, values: NDArray[Any]) -> str:
        from onnx import numpy_helper

        self.constants[name] = numpy_helper.from_array(values, name)
        return name


def model_of(network: MobileNetV1, *, half: bool) -> ModelProto:
    """The model, in float16 but for its logits if ``half``. Biases that are all zeros are left out.

    Names without a layer are those that torch.onnx gave them, which wrote such files before: so they keep their bytes.

    Args:
        network: with the batch normalisations folded.
        half: whether its numbers are float16.
    """
    from onnx import TensorProto, helper

    spec, graph = network.spec, _Graph()
    floats, dtype = (np.float16, TensorProto.FLOAT16) if half else (np.float32, TensorProto.FLOAT)
    graph.node("Transpose", "node_permute", ["image"], "permute", perm=[0, 3, 1, 2])
    graph.node("Cast", "node__to_copy", ["permute"], "_to_copy", to=dtype)
    graph.node("Sub", "node_sub", ["_to_copy", "mean"], "sub")
    x = graph.node("Div", "node_div", ["sub", "std"], INPUT)
    bounds = ["min_val_cast", "max_val_cast"] if spec.activation == "relu6" else []
    for layer in spec.layers():
        strides, kernel = [layer.stride] * 2, [layer.kernel] * 2
        if layer.kind == "pool":
            x = graph.node("AveragePool", "pool", [x], "pool", **AVERAGE, strides=strides, kernel_shape=kernel)
            x = graph.node("Reshape", "node_Reshape_7", [x, "val_5"], "view", allowzero=1)
            continue
        prefix = layer.name if layer.kind == "linear" else f"{layer.name}.conv"
        read = [x]
        for part, values in zip(("weight", "bias"), parameters_of(network, layer), strict=True):
            if part == "weight" or values.any():
                read.append(graph.constant(f"{prefix}.{part}", values.numpy().astype(floats)))
        if layer.kind == "linear":
            x = graph.node("Gemm", layer.name, read, "linear" if half else "logits", **PRODUCT)
            continue
        placed = {"pads": layer.padding, "auto_pad": "NOTSET", "strides": strides, "dilations": [1, 1]}
        x = graph.node("Conv", layer.name, read, prefix, group=layer.groups, **placed, kernel_shape=kernel)
        x = graph.node("Clip" if bounds else "Relu", f"{layer.name}.relu", [x, *bounds], layer.name)
    if half:
        graph.node("Cast", "node__to_copy_1", [x], "logits", to=TensorProto.FLOAT)
    for name in ("mean", "std"):
        graph.constant(name, getattr(network, name).numpy().astype(floats))
    for name, bound in zip(bounds, (0, 6), strict=False):
        graph.constant(name, np.array(bound, floats))
    graph.constant("val_5", np.array([-1, layer.in_channels]))
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", *spec.pixels.shape])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(spec.classes)])
    made = helper.make_graph(graph.nodes, spec.name, [image], [logits], list(graph.constants.values()))
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
