"""ONNX, run by onnxruntime: written by torch.onnx, simplified by onnxsim, quantised by onnxruntime's quantizer."""

from __future__ import annotations

import json
import pkgutil
import re
import tempfile
from collections.abc import Callable
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
    OperatorTime,
    check_images,
    refuse_provider,
)
from mnv1deploy.packages import engine, silenced
from mnv1deploy.spec import ModelSpec

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from mnv1deploy.network import MobileNetV1
    from mnv1deploy.quantization import Quantization

OPSET = 18
"""The oldest that torch.onnx writes without a conversion; any onnxruntime since 1.14 (2023) runs it."""

OPTIONS_KEY = "ort_config"
"""Under which onnxruntime looks for session options in a file's metadata, if told to by its environment variable."""

OPTIONS = {"execution_mode": 0, "graph_optimization_level": 99, "inter_op_num_threads": 1}
"""The session options that were measured best, by onnxruntime's names: one operator at a time, all optimizations."""


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
        model = build(network, provenance, quantization, pairs=True)
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
        if provider not in self.providers():  # onnxruntime has it, and a subclass does not take it
            raise refuse_provider(provider, self.providers(), self.name)
        return OnnxSession(path, provider, threads)


class OnnxSession:
    """An ONNX model in onnxruntime. With any provider but the CPU's, no operator may fall back to the CPU."""

    def __init__(self, path: Path, provider: str, threads: int | None) -> None:
        self._ort = engine("onnxruntime", "cpu")
        self._path, self._asked, self._threads, self._options = path, provider, threads, OPTIONS
        self._session = self._start()
        if self._asked not in self._session.get_providers():
            raise MnvError(
                f"onnxruntime could not start {provider} for {path}; it would have used "
                f"{', '.join(self._session.get_providers())}.",
                "Its driver or libraries are missing or of another version.",
            )
        metadata = self._session.get_modelmeta().custom_metadata_map
        if METADATA_KEY not in metadata:
            raise MnvError(f"{path} was not written by mnv1deploy: it carries no spec.", "Export the checkpoint again.")
        self.provenance = Provenance.from_json(metadata[METADATA_KEY])
        options = _recorded_options(metadata.get(OPTIONS_KEY, "{}"))
        if options != self._options:
            self._options = options
            self._session = self._start()

    def _start(self, profile: Path | None = None) -> Any:
        """An InferenceSession; with ``profile``, one that writes every operator's time to a file so named."""
        ort = self._ort
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if self._threads:
            options.intra_op_num_threads = self._threads
        if self._asked != CPU:
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        if profile:
            options.enable_profiling, options.profile_file_prefix = True, str(profile)
        provider_options = {"num_of_threads": str(self._threads)} if self._asked == OPENVINO and self._threads else {}
        try:
            options.execution_mode = ort.ExecutionMode(self._options["execution_mode"])
            options.graph_optimization_level = ort.GraphOptimizationLevel(self._options["graph_optimization_level"])
            options.inter_op_num_threads = self._options["inter_op_num_threads"]
            if self._asked in _built_in():
                return ort.InferenceSession(str(self._path), options, providers=[(self._asked, provider_options)])
            options.add_provider_for_devices([_plugin_devices()[self._asked]], provider_options)
            return ort.InferenceSession(str(self._path), options)
        except Exception as error:  # onnxruntime's own exceptions have no common public base
            reason = MnvError.reason(error).rpartition(" : ")[2]
            raise MnvError(f"onnxruntime cannot run {self._path} on {self._asked}: {reason}.") from error

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
        """See Session. Input and output are bound once: to host memory, or on CUDA and TensorRT to the device's."""
        check_images(images, self.spec)
        on_gpu = self.provider in (CUDA, TENSORRT)
        if on_gpu and include_copies:
            return lambda: self._session.run(["logits"], {"image": images})
        value = self._ort.OrtValue.ortvalue_from_numpy
        binding = self._session.io_binding()
        pixels = np.ascontiguousarray(images)
        logits = np.empty((len(images), len(self.spec.classes)), np.float32)
        binding.bind_ortvalue_input("image", value(pixels, "cuda", 0) if on_gpu else value(pixels))
        if on_gpu:
            binding.bind_output("logits", "cuda", 0)
        else:
            binding.bind_ortvalue_output("logits", value(logits))
        bound = (pixels, logits)  # onnxruntime does not keep alive what is bound

        def run() -> Logits | None:
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()
            return None if on_gpu else bound[1]

        return run

    def profile(self, images: Images, calls: int) -> list[OperatorTime]:
        """See Profiling: by onnxruntime's own profiler, in a session of its own, after as many calls again."""
        check_images(images, self.spec)
        with tempfile.TemporaryDirectory() as folder:
            session = self._start(Path(folder) / "profile")
            for _ in range(2 * calls):
                session.run(["logits"], {"image": images})
            events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
        times: dict[tuple[str, str], list[int]] = {}
        for event in events:
            name, kernel, _ = event["name"].partition("_kernel_time")
            if event.get("cat") == "Node" and kernel:
                times.setdefault((name, event["args"]["op_name"]), []).append(event["dur"])
        return [
            OperatorTime(FUSED_NAME.sub("", name), kind, float(np.mean(spent[-calls:])) / 1000)
            for (name, kind), spent in times.items()
        ]


