"""LiteRT files in the forms that converters write: what is read is what LiteRT computes, or they are refused."""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from mnv1deploy.errors import MnvError
from mnv1deploy.importing import NORMALIZATIONS, Imported, Options, import_file
from mnv1deploy.packages import silenced
from mnv1deploy.spec import Normalization

SIZE, STEM, CLASSES = 32, 4, ("ant", "bee", "wasp")
BLOCKS = ((8, 1), (16, 2), (16, 1))
HALF = NORMALIZATIONS["half"]
Grid = tuple[float, int]
Grids = dict[str, Grid]

OPTIONS = {
    "CONV_2D": "Conv2DOptions", "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions", "ARG_MAX": "ArgMaxOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions", "MEAN": "ReducerOptions", "AVERAGE_POOL_2D": "Pool2DOptions",
    "SOFTMAX": "SoftmaxOptions", "STRIDED_SLICE": "StridedSliceOptions", "PACK": "PackOptions",
    "SHAPE": "ShapeOptions",
    "MAXIMUM": "MaximumMinimumOptions", "MINIMUM": "MaximumMinimumOptions",
}  # fmt: skip
VERSIONS = {"DEQUANTIZE": 3, "CONV_2D": 5, "DEPTHWISE_CONV_2D": 6, "FULLY_CONNECTED": 9, "QUANTIZE": 3}


@dataclass(frozen=True)
class Form:
    """How a converter writes a network.

    Attributes:
        weights: "float", "half" (float16 and a DEQUANTIZE), "dynamic" (int8 beside float activations), "int8" or
            "int16" (int8 beside int16 activations).
        per_channel: whether int8 weights have a scale for each output channel.
        entry: "float", "uint8" or "channels first".
        pad: "same", or a PAD of its own that is "even" on all sides or as TensorFlow's "own" rule has it.
        activation: "fused", or operators of their own: "relu6" or "limits".
        head: "mean", "average", "convolution" or "shapes" (a RESHAPE whose shape is computed).
        ends: operators behind the logits.
    """

    weights: str = "float"
    per_channel: bool = True
    entry: str = "float"
    pad: str = "same"
    activation: str = "fused"
    head: str = "mean"
    ends: tuple[str, ...] = ()


