"""ONNX, run by onnxruntime; :mod:`mnv1deploy.formats.onnx_graph` writes the model."""

from __future__ import annotations

import itertools
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
from mnv1deploy.packages import engine
from mnv1deploy.spec import ModelSpec

if TYPE_CHECKING:
    from mnv1deploy.network import MobileNetV1
    from mnv1deploy.quantization import Quantization

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
    writers: tuple[str, ...] = ("torch", "onnx", "onnxruntime")

    def export(
        self, network: MobileNetV1, path: Path, provenance: Provenance, quantization: Quantization | None
    ) -> None:
        """See Format.export. Needs onnx and, for int8, onnxruntime."""
        from mnv1deploy.formats.onnx_graph import build

        model = build(network, provenance, quantization, two_pixels=True)
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
        # onnxruntime has it, and a subclass does not take it; plugins take long to load, and the CPU needs none
        if provider != CPU and provider not in self.providers():
            raise refuse_provider(provider, self.providers(), self.name)
        return OnnxSession(path, provider, threads)


NOT_RECORDED = -1
"""The number of a CUDA graph that there is not: onnxruntime then runs every kernel."""


class OnnxSession:
    """An ONNX model in onnxruntime. With any provider but the CPU's, no operator may fall back to the CPU."""

    concurrent = True
    forks = True

    def __init__(self, path: Path, provider: str, threads: int | None) -> None:
        self._ort = engine("onnxruntime", "cpu")
        self._path, self._asked, self._threads, self._options = path, provider, threads, OPTIONS
        self._recordings = itertools.count(1)
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
        self._check_shapes()
        options = _recorded_options(metadata.get(OPTIONS_KEY, "{}"))
        if options != self._options:
            self._options = options
            self._session = self._start()

    def _start(self, profile: Path | None = None) -> Any:
        """An InferenceSession; with ``profile``, one that writes every operator's time to a file so named."""
        ort = self._ort
        options = ort.SessionOptions()
        options.log_severity_level = 3
        # between calls the threads sleep; as a rule they spin, which takes the processors from those who read pictures
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if self._threads:
            options.intra_op_num_threads = self._threads
        if self._asked != CPU:
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        if profile:
            options.enable_profiling, options.profile_file_prefix = True, str(profile)
        provider_options = self._provider_options()
        try:
            options.execution_mode = ort.ExecutionMode(self._options["execution_mode"])
            options.graph_optimization_level = ort.GraphOptimizationLevel(self._options["graph_optimization_level"])
            options.inter_op_num_threads = self._options["inter_op_num_threads"]
            if self._asked in (CUDA, TENSORRT):
                ort.preload_dlls()  # CUDA's libraries may be those of Python packages, where no loader looks
            if self._asked in _built_in():
                providers = [(self._asked, provider_options)]  # and no others, should they fail
                return ort.InferenceSession(str(self._path), options, providers=providers, enable_fallback=0)
            options.add_provider_for_devices([_plugin_devices()[self._asked]], provider_options)
            return ort.InferenceSession(str(self._path), options)
        except Exception as error:  # onnxruntime's own exceptions have no common public base
            reason = MnvError.reason(error).rpartition(" : ")[2]
            if self._asked == CUDA and "partitioned" in reason:
                raise MnvError(
                    f"onnxruntime's CUDA provider does not have all operators of {self._path}.",
                    "Export it in fp16 or fp32 for CUDA; int8 is for CPUs and TensorRT.",
                ) from error
            raise MnvError(f"onnxruntime cannot run {self._path} on {self._asked}: {reason}.") from error

    def _provider_options(self) -> dict[str, str]:
        """For CUDA float32 as it is, which by default it rounds to TF32's 10 bits, and leave to record kernels."""
        if self._asked == CUDA:
            return {"use_tf32": "0", "enable_cuda_graph": "1", "cudnn_conv_algo_search": "HEURISTIC"}
        return {"num_of_threads": str(self._threads)} if self._asked == OPENVINO and self._threads else {}

    def _run_options(self, recording: int = NOT_RECORDED) -> Any:
        """None but for CUDA: there the calls of one recording replay what its first did, at the same addresses."""
        if self._asked != CUDA:
            return None
        options = self._ort.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(recording))
        return options

    def _check_shapes(self) -> None:
        """Raises MnvError unless the graph takes and gives what the spec says."""
        spec = self.provenance.spec
        expected = [("image", "tensor(uint8)", [*spec.pixels.shape]), ("logits", "tensor(float)", [len(spec.classes)])]
        found = [(v.name, v.type, v.shape[1:]) for v in (*self._session.get_inputs(), *self._session.get_outputs())]
        if found != expected:
            raise MnvError(
                f"{self._path} has a graph with {found}, and its spec asks for {expected}.",
                "It was changed; export it again.",
            )

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
        logits: Logits = self._session.run(["logits"], {"image": images}, self._run_options())[0]
        return logits

    def runner(self, images: Images, *, include_copies: bool) -> Callable[[], object]:
        """See Session. Input and output are bound once: to host memory, or on CUDA and TensorRT to the device's.

        CUDA records the kernels of the first call as a CUDA graph and replays them in all others.
        """
        check_images(images, self.spec)
        on_gpu = self.provider in (CUDA, TENSORRT)
        value, place = self._ort.OrtValue.ortvalue_from_numpy, ("cuda", 0) if on_gpu else ()
        binding = self._session.io_binding()
        pixels = np.ascontiguousarray(images)
        logits = np.empty((len(images), len(self.spec.classes)), np.float32)
        bound_pixels, bound_logits = value(pixels, *place), value(logits, *place)
        binding.bind_ortvalue_input("image", bound_pixels)
        binding.bind_ortvalue_output("logits", bound_logits)
        options = self._run_options(next(self._recordings))
        bound = (pixels, logits)  # onnxruntime does not keep alive what is bound

        def run() -> Logits | None:
            if on_gpu and include_copies:
                bound_pixels.update_inplace(bound[0])
            self._session.run_with_iobinding(binding, options)
            binding.synchronize_outputs()
            if on_gpu:
                return bound_logits.numpy() if include_copies else None
            return bound[1]

        return run

    def profile(self, images: Images, calls: int) -> list[OperatorTime]:
        """See Profiling: by onnxruntime's own profiler, in a session of its own, after as many calls again."""
        check_images(images, self.spec)
        with tempfile.TemporaryDirectory() as folder:
            session = self._start(Path(folder) / "profile")
            for _ in range(2 * calls):
                session.run(["logits"], {"image": images}, self._run_options())
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
