"""ONNX files whose operators follow each other, in floats or with QuantizeLinear and DequantizeLinear around them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mnv1deploy.errors import MnvError
from mnv1deploy.importing.chain import Activation, Affine, Linear, Normed, Operation, Pad, Pool, Softmax, follow
from mnv1deploy.importing.found import Array, Convolution, Found, Norm, no_mobilenetv1
from mnv1deploy.packages import engine

_PASSED = {"Identity", "Dropout", "Flatten", "Reshape", "Squeeze", "Transpose", "Cast", "Unsqueeze"}
"""Operators that change no value here; the layout of pictures is told by the convolutions."""

_FOLDED = {"Shape", "Gather", "Concat", "Constant", "Slice", "ConstantOfShape"}
"""Operators that make shapes."""


def read(path: Path) -> Found:
    """The network of an ONNX file. Raises MnvError."""
    onnx = engine("onnx", "export")
    try:
        model = onnx.load(str(path))
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
        return follow(self._path, "ONNX graph", operations, input_size=height or None, quantized=self._quantized)

    def _operations(self, current: str) -> Iterator[Operation]:
        for node in self._graph.node:
            inputs = [name for name in node.input if name]
            known = [name for name in inputs if name in self._constants]
            if node.op_type == "Constant":
                self._constants[node.output[0]] = self._onnx.numpy_helper.to_array(self._attribute(node, "value"))
                continue
            if node.op_type == "DequantizeLinear" and inputs[0] in self._constants:
                self._constants[node.output[0]] = self._dequantized(node, inputs)
                continue
            if node.op_type in ("Identity", "Cast") and len(known) == len(inputs):
                self._constants[node.output[0]] = self._constants[inputs[0]]
                continue
            if node.op_type == "Shape" or all(n in self._constants or n in self._shapes for n in inputs):
                self._shapes.update(node.output)
                continue
            flowing = [n for n in inputs if n not in self._constants and n not in self._shapes]
            name = node.name or node.output[0]
            if len(flowing) > 1:
                raise no_mobilenetv1(
                    self._path, f"{name} ({node.op_type}) joins two branches: it is a residual network"
                )
            if flowing != [current]:
                raise no_mobilenetv1(
                    self._path, f"{name} ({node.op_type}) takes up an earlier layer: there are branches"
                )
            yield from self._operation(node, name, inputs)
            current = node.output[0]
        if self._linear is not None:
            yield Linear(*self._linear, None)
        if current != self._graph.output[0].name:
            raise no_mobilenetv1(self._path, "its last operator does not give its output")

    def _attribute(self, node: Any, name: str, default: Any = None) -> Any:
        for attribute in node.attribute:
            if attribute.name == name:
                return self._onnx.helper.get_attribute_value(attribute)
        return default

    def _floats(self, name: str) -> Array:
        if name not in self._constants:
            raise no_mobilenetv1(self._path, f"{name} is computed, where there should be a weight")
        return self._constants[name].astype(np.float32)

    def _dequantized(self, node: Any, inputs: list[str]) -> Array:
        values, scale = self._constants[inputs[0]].astype(np.float64), self._constants[inputs[1]].astype(np.float64)
        zero = self._constants[inputs[2]].astype(np.float64) if len(inputs) > 2 else np.zeros_like(scale)
        shape = [1] * values.ndim
        if scale.ndim:
            shape[self._attribute(node, "axis", 1) if values.ndim > 1 else 0] = -1
        return ((values - zero.reshape(shape)) * scale.reshape(shape)).astype(np.float32)

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
        if kind in ("QuantizeLinear", "DequantizeLinear"):
            self._quantized = True
        elif kind == "Conv":
            yield self._convolution(node, name, inputs)
        elif kind == "BatchNormalization":
            gamma, beta, mean, variance = (self._floats(n) for n in inputs[1:5])
            yield Normed(name, Norm(mean, variance, gamma, beta, float(self._attribute(node, "epsilon", 1e-5))))
        elif kind == "Relu":
            yield Activation(name, "relu")
        elif kind == "Clip":
            limits = [float(self._floats(n)) for n in inputs[1:]] or [
                self._attribute(node, "min", -np.inf), self._attribute(node, "max", np.inf)
            ]  # fmt: skip
            low, high = [*limits, np.inf][:2]
            known = {(0.0, 6.0): "relu6", (0.0, np.inf): "relu"}
            yield Activation(name, known.get((low, high), f"a clip to {low:g} .. {high:g}"))
        elif kind in ("LeakyRelu", "PRelu", "HardSwish", "Elu", "Selu"):
            yield Activation(name, {"LeakyRelu": "LeakyReLU", "PRelu": "PReLU"}.get(kind, kind))
        elif kind == "Pad":
            amounts = self._floats(inputs[1]).astype(int).tolist() if len(inputs) > 1 else self._attribute(node, "pads")
            if len(amounts) != 8 or any(amounts[i] for i in (0, 1, 4, 5)):
                raise no_mobilenetv1(self._path, f"{name} pads channels")
            yield Pad(name, (amounts[2], amounts[3], amounts[6], amounts[7]))
        elif kind in ("GlobalAveragePool", "ReduceMean"):
            yield Pool(name)
        elif kind == "AveragePool":
            yield Pool(name, self._attribute(node, "kernel_shape")[0])
        elif kind == "Gemm":
            weight = self._floats(inputs[1])
            if not self._attribute(node, "transB", 0):
                weight = weight.T
            yield Linear(name, np.ascontiguousarray(weight), self._floats(inputs[2]) if len(inputs) > 2 else None)
        elif kind == "MatMul":
            self._linear = (name, np.ascontiguousarray(self._floats(inputs[1]).T))
        elif kind in ("Softmax", "LogSoftmax", "Sigmoid"):
            yield Softmax(name, "sigmoid" if kind == "Sigmoid" else "softmax")
        elif kind in ("Add", "Sub", "Mul", "Div"):
            yield self._affine(kind, name, inputs)
        else:
            raise no_mobilenetv1(self._path, f"it has an operator {kind} ({name})")

    def _affine(self, kind: str, name: str, inputs: list[str]) -> Affine:
        first = inputs[0] in self._constants
        value = self._floats(inputs[0] if first else inputs[1]).astype(np.float64).reshape(-1)
        one, zero = np.ones_like(value), np.zeros_like(value)
        if first and kind in ("Sub", "Div"):
            raise no_mobilenetv1(self._path, f"{name} takes its input from a constant ({kind})")
        scale = value if kind == "Mul" else 1 / value if kind == "Div" else one
        offset = value if kind == "Add" else -value if kind == "Sub" else zero
        return Affine(name, scale, offset)

    def _convolution(self, node: Any, name: str, inputs: list[str]) -> Convolution:
        weight = self._floats(inputs[1])
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
            self._floats(inputs[2]) if len(inputs) > 2 else None,
            stride=stride[0],
            padding="same" if auto == "SAME_UPPER" and weight.shape[2:] != (1, 1) else (top, left, bottom, right),
        )