@dataclass
class Writer:
    """A LiteRT model under construction."""

    form: Form
    grids: Grids = field(default_factory=dict)
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def __post_init__(self) -> None:
        self.codes: list[str] = []
        self.buffers: list[Any] = [schema.BufferT()]
        self.graph = schema.SubGraphT(tensors=[], operators=[], name="main")
        self.metadata: list[Any] = []

    def tensor(self, name: str, shape: Sequence[int], kind: str, grid: Any = None, buffer: int = 0) -> int:
        quantization = None
        if grid is not None:
            scales, zeros, axis = grid if len(grid) == 3 else ([grid[0]], [grid[1]], 0)
            quantization = schema.QuantizationParametersT(
                scale=np.array(scales, np.float32), zeroPoint=np.array(zeros, np.int64), quantizedDimension=axis
            )
        number = getattr(schema.TensorType, kind)
        self.graph.tensors.append(
            schema.TensorT(list(shape), number, buffer, name=name, hasRank=True, quantization=quantization)
        )
        return len(self.graph.tensors) - 1

    def constant(self, name: str, values: NDArray[Any], grid: Any = None) -> int:
        self.buffers.append(schema.BufferT(np.frombuffer(values.tobytes(), np.uint8)))
        return self.tensor(name, values.shape, values.dtype.name.upper(), grid, len(self.buffers) - 1)

    def add(
        self, kind: str, inputs: list[int], name: str, shape: Sequence[int], type_: str = "", **options: Any
    ) -> int:
        """An operator; its output is in integers where there is a grid of that name."""
        grid = self.grids.get(name)
        integers = "INT16" if self.form.weights == "int16" else "INT8"
        output = self.tensor(name, shape, type_ or (integers if grid else "FLOAT32"), grid if not type_ else None)
        if kind not in self.codes:
            self.codes.append(kind)
        node = schema.OperatorT(opcodeIndex=self.codes.index(kind), inputs=inputs, outputs=[output])
        if kind in OPTIONS:
            node.builtinOptionsType = getattr(schema.BuiltinOptions, OPTIONS[kind])
            node.builtinOptions = getattr(schema, f"{OPTIONS[kind]}T")(**options)
        self.graph.operators.append(node)
        return output

    def parameters(self, name: str, weight: NDArray[np.float32], axis: int, before: str) -> list[int]:
        """A weight and a bias in the form that is asked for."""
        outputs = weight.shape[axis]
        bias = self.random.uniform(-0.2, 0.2, outputs).astype(np.float32)
        if self.form.weights == "float":
            return [self.constant(f"{name}/weight", weight), self.constant(f"{name}/bias", bias)]
        if self.form.weights == "half":
            return [
                self.add(
                    "DEQUANTIZE",
                    [self.constant(f"{name}/{what}/half", v.astype(np.float16))],
                    f"{name}/{what}",
                    v.shape,
                )
                for what, v in (("weight", weight), ("bias", bias))
            ]
        rest = tuple(i for i in range(weight.ndim) if i != axis)
        largest = np.abs(weight).max(rest if self.form.per_channel else None, keepdims=True)
        scale = (largest / 127).astype(np.float32)
        integers = np.rint(weight / scale).astype(np.int8)
        scales = scale.reshape(-1)
        held = self.constant(f"{name}/weight", integers, (scales, np.zeros(len(scales)), axis))
        if self.form.weights == "dynamic":
            return [held, self.constant(f"{name}/bias", bias)]
        sums = scales.astype(np.float64) * self.grids[before][0]
        kind = np.int64 if self.form.weights == "int16" else np.int32
        whole = np.rint(bias / sums).astype(kind)
        return [held, self.constant(f"{name}/bias", whole, (sums, np.zeros(len(sums)), 0))]

    def finished(self, image: int, output: int) -> bytes:
        self.graph.inputs, self.graph.outputs = [image], [output]
        codes = []
        for kind in self.codes:
            number = getattr(schema.BuiltinOperator, kind)
            codes.append(schema.OperatorCodeT(min(number, 127), version=VERSIONS.get(kind, 1), builtinCode=number))
        signature = schema.SignatureDefT(
            inputs=[schema.TensorMapT("image", image)], outputs=[schema.TensorMapT("scores", output)],
            signatureKey="serving_default",
        )  # fmt: skip
        model = schema.ModelT(
            version=3, operatorCodes=codes, subgraphs=[self.graph], buffers=self.buffers, metadata=self.metadata,
            signatureDefs=[signature],
        )  # fmt: skip
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def written(form: Form, grids: Grids | None = None, metadata: bytes = b"") -> bytes:
    """A MobileNetV1 with random weights, the same in every form."""
    made = Writer(form, grids or {})
    quantized = bool(grids)
    shape = (1, 3, SIZE, SIZE) if form.entry == "channels first" else (1, SIZE, SIZE, 3)
    kind = {"uint8": "UINT8"}.get(form.entry, "FLOAT32")
    image = x = made.tensor("image", shape, kind, (1 / 127.5, 128) if kind == "UINT8" else None)
    if form.entry == "channels first":
        order = made.constant("order", np.array([0, 2, 3, 1], np.int32))
        x = made.add("TRANSPOSE", [x, order], "turned", (1, SIZE, SIZE, 3))
    if quantized or kind == "UINT8":
        x = made.add("QUANTIZE" if quantized else "DEQUANTIZE", [x], "input", (1, SIZE, SIZE, 3))
    name, size, channels = "input", SIZE, 3

    def convolved(x: int, before: str, name: str, outputs: int, kernel: int, stride: int, depthwise: bool) -> int:
        nonlocal size
        around = {"same": 0, "even": 1, "own": 1}[form.pad] if kernel == 3 else 0
        options: dict[str, Any] = {"strideW": stride, "strideH": stride, "dilationWFactor": 1, "dilationHFactor": 1}
        if kernel == 3 and form.pad != "same":
            first = 0 if form.pad == "own" and stride == 2 else 1
            rim = np.array([[0, 0], [first, 1], [first, 1], [0, 0]], np.int32)
            padded = size + first + 1
            grid = made.grids.get(before)
            if grid:
                made.grids[f"{name}/padded"] = grid
            x = made.add("PAD", [x, made.constant(f"{name}/rim", rim)], f"{name}/padded", (1, padded, padded, channels))
        options["padding"] = 1 if around else 0
        size = -(-size // stride)
        if depthwise:
            weight = made.random.uniform(-0.6, 0.6, (1, 3, 3, channels)).astype(np.float32)
            options["depthMultiplier"] = 1
        else:
            weight = made.random.uniform(-0.5, 0.5, (outputs, kernel, kernel, channels)).astype(np.float32)
        options["fusedActivationFunction"] = 3 if form.activation == "fused" else 0
        shape = (1, size, size, outputs)
        operator = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
        x = made.add(
            operator, [x, *made.parameters(name, weight, 3 if depthwise else 0, before)], name, shape, **options
        )
        if form.activation == "relu6":
            x = made.add("RELU6", [x], f"{name}/relu6", shape)
        elif form.activation == "limits":
            x = made.add("MAXIMUM", [x, made.constant(f"{name}/0", np.zeros((), np.float32))], f"{name}/max", shape)
            x = made.add("MINIMUM", [x, made.constant(f"{name}/6", np.full((), 6, np.float32))], f"{name}/min", shape)
        return x

    x = convolved(x, name, "stem", STEM, 3, 2, False)
    name, channels = "stem", STEM
    for number, (outputs, stride) in enumerate(BLOCKS):
        x = convolved(x, name, f"block{number}/depthwise", channels, 3, stride, True)
        x = convolved(x, f"block{number}/depthwise", f"block{number}/pointwise", outputs, 1, 1, False)
        name, channels = f"block{number}/pointwise", outputs
    if form.head == "average":
        pool = {"filterWidth": size, "filterHeight": size, "strideW": size, "strideH": size, "padding": 1}
        x = made.add("AVERAGE_POOL_2D", [x], "pooled", (1, 1, 1, channels), **pool)
        x = made.add("RESHAPE", [x, made.constant("flat", np.array([1, channels], np.int32))], "flat", (1, channels))
    else:
        keep = form.head != "mean"
        pooled = (1, 1, 1, channels) if keep else (1, channels)
        x = made.add("MEAN", [x, made.constant("axes", np.array([1, 2], np.int32))], "pooled", pooled, keepDims=keep)
    count = len(CLASSES)
    weight = made.random.uniform(-1, 1, (count, channels)).astype(np.float32)
    if form.head in ("convolution", "shapes"):
        options = {"strideW": 1, "strideH": 1, "dilationWFactor": 1, "dilationHFactor": 1}
        rows = made.parameters("logits", weight.reshape(count, 1, 1, channels), 0, "pooled")
        x = made.add("CONV_2D", [x, *rows], "logits", (1, 1, 1, count), **options)
        wanted = made.constant("wanted", np.array([1, count], np.int32))
        if form.head == "shapes":
            whole = made.add("SHAPE", [x], "shape", (4,), "INT32", outType=schema.TensorType.INT32)
            ends = [made.constant(f"at{i}", np.array([i], np.int32)) for i in (0, 1, 1)]
            batch = made.add("STRIDED_SLICE", [whole, *ends], "batch", (), "INT32", shrinkAxisMask=1)
            classes = made.constant("classes", np.array(count, np.int32))
            wanted = made.add("PACK", [batch, classes], "wanted", (2,), "INT32", valuesCount=2)
        if "logits" in made.grids:
            made.grids["reshaped"] = made.grids["logits"]
        x = made.add("RESHAPE", [x, wanted], "reshaped", (1, count))
    else:
        x = made.add("FULLY_CONNECTED", [x, *made.parameters("logits", weight, 0, "pooled")], "logits", (1, count))
    if quantized:
        x = made.add("DEQUANTIZE", [x], "floats", (1, count))
    for kind in form.ends:
        if kind == "ARG_MAX":
            axis = made.constant("axis", np.array(1, np.int32))
            x = made.add(kind, [x, axis], "best", (1,), "INT64", outputType=schema.TensorType.INT64)
        else:
            x = made.add(kind, [x], kind.lower(), (1, count), **({"beta": 1.0} if kind == "SOFTMAX" else {}))
    if metadata:
        made.buffers.append(schema.BufferT(np.frombuffer(metadata, np.uint8)))
        made.metadata = [schema.MetadataT("TFLITE_METADATA", len(made.buffers) - 1)]
    return made.finished(image, x)


def ranges(form: Form) -> Grids:
    """Of every activation of the same network in floats, on noise: grids of int8, or of int16 around zero."""
    content = written(Form(pad=form.pad, head=form.head))
    with silenced():  # every tensor is looked at
        interpreter = Interpreter(model_content=content, experimental_preserve_all_tensors=True, num_threads=1)
    interpreter.allocate_tensors()
    noise = np.random.default_rng(1).uniform(-1, 1, (1, SIZE, SIZE, 3)).astype(np.float32)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], noise)
    interpreter.invoke()
    found: Grids = {"input": (1 / 127.5, 0)}
    for row in interpreter.get_tensor_details():
        if row["name"] in ("stem", "pooled", "flat", "logits") or row["name"].startswith("block"):
            if row["name"].endswith(("/weight", "/bias", "/rim", "/padded")):
                continue
            values = interpreter.get_tensor(row["index"])
            low, high = min(float(values.min()), 0.0), float(values.max())
            scale = (high - low) / 255
            found[row["name"]] = (scale, round(-128 - low / scale))
    if form.weights == "int16":
        found = {name: (max(abs(-128 - zero), 127 - zero) * scale / 32767, 0) for name, (scale, zero) in found.items()}
    if "flat" in found:
        found["flat"] = found["pooled"]
    return found


