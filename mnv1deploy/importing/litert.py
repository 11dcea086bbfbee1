"""LiteRT (TensorFlow Lite) files, ``.tflite``: float, int8 and the older uint8, read by the schema."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from mnv1deploy.errors import MnvError
from mnv1deploy.importing.chain import Activation, Affine, End, Linear, Operation, Pad, Pool, Softmax, follow, limit
from mnv1deploy.importing.families import NORMALIZATIONS
from mnv1deploy.importing.found import Array, Convolution, Found, no_mobilenetv1
from mnv1deploy.packages import engine, silenced
from mnv1deploy.spec import Normalization

MAGIC = b"TFL3"
_ACTIVATIONS = {0: "none", 1: "relu", 3: "relu6"}
_OTHER_ACTIVATIONS = {2: "a ReLU from -1 to 1", 4: "tanh", 5: "a sign"}
_TOP = 6.0
_INTEGERS = ("INT4", "INT8", "UINT8", "INT16")
_PASSED = {"RESHAPE", "SQUEEZE", "EXPAND_DIMS", "QUANTIZE", "DEQUANTIZE", "CAST", "TRANSPOSE"}
"""Operators that change no value here; the layout of pictures is told by the convolutions."""


ENDS: dict[str, End] = {
    "SOFTMAX": "softmax", "LOG_SOFTMAX": "softmax", "LOGISTIC": "sigmoid", "ARG_MAX": "arg max"
}  # fmt: skip
"""Operators that may follow the logits."""


def read(path: Path) -> Found:
    """The network of a LiteRT file. Raises MnvError."""
    with silenced():
        schema = engine("ai_edge_litert.schema_py_generated", "litert")
    content = path.read_bytes()
    try:
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        return _Graph(path, schema, model, content).found()
    except (struct.error, ValueError, TypeError, IndexError, AttributeError, OverflowError, KeyError) as error:
        raise MnvError(f"{path} is no LiteRT file, or is damaged: {MnvError.reason(error)}.") from error


class _Graph:
    """A LiteRT model whose operators follow each other."""

    def __init__(self, path: Path, schema: ModuleType, model: Any, content: bytes) -> None:
        self._path, self._schema, self._model, self._content = path, schema, model, content
        self._kinds = {number: name for name, number in vars(schema.TensorType).items() if isinstance(number, int)}
        self._operators = {
            number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)
        }
        if len(model.subgraphs) != 1:
            raise no_mobilenetv1(path, f"it has {len(model.subgraphs)} graphs")
        self._graph = model.subgraphs[0]
        self._made: dict[int, int] = {}
        """What DEQUANTIZE operators take of constants, by the number of what they give."""
        self._shapes: set[int] = set()
        """Tensors that are shapes, which are not looked at."""

    def _tensor(self, number: int) -> Any:
        return self._graph.tensors[number]

    def _is_constant(self, number: int) -> bool:
        data = self._model.buffers[self._tensor(number).buffer].data
        return number in self._made or (data is not None and len(data) > 0)

    def _raw(self, number: int) -> Array:
        tensor = self._tensor(number)
        name = self._kinds[tensor.type]
        kinds = {
            "FLOAT32": "<f4", "FLOAT16": "<f2", "INT8": "i1", "UINT8": "u1", "INT16": "<i2", "INT32": "<i4",
            "INT64": "<i8",
        }  # fmt: skip
        if name not in kinds:
            raise MnvError(f"{self._path} has weights of {name.lower()}, which are not read here.")
        data = bytes(self._model.buffers[tensor.buffer].data)
        shape = [] if tensor.shape is None else [int(n) for n in tensor.shape]
        return np.frombuffer(data, kinds[name]).reshape(shape)

    def _floats(self, number: int) -> Array:
        """A constant's meaning, float32."""
        if number in self._made:
            return self._floats(self._made[number])
        values, grid = self._raw(number), self._tensor(number).quantization
        if values.dtype.kind == "f":
            return values.astype(np.float32)
        if grid is None or grid.scale is None:
            raise MnvError(f"{self._path} has integers in place of weights, without a scale for them.")
        shape = [1] * values.ndim
        scale, zero = np.asarray(grid.scale, np.float64), np.asarray(grid.zeroPoint, np.float64)
        if len(scale) > 1:  # the dimension of a bias is written as that of its weight
            shape[grid.quantizedDimension if values.ndim > 1 else 0] = -1
        return ((values - zero.reshape(shape)) * scale.reshape(shape)).astype(np.float32)

    def _name(self, operator: Any) -> str:
        """The name of what it gives, without those of what was fused into it."""
        name = self._tensor(operator.outputs[0]).name
        return (name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)).split(";")[0]

    def _grid(self, number: int) -> tuple[float, int] | None:
        grid = self._tensor(number).quantization
        if grid is None or grid.scale is None or len(grid.scale) != 1:
            return None
        return float(grid.scale[0]), int(grid.zeroPoint[0])

    def found(self) -> Found:
        """The network."""
        graph = self._graph
        if len(graph.outputs) != 1 or len(graph.inputs) != 1:
            raise no_mobilenetv1(self._path, f"it has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs")
        shape = [int(n) for n in self._tensor(graph.inputs[0]).shape]
        if len(shape) == 4 and shape[1] in (1, 3) and shape[2] > 3:
            shape = [shape[0], *shape[2:], shape[1]]
        if len(shape) != 4 or shape[1] != shape[2]:
            raise no_mobilenetv1(self._path, f"it takes {shape}, not square pictures")
        self._colours = shape[3]
        operations = list(self._operations())
        quantized = any(
            self._kinds[self._tensor(int(operator.inputs[1])).type] in _INTEGERS
            for operator in graph.operators
            if self._operator(operator) in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
        )
        notes = (
            ["Weights are its integers times their scales; its rounding between layers is left out."]
            if quantized
            else []
        )
        normalization, said = self._normalization()
        return follow(
            self._path,
            "LiteRT graph",
            operations,
            input_size=shape[1],
            normalization=normalization,
            classes=self._classes(),
            notes=(*notes, *said),
            quantized=quantized,
        )

    def _operator(self, operator: Any) -> str:
        code = self._model.operatorCodes[operator.opcodeIndex]
        custom = code.customCode
        if custom:
            name = custom.decode("utf-8", "replace") if isinstance(custom, bytes) else str(custom)
            known = {
                "ethos-u": "was compiled by Vela for Arm's Ethos-U",
                "edgetpu-custom-op": "was compiled for the Edge TPU",
            }
            raise MnvError(
                f"{self._path} {known.get(name, f'has an operator of its own, {name}')}: its weights are gone.",
                "Import the .tflite file that it was compiled from.",
            )
        return str(self._operators[max(code.builtinCode, code.deprecatedBuiltinCode)])

    def _operations(self) -> Iterator[Operation]:
        current = self._graph.inputs[0]
        for operator in self._graph.operators:
            kind = self._operator(operator)
            inputs = [int(n) for n in operator.inputs if n >= 0]
            if kind == "DEQUANTIZE" and self._is_constant(inputs[0]):
                self._made[int(operator.outputs[0])] = inputs[0]
                continue
            if kind == "SHAPE" or all(n in self._shapes or self._is_constant(n) for n in inputs):
                self._shapes.update(int(n) for n in operator.outputs)
                continue
            flowing = [n for n in inputs if not self._is_constant(n) and n not in self._shapes]
            name = self._name(operator)
            if len(flowing) > 1:
                raise no_mobilenetv1(self._path, f"{name} ({kind}) joins two branches: it is a residual network")
            if flowing != [current]:
                raise no_mobilenetv1(self._path, f"{name} ({kind}) takes up an earlier layer: there are branches")
            yield from self._operation(kind, name, operator, inputs)
            current = int(operator.outputs[0])
        if current != self._graph.outputs[0]:
            raise no_mobilenetv1(self._path, "its last operator does not give its output")

    def _operation(self, kind: str, name: str, operator: Any, inputs: list[int]) -> Iterator[Operation]:
        options = operator.builtinOptions
        if kind in _PASSED:
            return
        if kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            weight = self._floats(inputs[1])
            depthwise = kind == "DEPTHWISE_CONV_2D"
            weight = weight.transpose((3, 0, 1, 2) if depthwise else (0, 3, 1, 2))
            if options.strideW != options.strideH or max(options.dilationWFactor, options.dilationHFactor) != 1:
                raise no_mobilenetv1(self._path, f"{name} is dilated, or has two strides")
            yield Convolution(
                name,
                np.ascontiguousarray(weight),
                depthwise and options.depthMultiplier == 1,
                self._floats(inputs[2]).reshape(-1) if len(inputs) > 2 else None,
                stride=int(options.strideH),
                padding="same" if options.padding == 0 and weight.shape[2:] != (1, 1) else (0, 0, 0, 0),
            )
            yield self._fused(name, options.fusedActivationFunction, int(operator.outputs[0]))
        elif kind == "FULLY_CONNECTED":
            bias = self._floats(inputs[2]).reshape(-1) if len(inputs) > 2 else None
            yield Linear(name, self._floats(inputs[1]), bias)
            if options.fusedActivationFunction:
                yield self._fused(name, options.fusedActivationFunction, int(operator.outputs[0]))
        elif kind in ("RELU", "RELU6", "LEAKY_RELU", "PRELU", "HARD_SWISH", "ELU", "GELU", "TANH"):
            known = {"RELU": "relu", "RELU6": "relu6", "LEAKY_RELU": "LeakyReLU", "PRELU": "PReLU"}
            yield Activation(name, known.get(kind, kind.lower()))
        elif kind in ("MAXIMUM", "MINIMUM"):
            yield limit(name, kind == "MAXIMUM", self._floats(next(n for n in inputs if self._is_constant(n))))
        elif kind in ("PAD", "PADV2"):
            if kind == "PADV2" and self._floats(inputs[2]).any():
                raise no_mobilenetv1(self._path, f"{name} pads with another value than zero")
            amounts = self._raw(inputs[1])
            if amounts.shape != (4, 2):
                raise no_mobilenetv1(self._path, f"{name} pads {len(amounts)} dimensions")
            (b0, b1), (top, bottom), (left, right), (c0, c1) = amounts.tolist()
            if not c0 and not c1 and not b0 and not b1:
                yield Pad(name, (top, left, bottom, right))
            else:
                raise no_mobilenetv1(self._path, f"{name} pads channels")
        elif kind == "AVERAGE_POOL_2D":
            yield Pool(name, int(options.filterHeight))
        elif kind == "MEAN":
            yield Pool(name)
        elif kind in ENDS:
            yield Softmax(name, ENDS[kind])
        elif (
            kind in ("ADD", "SUB", "MUL", "DIV") and self._is_constant(inputs[-1]) and not self._is_constant(inputs[0])
        ):
            value = self._floats(inputs[1]).astype(np.float64).reshape(-1)
            one, zero = np.ones_like(value), np.zeros_like(value)
            scale = {"MUL": value, "DIV": 1 / value if kind == "DIV" else one}.get(kind, one)
            offset = {"ADD": value, "SUB": -value}.get(kind, zero)
            yield Affine(name, scale, offset)
            if options.fusedActivationFunction:
                yield self._fused(name, options.fusedActivationFunction, int(operator.outputs[0]))
        elif kind in ("MUL", "ADD") and self._is_constant(inputs[0]):
            value = self._floats(inputs[0]).astype(np.float64).reshape(-1)
            one, zero = np.ones_like(value), np.zeros_like(value)
            yield Affine(name, value if kind == "MUL" else one, value if kind == "ADD" else zero)
        else:
            raise no_mobilenetv1(self._path, f"it has an operator {kind} ({name})")

    def _fused(self, name: str, function: int, output: int) -> Activation:
        """A fused activation; an integer grid from zero up is one, too."""
        if function in _OTHER_ACTIVATIONS:
            return Activation(name, _OTHER_ACTIVATIONS[function])
        grid, kind = self._grid(output), self._kinds[self._tensor(output).type]
        if function == 0 and grid and kind in ("INT8", "UINT8"):
            scale, zero = grid
            if zero == (-128 if kind == "INT8" else 0) and self._tensor(output).shape[1] > 1:
                return Activation(name, "relu6" if abs(255 * scale - _TOP) < 0.01 * _TOP else "relu")
        return Activation(name, _ACTIVATIONS[function])

    def _normalization(self) -> tuple[Normalization | None, list[str]]:
        """What the metadata, or the grid of an integer input, says of the pixels."""
        found = _metadata_normalization(self._metadata())
        number = self._graph.inputs[0]
        grid, kind = self._grid(number), self._kinds[self._tensor(number).type]
        colours = self._colours
        if grid is None or kind not in ("INT8", "UINT8"):
            if found is None:
                return None, []
            means, stds = (tuple(values * colours if len(values) == 1 else values) for values in found)
            return Normalization(means, stds), []
        scale, zero = grid
        if kind == "UINT8" or any(
            abs(scale * s - 1) < 0.01 and abs(128 + zero - m) <= 1
            for m, s in ((0, 255), (127.5, 127.5), (128, 128), (128, 64), (0, 1))
        ):
            mean_of = float(zero if kind == "UINT8" else 128 + zero)
            std = round(1 / scale, 3)  # the scale is a float32
            return Normalization((mean_of,) * colours, (std,) * colours), []
        low, high = scale * (-128 - zero), scale * (127 - zero)
        for name, candidate in NORMALIZATIONS.items():
            ends = [(np.array([0.0, 255.0]) - m) / s for m, s in zip(candidate.mean, candidate.std, strict=True)]
            if abs(min(e[0] for e in ends) - low) < 2 * scale and abs(max(e[1] for e in ends) - high) < 2 * scale:
                return candidate, [
                    f"Its int8 input spans {low:.2f} to {high:.2f}, as pixels do that are normalised as {name}."
                ]
        return None, [f"Its int8 input spans {low:.2f} to {high:.2f}, as no normalisation in common use does."]

    def _metadata(self) -> bytes:
        for entry in self._model.metadata or []:
            if entry.name in (b"TFLITE_METADATA", "TFLITE_METADATA"):
                return bytes(self._model.buffers[entry.buffer].data)
        return b""

    def _classes(self) -> tuple[str, ...] | None:
        """From the label file that TensorFlow Lite's metadata packs at the end."""
        start = self._content.find(b"PK\x03\x04")
        if start < 0 or not self._metadata():
            return None
        try:
            with zipfile.ZipFile(io.BytesIO(self._content)) as archive:
                names = [n for n in archive.namelist() if n.endswith(".txt")]
                lines = archive.read(names[0]).decode("utf-8").splitlines() if len(names) == 1 else []
        except (zipfile.BadZipFile, UnicodeDecodeError, KeyError):
            return None
        return tuple(line.strip() for line in lines if line.strip()) or None


