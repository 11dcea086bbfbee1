"""OpenVINO IR (``.xml`` and ``.bin``), run by openvino: written from the ONNX artifact, whose int8 is ours."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnv1deploy.artifact import METADATA_KEY, Precision, Provenance
from mnv1deploy.errors import MnvError
from mnv1deploy.formats.base import CPU, Format, Images, Logits, check_images, refuse_provider
from mnv1deploy.formats.onnx import OnnxFormat
from mnv1deploy.packages import engine
from mnv1deploy.spec import Layer, ModelSpec

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from mnv1deploy.network import MobileNetV1
    from mnv1deploy.quantization import Quantization

_EXTRA = "openvino"

_CENTRE = 128
"""What is taken from a pixel to make it int8."""

_COUNTED = re.compile(r'<layer id="(\d+)" name="(\w+?)_\d+(\w*)"')
"""A layer that OpenVINO named by counting all it made in this process; numbered by its place in the file instead."""


class OpenVinoFormat(Format):
    """``.xml`` with a ``.bin`` beside it: input ``image``, output ``logits``, batch size free, spec in the rt_info."""

    name = "openvino"
    suffix = ".xml"
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    extra = _EXTRA
    runners: tuple[str, ...] = ("openvino",)
    export_extra = "openvino-export"
    writers: tuple[str, ...] = (*OnnxFormat.writers, "openvino")

    def export(
        self, network: MobileNetV1, path: Path, provenance: Provenance, quantization: Quantization | None
    ) -> None:
        """See Format.export. fp16 is the storage of the weights; see OpenVinoSession for the arithmetic."""
        from mnv1deploy.formats.onnx_graph import build

        openvino = engine("openvino", self.export_extra)
        exact = replace(provenance, precision="fp32") if provenance.precision == "fp16" else provenance
        graph = build(network, exact, quantization, two_pixels=False)
        del graph.metadata_props[:]  # they would become rt_info of their own
        if quantization:
            zero_point = network.spec.normalization.quantization[1]
            if zero_point != _CENTRE:
                _pad_pixels(graph, next(network.spec.layers()), zero_point)
            _center_pixels(graph)
        model = openvino.Core().read_model(graph.SerializeToString())
        model.set_rt_info(provenance.to_json(), [METADATA_KEY])
        openvino.save_model(model, path, compress_to_fp16=provenance.precision == "fp16")
        path.write_text(_COUNTED.sub(r'<layer id="\1" name="\2_\1\3"', path.read_text("utf-8")), "utf-8")

    def providers(self) -> tuple[str, ...]:
        """The CPU, and whatever else OpenVINO finds, as ``OpenVINO.GPU``; empty if openvino is missing."""
        try:
            devices = engine("openvino", self.extra).Core().available_devices
        except MnvError:
            return ()
        return tuple(_provider(device) for device in devices)

    def provenance(self, path: Path) -> Provenance | None:
        """Read from the model's rt_info by openvino."""
        return _read(path)[1]

    def open(self, path: Path, *, provider: str, threads: int | None) -> OpenVinoSession:
        """See Format.open."""
        engine("openvino", self.extra)
        if provider not in self.providers():
            raise refuse_provider(provider, self.providers(), self.name)
        return OpenVinoSession(path, provider, threads)


class OpenVinoSession:
    """A model on one OpenVINO device: one stream, as many threads as asked for, each pinned, nothing cached on disk.

    Arithmetic is float32, which OpenVINO must be told: on CPUs with bfloat16 it would use that for fp32 models. Only
    fp16 artifacts compute in float16, on devices that do. Single pictures run in a model compiled for just them.
    """

    concurrent = True
    forks = False

    def __init__(self, path: Path, provider: str, threads: int | None) -> None:
        self._openvino = openvino = engine("openvino", _EXTRA)
        self._device = "CPU" if provider == CPU else provider.partition(".")[2]
        self._model, self._provenance = _read(path)
        half = self._provenance.precision == "fp16" and "FP16" in openvino.Core().get_property(
            self._device, "OPTIMIZATION_CAPABILITIES"
        )
        self._settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f16" if half else "f32",
        }
        if provider == CPU:
            self._settings["ENABLE_CPU_PINNING"] = True
            self._settings["INFERENCE_NUM_THREADS"] = threads or 0
        try:
            one = self._model.clone()
            one.reshape([1, *self.spec.pixels.shape])
            self._one = _Requests(lambda: openvino.Core().compile_model(one, self._device, self._settings))
            self._any = _Requests(lambda: openvino.Core().compile_model(self._model, self._device, self._settings))
            self._one.compiled  # noqa: B018 - compiles
        except RuntimeError as error:
            raise _error(path, error) from error

    def _requests(self, images: Images) -> _Requests:
        return self._one if len(images) == 1 else self._any

    def _tensor(self, images: Images) -> Any:
        """The engine's view of the pixels, which it takes as they are."""
        check_images(images, self.spec)
        return self._openvino.Tensor(np.require(images, requirements=["C", "W"]), shared_memory=True)

    @property
    def spec(self) -> ModelSpec:
        """Of the network inside."""
        return self._provenance.spec

    @property
    def provider(self) -> str:
        """By the device OpenVINO says it executes on."""
        return _provider(self._one.compiled.get_property("EXECUTION_DEVICES")[0])

    def __call__(self, images: Images) -> Logits:
        """See Session."""
        tensor = self._tensor(images)
        with self._requests(images).borrowed() as request:
            request.set_input_tensor(tensor)
            request.infer()
            logits: Logits = request.get_output_tensor().data.copy()
        return logits

    def runner(self, images: Images, *, include_copies: bool) -> Callable[[], object]:
        """See Session."""
        tensor = self._tensor(images)
        request = self._requests(images).compiled.create_infer_request()
        request.set_input_tensor(tensor)

        def run() -> object:
            request.infer()
            return request.get_output_tensor().data

        return run