def imported(content: bytes, folder: Path, normalization: Normalization | None = HALF, **options: Any) -> Imported:
    (folder / "network.tflite").write_bytes(content)
    options.setdefault("classes", CLASSES)
    return import_file(folder / "network.tflite", Options(normalization=normalization, **options))


@pytest.mark.parametrize(
    "form",
    [
        Form(),
        Form(pad="own"),
        Form(pad="even", head="average"),
        Form(weights="half", head="convolution"),
        Form(entry="channels first", activation="relu6"),
        Form(activation="limits", ends=("SOFTMAX",)),
        Form(head="shapes", ends=("SOFTMAX", "ARG_MAX")),
        Form(head="average", ends=("ARG_MAX",)),
        Form(head="convolution", ends=("LOGISTIC",)),
    ],
    ids=lambda form: "-".join(map(str, [form.weights, form.entry, form.pad, form.activation, form.head, *form.ends])),
)
def test_floats_are_what_litert_computes(form: Form, tmp_path: Path) -> None:
    found = imported(written(form), tmp_path)
    spec = found.network.spec
    assert [spec.stem.stride, *(block.stride for block in spec.blocks)] == [2, 1, 2, 1]
    assert (spec.activation, spec.input_size) == ("relu6", SIZE)
    assert spec.padding == ("symmetric" if form.pad == "even" else "same")
    assert found.proof and not found.proof.quantized
    assert found.proof.agreement == 1 and found.proof.largest < 1e-5


