"""The import compared with the file itself, run by its own engine on the same pictures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mnv1deploy.errors import MnvError
from mnv1deploy.importing import keras, litert, onnx
from mnv1deploy.importing.found import Found
from mnv1deploy.network import MobileNetV1
from mnv1deploy.packages import engine, is_installed, silenced

TOLERANCE = 1e-4
"""Largest difference of a logit between a float file and the import, in standard deviations of the logits."""

HALF_TOLERANCE = 1e-2
"""The same for a file that computes in float16."""


class NotRun(Exception):  # noqa: N818
    """A file was not run by its own engine; the message says why."""


@dataclass(frozen=True)
class Comparison:
    """An imported network and its file, on the same pictures.

    Attributes:
        engine: that ran the file.
        count: of the pictures.
        largest: difference of any logit, in standard deviations of the file's logits.
        agreement: fraction of the pictures for which both give the same class.
        quantized: whether the file computes in integers, and so differs by its rounding.
    """

    engine: str
    count: int
    largest: float
    agreement: float
    quantized: bool


def compare(
    path: Path, found: Found, network: MobileNetV1, images: NDArray[np.uint8], *, drop: bool = False
) -> Comparison | None:
    """None for a file that is no graph, or of no engine that runs here.

    Args:
        path: the file.
        found: what was read of it.
        network: what became of that.
        images: uint8 ``[N, H, W, C]``.
        drop: whether the network is without the file's first class.

    Raises:
        MnvError: if a file in floats gives other logits than the import.
        NotRun: if its engine is not installed, or does not take the file.
    """
    if not found.is_graph:
        return None
    engines = {
        "LiteRT graph": ("ai-edge-litert", _litert),
        "ONNX graph": ("onnxruntime", _onnx),
        keras.SOURCE: ("keras", _keras),
    }
    if found.source not in engines:
        return None
    engine, run = engines[found.source]
    if not is_installed(engine):
        raise NotRun(f"{engine} is not installed")
    normalization = found.takes or network.spec.normalization
    pixels = (images - np.array(normalization.mean)) / np.array(normalization.std)
    theirs = run(path, found, images, pixels.astype(np.float32)).reshape(len(images), -1)[:, int(drop) :]
    if theirs.shape[1] == 1:  # which became two classes
        theirs = np.concatenate([0 * theirs, theirs], 1)
    with torch.inference_mode():
        ours = network(torch.from_numpy(images)).numpy()
    largest = float(np.abs(ours - theirs).max() / max(theirs.std(), 1e-12))
    agreement = float((ours.argmax(1) == theirs.argmax(1)).mean())
    if not found.quantized and largest > (HALF_TOLERANCE if found.half else TOLERANCE):
        raise MnvError(
            f"What was read of {path} is not what {engine} computes: logits differ by {largest:.2g} deviations.",
            "Please report this file: its import is wrong.",
        )
    return Comparison(engine, len(images), largest, agreement, found.quantized)


def _litert(path: Path, found: Found, images: NDArray[np.uint8], pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits, by LiteRT: what its last softmax takes."""
    with silenced():
        from ai_edge_litert.interpreter import Interpreter

        # without a delegate every tensor can be looked at
        interpreter = Interpreter(
            model_content=_mended(path.read_bytes()), experimental_preserve_all_tensors=True, num_threads=1
        )
        interpreter.allocate_tensors()
        given = interpreter.get_input_details()[0]
        operators = interpreter._get_ops_details()
        ends = [row for row in operators if row["op_name"] in litert.ENDS]
        output = int(ends[0]["inputs"][0]) if ends else interpreter.get_output_details()[0]["index"]
        details = {row["index"]: row for row in interpreter.get_tensor_details()}
        answers = []
        for raw, normalized in zip(images, pixels, strict=True):
            interpreter.set_tensor(given["index"], _as_given(given, raw, normalized)[None])
            interpreter.invoke()
            answers.append(_meaning(details[output], interpreter.get_tensor(output)))
    return np.concatenate(answers)