class _Requests:
    """A model that is compiled when it is first asked for, and as many requests to it as threads call at once."""

    def __init__(self, compile_model: Callable[[], Any]) -> None:
        self._compile, self._compiling = compile_model, threading.Lock()
        self._idle: list[Any] = []

    @cached_property
    def compiled(self) -> Any:
        """The compiled model."""
        with self._compiling:
            return self.__dict__.get("compiled") or self._compile()

    @contextmanager
    def borrowed(self) -> Iterator[Any]:
        """A request that is this thread's alone."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = self.compiled.create_infer_request()
        yield request
        self._idle.append(request)


def _provider(device: str) -> str:
    return CPU if device == "CPU" else f"OpenVINO.{device}"


def _read(path: Path) -> tuple[Any, Provenance]:
    openvino = engine("openvino", _EXTRA)
    try:
        model = openvino.Core().read_model(path)
    except RuntimeError as error:
        raise _error(path, error) from error
    try:
        text = model.get_rt_info([METADATA_KEY]).astype(str)
    except RuntimeError as error:
        raise MnvError(
            f"{path} was not written by mnv1deploy: it carries no spec.", "Export the checkpoint again."
        ) from error
    return model, Provenance.from_json(text)


def _error(path: Path, error: Exception) -> MnvError:
    # its messages begin with where in its source they come from and end with what went wrong
    reason = next(reversed(str(error).strip().splitlines()), "no reason given").rstrip(".")
    return MnvError(f"openvino cannot run {path}: {reason}.", "Its .bin must be beside it; or export it again.")


def _center_pixels(model: ModelProto) -> None:
    """Has the first convolution read the pixels less 128, as int8 with zero point 0: the very same integers.

    OpenVINO computes a convolution whose input has another zero point than 0 in float. Where the pixels' own is not
    128, _pad_pixels comes before.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    stem, pixels = _stem(model)
    index = list(graph.node).index(pixels)
    for name, value in (("one", np.float32(1)), ("shift", np.int8(-_CENTRE)), ("zero", np.int8(0))):
        graph.initializer.append(numpy_helper.from_array(np.array(value), f"centered.{name}"))
    chain = (
        helper.make_node("Cast", [pixels.input[0]], ["centered.float"], to=TensorProto.FLOAT),
        helper.make_node("QuantizeLinear", ["centered.float", "centered.one", "centered.shift"], ["centered.q"]),
        helper.make_node("DequantizeLinear", ["centered.q", pixels.input[1], "centered.zero"], ["centered"]),
    )
    for offset, node in enumerate(chain):
        graph.node.insert(index + offset, node)
    graph.node.remove(pixels)
    stem.input[0] = "centered"


def _pad_pixels(model: ModelProto, layer: Layer, zero_point: int) -> None:
    """Makes 128 the zero point of the pixels, and every sum of the first convolution stays what it was.

    With integer weights w, a sum of w (p - z) is one of w (p - 128) and a constant for the bias. The convolution's own
    padding would be p = 128 then; it has to be z, so pixels of that are put around the picture instead.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    stem, pixels = _stem(model)
    producer = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    weight = producer[stem.input[1]]
    if len(stem.input) == 2:  # a bias of zeros is not written
        scales = (numpy_helper.to_array(constants[name]) for name in (pixels.input[1], weight.input[1]))
        for name, values in (("bias", np.zeros(layer.out_channels, np.int32)), ("bias.scale", np.multiply(*scales))):
            constants[name] = graph.initializer.add()
            constants[name].CopyFrom(numpy_helper.from_array(values, name))
        dequantize = helper.make_node("DequantizeLinear", ["bias", "bias.scale"], ["bias.dq"], axis=0)
        graph.node.insert(list(graph.node).index(stem), dequantize)
        stem.input.append("bias.dq")
        producer["bias.dq"] = dequantize
    bias = producer[stem.input[2]].input[0]
    sums = numpy_helper.to_array(constants[weight.input[0]]).sum((1, 2, 3), np.int32)
    moved = numpy_helper.to_array(constants[bias]) + (_CENTRE - zero_point) * sums
    constants[bias].CopyFrom(numpy_helper.from_array(moved, bias))
    top, left, bottom, right = layer.padding
    for name, value in (
        ("rim", np.array([0, top, left, 0, 0, bottom, right, 0])),
        ("rim.pixel", np.array(zero_point, np.uint8)),
    ):
        graph.initializer.append(numpy_helper.from_array(value, name))
    transpose = producer[pixels.input[0]]
    graph.node.insert(
        list(graph.node).index(transpose),
        helper.make_node("Pad", [transpose.input[0], "rim", "rim.pixel"], ["padded"], "padded"),
    )
    transpose.input[0] = "padded"
    next(attribute for attribute in stem.attribute if attribute.name == "pads").ints[:] = [0, 0, 0, 0]


def _stem(model: ModelProto) -> tuple[NodeProto, NodeProto]:
    """The first convolution, and the operator that it reads."""
    stem = next(node for node in model.graph.node if node.name == "stem")
    return stem, next(node for node in model.graph.node if node.output[0] == stem.input[0])