FUSED_NAME = re.compile(r"(_token_\d+|_nchwc)+$")
"""What onnxruntime's optimizations append to the name of the node they made an operator from."""


def _recorded_options(text: str) -> dict[str, int]:
    """OPTIONS, with those changed that a file's metadata say otherwise. Raises MnvError if they cannot be read."""
    try:
        recorded = json.loads(text).get("session_options", {})
        return {name: int(recorded.get(name, value)) for name, value in OPTIONS.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise MnvError(f"The session options in the file's metadata cannot be read: {error}.") from error


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


def build(
    network: MobileNetV1, provenance: Provenance, quantization: Quantization | None, *, pairs: bool
) -> ModelProto:
    """The model that :meth:`OnnxFormat.export` writes.

    Args:
        network, provenance, quantization: see Format.export.
        pairs: has the stem of an int8 model compute two pixels at once, which is faster in onnxruntime and slower in
            OpenVINO; False for other engines' converters.
    """
    onnx = engine("onnx", OnnxFormat.export_extra)
    model = _export_graph(network.half() if provenance.precision == "fp16" else network)
    _name_tensors(model, network)
    if quantization:
        model = _quantize_graph(model, network, quantization)
        if pairs:
            _pair_pixels(model, network.spec)
        _compact(model)
    _strip(model)
    model.metadata_props.add(key=METADATA_KEY, value=provenance.to_json())
    model.metadata_props.add(key=OPTIONS_KEY, value=json.dumps({"session_options": OPTIONS}))
    model.producer_name, model.producer_version = "mnv1deploy", provenance.versions.get("mnv1deploy", "")
    model.graph.name = network.spec.name
    onnx.checker.check_model(model, full_check=True)
    return model


def _export_graph(network: MobileNetV1) -> ModelProto:
    """The network as torch.onnx writes it, simplified."""
    import torch

    onnxsim = engine("onnxsim", "export")
    engine("onnxscript", "export")
    size = network.spec.input_size
    images = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    with silenced():  # it prints its progress
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
    with tempfile.TemporaryDirectory() as folder, silenced(prints=False):
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
    return quantized


class _OneImage:
    """A calibration reader with one black picture: the quantizer insists on measuring ranges, none of which is used."""

    def __init__(self, size: int) -> None:
        self._rest = iter([{"image": np.zeros((1, size, size, 3), np.uint8)}])

    def get_next(self) -> dict[str, Images] | None:
        return next(self._rest, None)


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


def _pair_pixels(model: ModelProto, spec: ModelSpec) -> None:
    """Has the stem compute two neighbouring pixels at once, from one window as wide as the two need.

    Half as many windows are gathered and requantised. The weights are there twice, a stride apart among zeros, so
    every integer stays what it was. Where convolutions are channels last, as onnxruntime's integer ones are, parting
    the pixels is a Reshape that moves nothing.
    """
    from onnx import helper, numpy_helper

    layer = next(spec.layers())
    if layer.out_size % 2:
        return
    graph = model.graph
    producer = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    stem = next(node for node in graph.node if node.name == "stem")
    parameters = [name for dequantized in stem.input[1:] for name in producer[dequantized].input]
    for name in parameters:  # those of the weight, and of the bias unless that was all zeros
        once = numpy_helper.to_array(constants[name])
        if name == parameters[0]:
            width = [(0, 0)] * 3
            left, right = (np.pad(once, [*width, side]) for side in ((0, layer.stride), (layer.stride, 0)))
        else:
            left = right = once
        constants[name].CopyFrom(numpy_helper.from_array(np.concatenate([left, right]), name))
    for attribute in stem.attribute:
        if attribute.name == "kernel_shape":
            attribute.ints[1] += layer.stride
        elif attribute.name == "strides":
            attribute.ints[1] *= 2
    graph.initializer.append(
        numpy_helper.from_array(np.array([0, layer.out_size, layer.out_size, layer.out_channels]), "stem.shape")
    )
    position, quantize = next(
        (i, node) for i, node in enumerate(graph.node) if node.op_type == "QuantizeLinear" and node.input[0] == "stem"
    )
    parted = quantize.output[0]
    quantize.output[0] = "stem.pairs"
    nodes = [
        helper.make_node("Transpose", ["stem.pairs"], ["stem.pairs.last"], "stem.pairs.last", perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["stem.pairs.last", "stem.shape"], ["stem.last"], "stem.parted"),
        helper.make_node("Transpose", ["stem.last"], [parted], "stem.first", perm=[0, 3, 1, 2]),
    ]
    for offset, node in enumerate(nodes, 1):
        graph.node.insert(position + offset, node)


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