@pytest.mark.parametrize(
    "form",
    [
        Form(weights="dynamic"),
        Form(weights="int8"),
        Form(weights="int8", per_channel=False, head="average"),
        Form(weights="int8", entry="uint8", pad="own", head="convolution", ends=("SOFTMAX",)),
        Form(weights="int8", pad="even"),
        Form(weights="int16"),
    ],
    ids=lambda form: "-".join(map(str, [form.weights, form.per_channel, form.entry, form.pad, form.head, *form.ends])),
)
def test_integers_mean_the_same_floats(form: Form, tmp_path: Path) -> None:
    grids = None if form.weights == "dynamic" else ranges(form)
    found = imported(written(form, grids), tmp_path, None if form.entry == "uint8" else HALF)
    assert found.proof and found.proof.quantized and found.proof.largest < 0.5
    assert found.network.spec.normalization.std == pytest.approx((127.5,) * 3)
    original = imported(written(Form(pad=form.pad, head=form.head)), tmp_path).network
    assert found.network.spec.padding == original.spec.padding
    theirs = original.folded().state_dict()
    for name, tensor in found.network.folded().state_dict().items():
        np.testing.assert_allclose(tensor, theirs[name], atol=0.02, err_msg=name)


def metadata(mean: Sequence[float], std: Sequence[float]) -> bytes:
    """Of TensorFlow Lite, with a normalisation of the input (metadata_schema.fbs, whose fields are counted from 0)."""
    builder = flatbuffers.Builder(256)

    def floats(values: Sequence[float]) -> int:
        return builder.CreateNumpyVector(np.array(values, np.float32))

    def table(count: int, **fields: int) -> int:
        builder.StartObject(count)
        for name, value in fields.items():
            builder.PrependUOffsetTRelativeSlot(int(name[1:]), value, 0)
        return builder.EndObject()

    def vector(of: int) -> int:
        builder.StartVector(4, 1, 4)
        builder.PrependUOffsetTRelative(of)
        return builder.EndVector()

    means, stds = floats(mean), floats(std)
    normalization = table(2, f0=means, f1=stds)
    builder.StartObject(2)
    builder.PrependUint8Slot(0, 1, 0)
    builder.PrependUOffsetTRelativeSlot(1, normalization, 0)
    unit = builder.EndObject()
    tensor = table(7, f4=vector(unit))
    graph = table(5, f2=vector(tensor))
    builder.Finish(table(7, f3=vector(graph)), b"M001")
    return bytes(builder.Output())


def test_metadata_say_the_normalisation_and_the_classes(tmp_path: Path) -> None:
    content = io.BytesIO(written(Form(), metadata=metadata([127.5], [127.5])))
    with zipfile.ZipFile(content, "a") as archive:
        archive.writestr("labels.txt", "ant\nbee\nwasp\n")
    found = imported(content.getvalue(), tmp_path, None, classes=None)
    assert found.network.spec.classes == CLASSES
    assert found.network.spec.normalization == HALF
    assert {f.what for f in found.facts if f.how == "read"} >= {"normalization", "classes", "strides", "padding"}
    assert found.proof and found.proof.largest < 1e-5


def test_without_metadata_the_normalisation_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(MnvError, match="does not say its normalization") as error:
        imported(written(Form()), tmp_path, None)
    assert "--normalization" in error.value.hint
