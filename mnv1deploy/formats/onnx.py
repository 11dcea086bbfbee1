"""ONNX, run by onnxruntime: written by torch.onnx, simplified by onnxsim, quantised by onnxruntime's quantizer."""

from __future__ import annotations

import io
import logging
import pkgutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnv1deploy.artifact import METADATA_KEY, Precision, Provenance
from mnv1deploy.errors import MnvError
from mnv1deploy.formats.base import (
    CPU,
    CUDA,
    OPENVINO,
    PROVIDER_PACKAGES,
    TENSORRT,
    Format,
    Images,
    Logits,
    check_images,
    engine,
    refuse_provider,
)
from mnv1deploy.spec import ModelSpec

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from mnv1deploy.network import MobileNetV1
    from mnv1deploy.quantization import Quantization

OPSET = 18
"""The oldest that torch.onnx writes without a conversion; any onnxruntime since 1.14 (2023) runs it."""


class OnnxFormat(Format):
    """``.onnx``: input ``image``, output ``logits``, batch size free, spec and provenance in the metadata."""

    name = "onnx"
    suffix = ".onnx"
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    extra = "cpu"
    runners: tuple[str, ...] = ("onnxruntime",)
    export_extra = "export"
    writers: tuple[str, ...] = ("torch", "onnx", "onnxsim", "onnxscript", "onnxruntime")

    def export(
        self, network: MobileNetV1, path: Path, provenance: Provenance, quantization: Quantization | None
    ) -> None:
        """See Format.export. Needs onnx, onnxsim, onnxscript and, for int8, onnxruntime."""
        onnx = engine("onnx", self.export_extra)
        model = _export_graph(network.half() if provenance.precision == "fp16" else network)
        _name_tensors(model, network)
        if quantization:
            model = _quantize_graph(model, network, quantization)
        _strip(model)
        model.metadata_props.add(key=METADATA_KEY, value=provenance.to_json())
        model.producer_name, model.producer_version = "mnv1deploy", provenance.versions.get("mnv1deploy", "")
        model.graph.name = network.spec.name
        onnx.checker.check_model(model, full_check=True)
        path.write_bytes(model.SerializeToString(deterministic=True))

    def providers(self) -> tuple[str, ...]:
        """The providers onnxruntime was built with, and those of the plugin packages that find a device here."""
        try:
            return tuple(dict.fromkeys((CPU, *_built_in(), *_plugin_devices())))
        except MnvError:
            return ()

    def provenance(self, path: Path) -> Provenance | None:
        """Read from the model's metadata by onnxruntime."""
        return OnnxSession(path, CPU, 1).provenance

    def open(self, path: Path, *, provider: str, threads: int | None) -> OnnxSession:
        """See Format.open."""
        if provider not in _built_in() and provider not in _plugin_devices():
            package = PROVIDER_PACKAGES.get(provider)
            remedy = f"It comes with {package}." if package else ""
            if provider in _plugins().values():
                remedy = "Its plugin package is installed, but finds no device here that it supports."
            raise refuse_provider(provider, self.providers(), self.name, remedy)
        return OnnxSession(path, provider, threads)


class OnnxSession:
    """An ONNX model in onnxruntime. With any provider but the CPU's, no operator may fall back to the CPU."""

    def __init__(self, path: Path, provider: str, threads: int | None) -> None:
        self._ort = ort = engine("onnxruntime", "cpu")
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.inter_op_num_threads = 1
        if threads:
            options.intra_op_num_threads = threads
        if provider != CPU:
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        try:
            provider_options = {"num_of_threads": str(threads)} if provider == OPENVINO and threads else {}
            if provider in _built_in():
                self._session = ort.InferenceSession(str(path), options, providers=[(provider, provider_options)])
            else:
                options.add_provider_for_devices([_plugin_devices()[provider]], provider_options)
                self._session = ort.InferenceSession(str(path), options)
        except Exception as error:  # onnxruntime's own exceptions have no common public base
            reason = MnvError.reason(error).rpartition(" : ")[2]
            raise MnvError(f"onnxruntime cannot run {path} on {provider}: {reason}.") from error
        if provider not in self._session.get_providers():
            raise MnvError(
                f"onnxruntime could not start {provider} for {path}; it would have used "
                f"{', '.join(self._session.get_providers())}.",
                "Its driver or libraries are missing or of another version.",
            )
        text = self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        if not text:
            raise MnvError(f"{path} was not written by mnv1deploy: it carries no spec.", "Export the checkpoint again.")
        self.provenance = Provenance.from_json(text)

    @property
    def spec(self) -> ModelSpec:
        """Of the network inside."""
        return self.provenance.spec

    @property
    def provider(self) -> str:
        """The first provider of the session, as onnxruntime names it."""
        return str(self._session.get_providers()[0])

    def __call__(self, images: Images) -> Logits:
        """See Session."""
        check_images(images, self.spec)
        logits: Logits = self._session.run(["logits"], {"image": images})[0]
        return logits

    def runner(self, images: Images, *, include_copies: bool) -> Callable[[], object]:
        """See Session. On CUDA and TensorRT input and output are bound to the device's memory."""
        check_images(images, self.spec)
        if include_copies or self.provider not in (CUDA, TENSORRT):
            feed = {"image": images}
            return lambda: self._session.run(["logits"], feed)
        binding = self._session.io_binding()
        binding.bind_ortvalue_input("image", self._ort.OrtValue.ortvalue_from_numpy(images, "cuda", 0))
        binding.bind_output("logits", "cuda", 0)

        def run() -> None:
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        return run


