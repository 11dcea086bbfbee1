"""TensorRT: an ONNX file with the quantisation it accepts, built into an engine on the device that runs it.

Explicit quantisation in TensorRT is symmetric: int8 with zero point 0, for weights and activations alike. The file is
standard ONNX, so its integers are proved here in onnxruntime, whether or not there is an NVIDIA GPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mnv1deploy.artifact import Precision, Provenance
from mnv1deploy.formats.base import CPU, TENSORRT
from mnv1deploy.formats.onnx import OnnxFormat
from mnv1deploy.packages import engine

if TYPE_CHECKING:
    from onnx import ModelProto

    from mnv1deploy.network import MobileNetV1
    from mnv1deploy.quantization import Grid, Quantization

LEVELS = 127
"""Of a symmetric int8 activation above zero: half of those that a uint8 one has."""


class TensorRtFormat(OnnxFormat):
    """``.trt.onnx``: what ``trtexec --onnx`` or onnxruntime's TensorRT provider makes an engine from.

    int8 only: for fp32 and fp16 TensorRT takes the ONNX artifact as it is.
    """

    name = "tensorrt"
    suffix = ".trt.onnx"
    precisions: tuple[Precision, ...] = ("int8",)

    def export(
        self, network: MobileNetV1, path: Path, provenance: Provenance, quantization: Quantization | None
    ) -> None:
        """See Format.export: our integer weights and ranges; biases stay float, as TensorRT wants them."""
        from mnv1deploy.formats.onnx_graph import build

        onnx = engine("onnx", self.export_extra)
        assert quantization, "int8 only"
        model = build(network, provenance, None, two_pixels=False)
        _quantize(model, quantization)
        onnx.checker.check_model(model, full_check=True)
        path.write_bytes(model.SerializeToString(deterministic=True))

    def providers(self) -> tuple[str, ...]:
        """The CPU, on which the file is proved, and TensorRT where onnxruntime has it."""
        return tuple(name for name in super().providers() if name in (CPU, TENSORRT))


def symmetric_scale(grid: Grid) -> float:
    """The scale under which int8 with zero point 0 holds what ``grid`` holds.

    A grid with zero point 128, that of the pixels, loses nothing: its integers less 128 are int8.
    """
    if grid.zero_point == 128:
        return grid.scale
    return max(grid.bound, grid.scale * grid.zero_point) / LEVELS


def _quantize(model: ModelProto, quantization: Quantization) -> None:
    """Puts a QuantizeLinear and a DequantizeLinear behind every activation, one of the latter behind every weight."""
    from onnx import NodeProto, helper, numpy_helper

    graph = model.graph
    nodes: list[NodeProto] = []

    def constant(name: str, values: np.ndarray) -> str:
        graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def dequantize(integers: str, name: str, scale: np.ndarray) -> str:
        scales, zeros = constant(f"{name}.scale", scale), constant(f"{name}.zero_point", np.zeros(scale.shape, np.int8))
        nodes.append(helper.make_node("DequantizeLinear", [integers, scales, zeros], [f"{name}.dq"], axis=0))
        return f"{name}.dq"

    renamed: dict[str, str] = {}
    for node in list(graph.node):
        node.input[:] = [renamed.get(name, name) for name in node.input]
        if weights := quantization.weights.get(node.name):
            shape = next(tuple(tensor.dims) for tensor in graph.initializer if tensor.name == node.input[1])
            values = constant(f"{node.name}.weight.q", weights.values.reshape(shape))
            node.input[1] = dequantize(values, f"{node.name}.weight", weights.scales)
        nodes.append(node)
        (output,) = node.output
        if grid := quantization.activations.get(output):
            scale = np.array(symmetric_scale(grid), np.float32)
            integers = f"{output}.q"
            renamed[output] = dequantize(integers, output, scale)
            quantize = helper.make_node(
                "QuantizeLinear", [output, f"{output}.scale", f"{output}.zero_point"], [integers]
            )
            nodes.insert(len(nodes) - 1, quantize)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
