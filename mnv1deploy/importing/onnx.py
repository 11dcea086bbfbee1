"""ONNX files whose operators follow each other, in floats or with QuantizeLinear and DequantizeLinear around them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mnv1deploy.artifact import METADATA_KEY
from mnv1deploy.errors import MnvError
from mnv1deploy.importing.chain import (
    Activation,
    Affine,
    End,
    Linear,
    Normed,
    Operation,
    Pad,
    Pool,
    Softmax,
    follow,
    limit,
)
from mnv1deploy.importing.found import Array, Convolution, Found, Norm, no_mobilenetv1
from mnv1deploy.packages import engine

_PASSED = {"Identity", "Dropout", "Flatten", "Reshape", "Squeeze", "Transpose", "Cast", "Unsqueeze"}
"""Operators that change no value here; the layout of pictures is told by the convolutions."""

ENDS: dict[str, End] = {"Softmax": "softmax", "LogSoftmax": "softmax", "Sigmoid": "sigmoid", "ArgMax": "arg max"}
"""Operators that may follow the logits."""


def read(path: Path) -> Found:
    """The network of an ONNX file. Raises MnvError."""
    onnx = engine("onnx", "export")
    try:
        model = onnx.load(str(path))
        if any(entry.key == METADATA_KEY for entry in model.metadata_props) and "DequantizeLinear" in {
            node.op_type for node in model.graph.node
        }:
            raise MnvError(
                f"{path} is an int8 artifact of mnv1deploy, which runs as it is.",
                "Import the checkpoint that it was made of, or its fp32 ONNX.",
            )
        return _Graph(path, onnx, model.graph).found()
    except MnvError:
        raise
    except Exception as error:
        # protobuf's DecodeError and onnx's own errors share no base
        raise MnvError(f"{path} is no ONNX file, or is damaged: {MnvError.reason(error)}.") from error


class _Graph:
    """An ONNX graph of one picture input and one output of logits or probabilities."""

    def __init__(self, path: Path, onnx: Any, graph: Any) -> None:
        self._path, self._onnx, self._graph = path, onnx, graph
        self._constants: dict[str, Array] = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
        self._shapes: set[str] = set()
        self._quantized = False
        self._bare = False  # whether the last operator was a convolution, or its batch normalisation
        self._linear: tuple[str, Array] | None = None

    def found(self) -> Found:
        """The network."""
        inputs = [i for i in self._graph.input if i.name not in self._constants]
        if len(inputs) != 1 or len(self._graph.output) != 1:
            raise no_mobilenetv1(self._path, f"it has {len(inputs)} inputs and {len(self._graph.output)} outputs")
        sizes = [d.dim_value for d in inputs[0].type.tensor_type.shape.dim]
        if len(sizes) != 4:
            raise no_mobilenetv1(self._path, f"it takes {len(sizes)} dimensions, not a batch of pictures")
        height, width = sizes[2:] if sizes[1] in (1, 3) else sizes[1:3]
        if height != width:
            raise no_mobilenetv1(self._path, f"it takes pictures of {height}x{width} pixels, and they are square here")
        operations = list(self._operations(inputs[0].name))
        half = any(array.dtype == np.float16 for array in self._constants.values())
        size = height or None
        return follow(self._path, "ONNX graph", operations, input_size=size, quantized=self._quantized, half=half)

    def _operations(self, current: str) -> Iterator[Operation]:
        """From the input on, whatever the order of the nodes in the file."""
        waiting = list(self._graph.node)
        count = 0
        while count != len(waiting):
            count, waiting = len(waiting), [node for node in waiting if not self._is_known(node)]
        while takers := [node for node in waiting if current in node.input]:
            node, *others = takers
            name = node.name or node.output[0]
            if others:
                other = others[0].name or others[0].output[0]
                raise no_mobilenetv1(
                    self._path,
                    f"{name} ({node.op_type}) and {other} ({others[0].op_type}) take the same values: there are "
                    "branches, as in a residual network",
                )
            inputs = [n for n in node.input if n]
            if any(n != current and n not in self._constants and n not in self._shapes for n in inputs):
                raise no_mobilenetv1(self._path, f"{name} ({node.op_type}) joins two branches")
            yield from self._operation(node, name, inputs)
            waiting.remove(node)
            current = node.output[0]
        if self._linear is not None:
            yield Linear(*self._linear, None)
        if current != self._graph.output[0].name:
            raise no_mobilenetv1(self._path, "its last operator does not give its output")

    def _is_known(self, node: Any) -> bool:
        """Whether a node makes a constant, which is computed, or a shape, which is not looked at."""
        inputs = [name for name in node.input if name]
        if node.op_type == "Constant":
            self._constants[node.output[0]] = self._onnx.numpy_helper.to_array(self._attribute(node, "value"))
        elif node.op_type == "DequantizeLinear" and inputs[0] in self._constants:
            self._constants[node.output[0]] = self._dequantized(inputs, self._attribute(node, "axis", 1))
        elif node.op_type in ("Identity", "Cast") and inputs[0] in self._constants:
            self._constants[node.output[0]] = self._constants[inputs[0]]
        elif node.op_type == "Shape" or all(n in self._constants or n in self._shapes for n in inputs):
            self._shapes.update(node.output)
        else:
            return False
        return True

    def _attribute(self, node: Any, name: str, default: Any = None) -> Any:
        for attribute in node.attribute:
            if attribute.name == name:
                return self._onnx.helper.get_attribute_value(attribute)
        return default

    def _floats(self, name: str) -> Array:
        if name not in self._constants:
            raise no_mobilenetv1(self._path, f"{name} is computed, where there should be a weight")
        return self._constants[name].astype(np.float32)

    def _dequantized(self, inputs: list[str], axis: int) -> Array:
        """What integers mean, given with their scale and, if it is not zero, their zero point: float32."""
        values, scale = self._constants[inputs[0]].astype(np.float64), self._constants[inputs[1]].astype(np.float64)
        zero = self._constants[inputs[2]].astype(np.float64) if len(inputs) > 2 else np.zeros_like(scale)
        shape = [1] * values.ndim
        if scale.ndim:
            shape[axis if values.ndim > 1 else 0] = -1
        return ((values - zero.reshape(shape)) * scale.reshape(shape)).astype(np.float32)

    def _cut_off(self, name: str, zero_point: str) -> Iterator[Activation]:
        """A ReLU, if a grid begins at zero: quantizers leave the operator out then."""
        zero = self._constants[zero_point]
        if zero.size == 1 and zero.item() == np.iinfo(zero.dtype).min:
            yield Activation(name, "relu")

    def _operation(self, node: Any, name: str, inputs: list[str]) -> Iterator[Operation]:
        kind = node.op_type
        if self._linear is not None:
            held, self._linear = self._linear, None
            if kind == "Add":
                bias = self._floats(next(n for n in inputs if n in self._constants)).reshape(-1)
                yield Linear(*held, bias)
                return
            yield Linear(*held, None)
        if kind in _PASSED:
            return
        bare, self._bare = self._bare, False
        if kind in ("QuantizeLinear", "DequantizeLinear"):
            self._quantized = True
            if kind == "QuantizeLinear" and bare and len(inputs) > 2:
                yield from self._cut_off(name, inputs[2])
        elif kind in ("QLinearConv", "QGemm", "QLinearGlobalAveragePool"):
            self._quantized = True
            yield from self._integer_operation(node, name, inputs)
        elif kind in ("DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"):
            raise MnvError(
                f"{self._path} is quantised dynamically: what its integers mean is only known when it runs.",
                "Import the file in floats that it was made of.",
            )
        elif kind == "Conv":
            offsets = self._floats(inputs[2]) if len(inputs) > 2 else None
            yield self._convolution(node, name, self._floats(inputs[1]), offsets)
            self._bare = True
        elif kind == "BatchNormalization":
            gamma, beta, mean, variance = (self._floats(n) for n in inputs[1:5])
            yield Normed(name, Norm(mean, variance, gamma, beta, float(self._attribute(node, "epsilon", 1e-5))))
            self._bare = True
        elif kind == "Relu":
            yield Activation(name, "relu")
        elif kind == "Clip":
            low, high = (self._limit(node, place, key) for place, key in ((1, "min"), (2, "max")))
            known = {(0.0, 6.0): "relu6", (0.0, np.inf): "relu"}
            yield Activation(name, known.get((low, high), f"a clip to {low:g} .. {high:g}"))
        elif kind in ("Max", "Min"):
            yield limit(name, kind == "Max", self._floats(next(n for n in inputs if n in self._constants)))
        elif kind in ("LeakyRelu", "PRelu", "HardSwish", "Elu", "Selu"):
            yield Activation(name, {"LeakyRelu": "LeakyReLU", "PRelu": "PReLU"}.get(kind, kind))
        elif kind == "Pad":
            amounts = self._floats(inputs[1]).astype(int).tolist() if len(inputs) > 1 else self._attribute(node, "pads")
            if len(amounts) != 8 or any(amounts[i] for i in (0, 1, 4, 5)):
                raise no_mobilenetv1(self._path, f"{name} pads channels")
            yield Pad(name, (amounts[2], amounts[3], amounts[6], amounts[7]))
        elif kind == "GlobalAveragePool":
            yield Pool(name)
        elif kind == "ReduceMean":
            axes = self._floats(inputs[1]) if len(inputs) > 1 else self._attribute(node, "axes", ())
            yield Pool(name, is_half=len(axes) == 1)
        elif kind == "AveragePool":
            yield Pool(name, self._attribute(node, "kernel_shape")[0])
        elif kind == "Gemm":
            weight = self._floats(inputs[1])
            if not self._attribute(node, "transB", 0):
                weight = weight.T
            yield Linear(name, np.ascontiguousarray(weight), self._floats(inputs[2]) if len(inputs) > 2 else None)
        elif kind == "MatMul":
            self._linear = (name, np.ascontiguousarray(self._floats(inputs[1]).T))
        elif kind in ENDS:
            yield Softmax(name, ENDS[kind])
        elif kind in ("Add", "Sub", "Mul", "Div"):
            yield self._affine(kind, name, inputs)
        else:
            raise no_mobilenetv1(self._path, f"it has an operator {kind} ({name})")

    def _limit(self, node: Any, place: int, key: str) -> float:
        """Of a Clip: an input, an attribute in files before opset 11, or none."""
        if len(node.input) > place and node.input[place]:
            return float(self._floats(node.input[place]).item())
        return float(self._attribute(node, key, -np.inf if key == "min" else np.inf))

    def _affine(self, kind: str, name: str, inputs: list[str]) -> Affine:
        first = inputs[0] in self._constants
        value = self._floats(inputs[0] if first else inputs[1]).astype(np.float64).reshape(-1)
        one, zero = np.ones_like(value), np.zeros_like(value)
        if first and kind in ("Sub", "Div"):
            raise no_mobilenetv1(self._path, f"{name} takes its input from a constant ({kind})")
        scale = value if kind == "Mul" else 1 / value if kind == "Div" else one
        offset = value if kind == "Add" else -value if kind == "Sub" else zero
        return Affine(name, scale, offset)

    def _integer_operation(self, node: Any, name: str, inputs: list[str]) -> Iterator[Operation]:
        """Operators on integers: x, its scale and zero point, the same three of the weights, then the result's."""
        if node.op_type == "QLinearGlobalAveragePool":
            yield Pool(name)
            return
        first = self._attribute(node, "transB", 0) == 0 if node.op_type == "QGemm" else False
        weight = self._dequantized(inputs[3:6], int(first))
        is_convolution = node.op_type == "QLinearConv"
        where = 8 if is_convolution else 6
        scale = self._floats(inputs[1]).astype(np.float64) * self._floats(inputs[4])
        offsets: Array | None = None
        if len(inputs) > where and self._constants[inputs[where]].dtype == np.int32:
            offsets = (self._constants[inputs[where]] * scale).astype(np.float32)
        if is_convolution:
            yield self._convolution(node, name, weight, offsets)
            yield from self._cut_off(name, inputs[7])
        else:
            yield Linear(name, np.ascontiguousarray(weight.T if first else weight), offsets)

    def _convolution(self, node: Any, name: str, weight: Array, bias: Array | None) -> Convolution:
        groups = self._attribute(node, "group", 1)
        stride = self._attribute(node, "strides", [1, 1])
        if len(set(stride)) != 1 or set(self._attribute(node, "dilations", [1, 1])) != {1}:
            raise no_mobilenetv1(self._path, f"{name} is dilated, or has two strides")
        if groups not in (1, len(weight)):
            raise no_mobilenetv1(self._path, f"{name} has {groups} groups")
        auto = self._attribute(node, "auto_pad", b"NOTSET").decode()
        if auto == "SAME_LOWER":
            raise no_mobilenetv1(self._path, f"{name} pads above and to the left")
        top, left, bottom, right = self._attribute(node, "pads", [0, 0, 0, 0])
        return Convolution(
            name,
            np.ascontiguousarray(weight),
            groups > 1,
            bias,
            stride=stride[0],
            padding="same" if auto == "SAME_UPPER" and weight.shape[2:] != (1, 1) else (top, left, bottom, right),
        )