@cache
def _built_in() -> list[str]:
    """Providers that the installed onnxruntime was built with; asked before a plugin's is added to them."""
    names = engine("onnxruntime", "cpu").get_available_providers()
    return [name for name in names if name != "AzureExecutionProvider"]  # it calls a web service


@cache
def _plugins() -> dict[str, str]:
    """Provider by module name, of the installed onnxruntime-ep-* packages, each registered with onnxruntime."""
    _built_in()
    found = {}
    for module in pkgutil.iter_modules():
        if module.name.startswith("onnxruntime_ep_"):
            plugin = engine(module.name, "cpu")
            engine("onnxruntime", "cpu").register_execution_provider_library(module.name, plugin.get_library_path())
            found[module.name] = str(plugin.get_ep_name())
    return found


@cache
def _plugin_devices() -> dict[str, Any]:
    """The device to use, a CPU where there is one, by provider, of every plugin that finds one."""
    ort, names = engine("onnxruntime", "cpu"), set(_plugins().values())
    devices = [device for device in ort.get_ep_devices() if device.ep_name in names]
    devices.sort(key=lambda device: device.device.type == ort.OrtHardwareDeviceType.CPU)
    return {device.ep_name: device for device in devices}


def _export_graph(network: MobileNetV1) -> ModelProto:
    """The network as torch.onnx writes it, simplified."""
    import torch

    onnxsim = engine("onnxsim", "export")
    engine("onnxscript", "export")
    size = network.spec.input_size
    images = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    with redirect_stdout(io.StringIO()):  # it prints its progress
        program = torch.onnx.export(
            network,
            (images,),
            dynamo=True,
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model, same = onnxsim.simplify(program.model_proto)
    if not same:
        raise MnvError(
            "onnxsim's own check found that its simplified model differs.", "Update onnxsim and onnxruntime."
        )
    simplified: ModelProto = model
    return simplified


def _name_tensors(model: ModelProto, network: MobileNetV1) -> None:
    """Gives nodes and tensors the names of the spec's layers, whatever the exporter called them."""
    names: dict[str, str] = {}
    layers = iter(network.feature_layers)
    layer = ""
    for node in model.graph.node:
        if node.op_type == "Conv":
            if not layer:
                names[node.input[0]] = "normalized"
            layer = node.name = next(layers)
            names[node.output[0]] = f"{layer}.conv"
        elif node.op_type == "Relu":
            node.name = f"{layer}.relu"
            names[node.output[0]] = layer
        elif node.op_type == "AveragePool":
            node.name = names[node.output[0]] = "pool"
        elif node.op_type == "Gemm":
            node.name = "classifier"
    if next(layers, None):
        raise MnvError("The exported graph has fewer convolutions than the network.", "Use another torch version.")
    for node in model.graph.node:
        _rename(node, names)


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
    with tempfile.TemporaryDirectory() as folder, _quiet_logging():
        result = Path(folder) / "int8.onnx"
        quantize_static(
            model,
            str(result),
            _OneImage(network.spec.input_size),
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
    if network.spec.normalization.quantization:
        _feed_pixels(quantized)
    _compact(quantized)
    return quantized


class _OneImage:
    """A calibration reader with one black picture: the quantizer insists on measuring ranges, none of which is used."""

    def __init__(self, size: int) -> None:
        self._rest = iter([{"image": np.zeros((1, size, size, 3), np.uint8)}])

    def get_next(self) -> dict[str, Images] | None:
        return next(self._rest, None)


@contextmanager
def _quiet_logging() -> Iterator[None]:
    logging.disable(logging.WARNING)  # the quantizer recommends steps that were taken already
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


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
