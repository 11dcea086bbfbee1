"""LiteRT (TensorFlow Lite): a flatbuffer of NHWC operators, written from the spec and run by ai-edge-litert.

No converter stands between: the file has one operator for every layer of the spec, and our integers as they are.
The scheme of LiteRT's int8 is ours with activations shifted by 128 (https://ai.google.dev/edge/litert/models/quantization_spec).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mnv1deploy.artifact import METADATA_KEY, Precision, Provenance
from mnv1deploy.errors import MnvError
from mnv1deploy.formats.base import CPU, CpuSession, Format, Images, Logits, refuse_provider
from mnv1deploy.packages import engine, is_installed, silenced
from mnv1deploy.spec import Layer, same_padding

if TYPE_CHECKING:
    from mnv1deploy.network import MobileNetV1
    from mnv1deploy.quantization import Quantization

_SCHEMA = "ai_edge_litert.schema_py_generated"

_OPTIONS = {
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "MEAN": "ReducerOptions",
}
"""The operators with options to set, and what the schema calls those."""

_FUSED = {"none": 0, "relu": 1, "relu6": 3}
"""The schema's ActivationFunctionType."""

_VALID = 1
"""Of the schema's Padding; the default, 0, is SAME."""

_VERSIONS = {"DEQUANTIZE": 3, "CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "MEAN": 2, "PAD": 2, "QUANTIZE": 2}
"""The oldest version of each operator that knows what is asked of it here (int8, float16); 1 for the others."""


class LiteRTFormat(Format):
    """``.tflite``: input ``image``, output ``logits``, spec and provenance in the flatbuffer's metadata.

    fp16 are the weights, which the engine computes with in the type that the device is fast in. int8 is our
    integers; the classifier adds its up in float32.
    """

    name = "litert"
    suffix = ".tflite"
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    extra = "litert"
    runners: tuple[str, ...] = ("ai-edge-litert",)
    checks = False
    export_extra = "litert,train"
    writers: tuple[str, ...] = ("torch", "ai-edge-litert")

    def export(
        self, network: MobileNetV1, path: Path, provenance: Provenance, quantization: Quantization | None
    ) -> None:
        """See Format.export."""
        path.write_bytes(flatbuffer(network, provenance, quantization))

    def providers(self) -> tuple[str, ...]:
        """The CPU, if ai-edge-litert is installed."""
        return (CPU,) if is_installed("ai-edge-litert") else ()

    def provenance(self, path: Path) -> Provenance | None:
        """From the flatbuffer's metadata."""
        return read_provenance(path)

    def open(self, path: Path, *, provider: str, threads: int | None) -> LiteRTSession:
        """See Format.open."""
        litert = engine("ai_edge_litert.interpreter", self.extra)
        if provider not in self.providers():
            raise refuse_provider(provider, self.providers(), self.name)
        return LiteRTSession(litert, path, threads)


class LiteRTSession(CpuSession):
    """A model in LiteRT's interpreter, whose XNNPACK delegate runs it. A change of batch size costs a resize."""

    forks = True

    def __init__(self, litert: ModuleType, path: Path, threads: int | None) -> None:
        try:
            with silenced():
                self._interpreter = litert.Interpreter(str(path), num_threads=threads)
                self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise damaged(path, error) from error
        self.provenance = read_provenance(path)
        self._image = self._interpreter.get_input_details()[0]["index"]
        self._logits = self._interpreter.get_output_details()[0]["index"]
        self._batch = 1

    def _infer(self, images: Images) -> Logits:
        if len(images) != self._batch:
            self._batch = 0  # no size, until the engine has taken the new one
            self._interpreter.resize_tensor_input(self._image, images.shape, strict=True)
            self._interpreter.allocate_tensors()
            self._batch = len(images)
        self._interpreter.set_tensor(self._image, images)
        self._interpreter.invoke()
        logits: Logits = self._interpreter.get_tensor(self._logits)
        return logits


def read_provenance(path: Path) -> Provenance:
    """From a flatbuffer's metadata. Raises MnvError if it is damaged or not ours.

    Read without the schema's module, whose import takes longer than everything else about opening a file. The
    numbers are the fields' offsets in schema.fbs: 4 and two more for each field before.
    """
    content = path.read_bytes()
    if content[4:8] != b"TFL3":
        raise damaged(path, ValueError("it does not start like one"))
    table = engine("flatbuffers.table", "litert").Table
    unsigned = engine("flatbuffers.number_types", "litert").Uint32Flags

    def rows(parent: Any, field: int) -> list[Any]:
        if not (offset := parent.Offset(field)):
            return []
        start = parent.Vector(offset)
        return [table(content, parent.Indirect(start + 4 * i)) for i in range(parent.VectorLen(offset))]

    try:
        model = table(content, struct.unpack_from("<I", content)[0])
        for entry in rows(model, 16):
            if entry.String(entry.Pos + entry.Offset(4)) == METADATA_KEY.encode():
                buffer = rows(model, 12)[entry.Get(unsigned, entry.Pos + entry.Offset(6))]
                start = buffer.Vector(buffer.Offset(4))
                return Provenance.from_json(content[start : start + buffer.VectorLen(buffer.Offset(4))].decode())
    except (struct.error, ValueError, TypeError, IndexError) as error:
        raise damaged(path, error) from error
    raise MnvError(f"{path} was not written by mnv1deploy: it carries no spec.", "Export the checkpoint again.")


def damaged(path: Path, error: Exception) -> MnvError:
    """The error for a file that is no LiteRT model."""
    return MnvError(f"{path} is no LiteRT model, or is damaged: {MnvError.reason(error)}.", "Export it again.")


def flatbuffer(network: MobileNetV1, provenance: Provenance, quantization: Quantization | None) -> bytes:
    """A LiteRT model of a folded network, every size fixed but the batch's; see Format.export."""
    graph = _Graph(network, quantization, provenance.precision)
    spec = network.spec
    shape: tuple[int, ...] = spec.pixels.shape
    normalization = spec.normalization
    image = x = graph.activation(
        "image", shape, "UINT8", normalization.quantization if normalization.is_grid else (1.0, 0)
    )
    if quantization:  # whose normalisation is a grid
        x = graph.then("QUANTIZE", [x], "normalized", shape)
    else:
        x = graph.then("DEQUANTIZE", [x], "pixels", shape)
        if not normalization.is_grid:
            for operator, name in (("SUB", "mean"), ("DIV", "std")):
                constant = graph.constant(name, np.array(getattr(normalization, name), np.float32))
                x = graph.then(operator, [x, constant], f"pixels.{name}", shape)
    before = "normalized"
    for layer in spec.layers():
        if layer.kind == "pool":
            axes = graph.constant("axes", np.array([1, 2], np.int32))
            x = graph.then("MEAN", [x, axes], layer.name, (layer.out_channels,))
        elif layer.kind == "linear":
            if quantization:
                x = graph.then("DEQUANTIZE", [x], "pooled", (layer.in_channels,))
            x = graph.then("FULLY_CONNECTED", [x, *graph.floats(layer)], "logits", (layer.out_channels,))
        else:
            options = {"strideW": layer.stride, "strideH": layer.stride}
            options["fusedActivationFunction"] = _FUSED[layer.activation]
            if layer.padding != same_padding(layer.in_size, layer.kernel, layer.stride):
                top, left, bottom, right = layer.padding
                rim = graph.constant("rim", np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32))
                padded = (layer.in_size + top + bottom, layer.in_size + left + right, layer.in_channels)
                x = graph.then("PAD", [x, rim], f"{layer.name}.padded", padded, grid=before)
                options["padding"] = _VALID
            parameters = graph.integers(layer, before) if quantization else graph.floats(layer)
            if layer.kind == "depthwise":
                options["depthMultiplier"] = 1
            operator = "DEPTHWISE_CONV_2D" if layer.kind == "depthwise" else "CONV_2D"
            shape = (layer.out_size, layer.out_size, layer.out_channels)
            x = graph.then(operator, [x, *parameters], layer.name, shape, options=options)
        before = layer.name
    return graph.packed(image, x, provenance)