def _mended(content: bytes) -> bytes:
    """The same model with biases' scales along the only dimension they have: old converters wrote the weights'."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    wrong = [
        tensor.quantization
        for tensor in model.subgraphs[0].tensors
        if tensor.quantization is not None and tensor.quantization.quantizedDimension >= len(tensor.shape) > 0
    ]
    if not wrong:
        return content
    for grid in wrong:
        grid.quantizedDimension = 0
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _as_given(given: dict[str, Any], raw: NDArray[np.uint8], normalized: NDArray[np.float32]) -> NDArray[Any]:
    """A picture in the type of a model's input."""
    kind = given["dtype"]
    if given["shape"][3] not in (1, 3):  # channels first
        raw, normalized = raw.transpose(2, 0, 1), normalized.transpose(2, 0, 1)
    if np.issubdtype(kind, np.floating):
        return normalized.astype(kind)
    scale, zero = given["quantization"]
    if kind == np.uint8 and scale == 0:
        return raw
    limits = np.iinfo(kind)
    integers: NDArray[Any] = np.rint(normalized / scale + zero).clip(limits.min, limits.max).astype(kind)
    return integers


def _meaning(details: dict[str, Any], values: NDArray[Any]) -> NDArray[np.float32]:
    if values.dtype.kind == "f":
        return values.astype(np.float32)
    scale, zero = details["quantization"]
    floats: NDArray[np.float32] = ((values.astype(np.float32) - zero) * scale).astype(np.float32)
    return floats


def _onnx(path: Path, found: Found, images: NDArray[np.uint8], pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits, by onnxruntime: what the last softmax takes becomes an output, in memory."""
    library = engine("onnx", "export")
    onnxruntime = engine("onnxruntime", "cpu")
    model = library.load(str(path))
    ends = [node.input[0] for node in model.graph.node if node.op_type in onnx.ENDS]
    output = next(iter(ends), model.graph.output[0].name)
    if ends:
        del model.graph.output[:]
        model.graph.output.append(library.helper.make_empty_tensor_value_info(output))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    with silenced():
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        given = session.get_inputs()[0]
        kind = {"tensor(float16)": np.float16, "tensor(double)": np.float64}.get(given.type, np.float32)
        answers = []
        for raw, normalized in zip(images, pixels, strict=True):
            value = raw if given.type == "tensor(uint8)" else normalized.astype(kind)
            value = value.transpose(2, 0, 1) if given.shape[1] in (1, 3) else value
            answers.append(session.run([output], {given.name: np.ascontiguousarray(value)[None]})[0])
    return np.concatenate(answers)


def _keras(path: Path, found: Found, images: NDArray[np.uint8], pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits, by Keras: what would make probabilities of them at its end is left out.

    Keras computes with torch, unless it has been imported with another backend already.
    """
    if not keras.is_of_keras_alone(path):
        raise NotRun("it names modules outside Keras, whose code would be run")
    os.environ.setdefault("KERAS_BACKEND", "torch")
    with silenced():
        library = engine("keras", "dev")
        try:
            model = library.saving.load_model(path, custom_objects=_of_keras_2(library), compile=False)
        except (ValueError, TypeError, AttributeError, KeyError, NotImplementedError) as error:
            raise NotRun(f"Keras {library.__version__} does not take it ({MnvError.reason(error)})") from error
    for layer in _layers(model):
        if getattr(layer, "activation", None) in (library.activations.softmax, library.activations.sigmoid):
            layer.activation = library.activations.linear
        elif isinstance(layer, library.layers.Softmax):
            layer.call = lambda inputs, mask=None: inputs
    with silenced(prints=False):  # Keras 2 put one input into a list, of which Keras 3 warns
        answers = [library.ops.convert_to_numpy(model(picture[None], training=False)) for picture in pixels]
    return np.concatenate(answers)


def _layers(model: Any) -> Iterator[Any]:
    """A Keras model's, those of models inside it in their place."""
    for layer in model.layers:
        yield from _layers(layer) if hasattr(layer, "layers") else (layer,)


def _of_keras_2(library: Any) -> dict[str, Any]:
    """What Keras 1 and 2 wrote and Keras 3 no longer knows: a function, and a depthwise layer's number of groups."""

    def depthwise(**facts: Any) -> Any:
        facts.pop("groups", None)
        return library.layers.DepthwiseConv2D(**facts)

    return {"relu6": library.activations.relu6, "DepthwiseConv2D": depthwise}