def _metadata_normalization(content: bytes) -> tuple[list[float], list[float]] | None:
    """Mean and std of TensorFlow Lite's metadata, in pixel units as they are for float inputs of raw pixels.

    The numbers are the fields' offsets in metadata_schema.fbs: 4 and two more for each field before.
    """
    if not content:
        return None
    table = engine("flatbuffers.table", "litert").Table
    number = engine("flatbuffers.number_types", "litert")

    def rows(parent: Any, field: int) -> list[Any]:
        offset = parent.Offset(field)
        if not offset:
            return []
        start = parent.Vector(offset)
        return [table(content, parent.Indirect(start + 4 * i)) for i in range(parent.VectorLen(offset))]

    def floats(parent: Any, field: int) -> list[float]:
        offset = parent.Offset(field)
        if not offset:
            return []
        start = parent.Vector(offset)
        return [float(parent.Get(number.Float32Flags, start + 4 * i)) for i in range(parent.VectorLen(offset))]

    try:
        model = table(content, struct.unpack_from("<I", content)[0])
        for subgraph in rows(model, 10):
            for tensor in rows(subgraph, 8):
                for unit in rows(tensor, 12):
                    kind = unit.Offset(4)
                    offset = unit.Offset(6)
                    if kind and offset and unit.Get(number.Uint8Flags, unit.Pos + kind) == 1:
                        options = table(content, unit.Pos)
                        unit.Union(options, offset)
                        mean, std = floats(options, 4), floats(options, 6)
                        if mean and std:
                            return mean, std
    except (struct.error, ValueError, TypeError, IndexError):
        return None
    return None