class _Constant:
    """A buffer of the flatbuffer, its data aligned to 16 bytes as the schema has it and Python's library has not."""

    def __init__(self, schema: ModuleType, data: NDArray[Any]) -> None:
        self._buffer = schema.BufferT(np.frombuffer(data.tobytes(), np.uint8))

    def Pack(self, builder: Any) -> int:  # noqa: N802
        """Called by ModelT.Pack in place of BufferT's own."""
        builder.Prep(16, self._buffer.data.nbytes)
        offset: int = self._buffer.Pack(builder)
        return offset


class _Graph:
    """A LiteRT model under construction; tensors are their numbers."""

    def __init__(self, network: MobileNetV1, quantization: Quantization | None, precision: Precision) -> None:
        self._schema = schema = engine(_SCHEMA, "litert")
        self._network, self._quantization, self._precision = network, quantization, precision
        self._codes: dict[str, int] = {}
        self._buffers: list[Any] = [schema.BufferT()]  # the first is every activation's
        self._constants: dict[str, int] = {}
        self._graph = schema.SubGraphT(tensors=[], operators=[], name="main")

    def _tensor(self, name: str, shape: Sequence[int], type_: str, **facts: Any) -> int:
        kind = getattr(self._schema.TensorType, type_)
        self._graph.tensors.append(self._schema.TensorT(list(shape), kind, name=name, hasRank=True, **facts))
        return len(self._graph.tensors) - 1

    def _scaled(self, scales: Any, zero_point: int = 0, dimension: int = 0) -> Any:
        zero_points = np.full(len(scales), zero_point, np.int64)
        return self._schema.QuantizationParametersT(
            scale=np.array(scales, np.float32), zeroPoint=zero_points, quantizedDimension=dimension
        )

    def activation(self, name: str, shape: Sequence[int], type_: str, grid: tuple[float, int] | None = None) -> int:
        """A tensor of any batch size; ``shape`` is one picture's."""
        quantization = self._scaled([grid[0]], grid[1]) if grid else None
        return self._tensor(name, (1, *shape), type_, shapeSignature=[-1, *shape], quantization=quantization)

    def constant(self, name: str, values: NDArray[Any], quantization: Any = None) -> int:
        """A tensor with a value, the same for the same name."""
        if name not in self._constants:
            self._buffers.append(_Constant(self._schema, values))
            facts = {"buffer": len(self._buffers) - 1, "quantization": quantization}
            self._constants[name] = self._tensor(name, values.shape, values.dtype.name.upper(), **facts)
        return self._constants[name]

    def then(
        self,
        operator: str,
        inputs: list[int],
        name: str,
        shape: Sequence[int],
        *,
        grid: str = "",
        options: dict[str, int] | None = None,
    ) -> int:
        """Adds an operator. Its output is on the grid called ``grid`` or ``name``, or float if there is none."""
        found = self._quantization.activations.get(grid or name) if self._quantization else None
        if found:  # LiteRT has int8 activations
            output = self.activation(name, shape, "INT8", (found.scale, found.zero_point - 128))
        else:
            output = self.activation(name, shape, "FLOAT32")
        return self._operator(operator, inputs, output, options)

    def _operator(self, operator: str, inputs: list[int], output: int, options: dict[str, int] | None = None) -> int:
        schema = self._schema
        code = self._codes.setdefault(operator, len(self._codes))
        node = schema.OperatorT(opcodeIndex=code, inputs=inputs, outputs=[output])
        if operator in _OPTIONS:
            node.builtinOptionsType = getattr(schema.BuiltinOptions, _OPTIONS[operator])
            node.builtinOptions = getattr(schema, f"{_OPTIONS[operator]}T")(**options or {})
        self._graph.operators.append(node)
        return output

    def floats(self, layer: Layer) -> list[int]:
        """A layer's weight and bias as floats; in fp16 through a DEQUANTIZE that the engine folds away."""
        from mnv1deploy.quantization import parameters_of

        weight, bias = (parameter.numpy() for parameter in parameters_of(self._network, layer))
        found = []
        for name, values in ((f"{layer.name}.weight", _layout(layer, weight)), (f"{layer.name}.bias", bias)):
            if self._precision == "fp16":
                half = self.constant(f"{name}.half", values.astype(np.float16))
                number = self._operator("DEQUANTIZE", [half], self._tensor(name, values.shape, "FLOAT32"))
            else:
                number = self.constant(name, values)
            found.append(number)
        return found

    def integers(self, layer: Layer, before: str) -> list[int]:
        """A layer's int8 weight and int32 bias, given the name of the grid of its input."""
        assert self._quantization
        integers, grid = self._quantization.weights[layer.name], self._quantization.activations[before]
        dimension = 3 if layer.kind == "depthwise" else 0
        sum_scales = grid.scale * integers.scales.astype(np.float64)
        weight = self._scaled(integers.scales, dimension=dimension)
        return [
            self.constant(f"{layer.name}.weight", _layout(layer, integers.values), weight),
            self.constant(f"{layer.name}.bias", integers.bias, self._scaled(sum_scales)),
        ]

    def packed(self, image: int, logits: int, provenance: Provenance) -> bytes:
        """The finished file."""
        import flatbuffers

        schema, graph = self._schema, self._graph
        graph.inputs, graph.outputs = [image], [logits]
        codes = []
        for name in self._codes:
            code = getattr(schema.BuiltinOperator, name)
            codes.append(schema.OperatorCodeT(code, version=_VERSIONS.get(name, 1), builtinCode=code))
        text = provenance.to_json().encode()
        model = schema.ModelT(
            version=3,
            operatorCodes=codes,
            subgraphs=[graph],
            description=f"mnv1deploy {provenance.versions.get('mnv1deploy', '')}".strip(),
            buffers=[*self._buffers, _Constant(schema, np.frombuffer(text, np.uint8))],
            metadata=[schema.MetadataT(METADATA_KEY, len(self._buffers))],
            signatureDefs=[
                schema.SignatureDefT(
                    inputs=[schema.TensorMapT("image", image)],
                    outputs=[schema.TensorMapT("logits", logits)],
                    signatureKey="serving_default",
                )
            ],
        )
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def _layout(layer: Layer, weight: NDArray[Any]) -> NDArray[Any]:
    """A weight in LiteRT's order: output channels, height, width, input channels; 1 for a depthwise one's output."""
    if layer.kind == "linear":
        return weight
    return weight.transpose((1, 2, 3, 0) if layer.kind == "depthwise" else (0, 2, 3, 1))
