"""Every layer's integers: those of the generated C, and those that onnxruntime's own operators give."""

import ctypes
import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from mnv1deploy.c.backends import NAMES

HERE = Path(__file__).parent
COMPILER = "clang" if shutil.which("clang") else "gcc"
"""For much code that is not optimised, of which clang makes a program in two thirds of gcc's time."""

CALLBACK = ctypes.CFUNCTYPE(
    None, ctypes.c_char_p, ctypes.POINTER(ctypes.c_uint8), ctypes.c_int, ctypes.c_int, ctypes.c_int
)


def emulated() -> list[str]:
    """Flags that bring in what the processor lacks in plain C; none elsewhere than on x86."""
    if platform.machine() != "x86_64":
        return []
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    missing = {
        "avx_vnni.h": {"avx_vnni"},
        "avx512.h": {"avx512_vnni", "avx512bw", "avx512vl"},
        "amx.h": {"amx_tile", "amx_int8"},
    }
    headers = [header for header, needed in missing.items() if not needed <= flags]
    if headers:
        headers.append("x86.h")
    return [argument for header in headers for argument in ("-include", str(HERE / header))]


class TracedC:
    """A folder of C compiled with NETWORK_TRACE; what an x86 processor lacks is emulated."""

    def __init__(self, folder: Path, library: Path, *flags: str) -> None:
        optimised = "-O0" if emulated() else "-O2"  # emulated, it would take a minute to optimise
        command = [COMPILER, "-std=c99", optimised, "-fPIC", "-shared", "-DNETWORK_TRACE", f"-I{folder}", *flags]
        command += emulated()
        subprocess.run([*command, folder / "network.c", HERE / "trace.c", "-o", library, "-lm"], check=True)
        self._library = ctypes.CDLL(str(library))
        text = (folder / "network.h").read_text()
        self._scratch = int(text.partition("NETWORK_SCRATCH ")[2].split()[0])
        self._classes = int(text.partition("NETWORK_CLASSES ")[2].split()[0])
        self.backends = [name for number, name in enumerate(NAMES) if self._library.network_has(number)]

    def run(self, image: np.ndarray, backend: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """uint8 ``[pixels, channels]`` by layer name, and the logits."""
        rows: dict[str, list[np.ndarray]] = {}

        def collect(layer: bytes, values: object, pixels: int, channels: int, stride: int) -> None:
            # the last pixel's padding may lie outside the scratch
            flat = np.ctypeslib.as_array(values, (pixels * stride - stride + channels,))  # type: ignore[arg-type]
            shape, strides = (pixels, channels), (stride, 1)
            rows.setdefault(layer.decode(), []).append(np.lib.stride_tricks.as_strided(flat, shape, strides).copy())

        callback = CALLBACK(collect)
        self._library.set_callback(callback)
        logits = np.empty(self._classes, np.float32)
        scratch = np.full(self._scratch, 0xA5, np.uint8)  # it may hold anything
        image = np.ascontiguousarray(image)
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (image, logits, scratch)]
        assert self._library.network_run_on(NAMES.index(backend), *pointers) == 0
        return {layer: np.concatenate(parts) for layer, parts in rows.items()}, logits


class TracedOnnx:
    """The graph that onnxruntime makes of an int8 ONNX artifact, as it runs, every convolution's output exposed."""

    def __init__(self, path: Path, optimized: Path) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(optimized)
        ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        model = onnx.load(optimized)
        self.names = {}
        self._pairs = ""
        for node in model.graph.node:
            if node.op_type in ("QLinearConv", "QLinearAveragePool"):
                scale = node.input[6 if node.op_type == "QLinearConv" else 3]
                self.names[
                    "pool" if "Pool" in node.op_type else scale.removesuffix(".scale").removesuffix("_scale")
                ] = node.output[0]
                model.graph.output.append(onnx.ValueInfoProto(name=node.output[0]))
            kernel = next((a.ints for a in node.attribute if a.name == "kernel_shape"), [1, 1])
            if node.op_type == "QLinearConv" and kernel[0] != kernel[1]:  # the stem, two pixels at once
                self._pairs = node.output[0]
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(self, image: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """uint8 ``[pixels, channels]`` by layer name, and the logits."""
        logits, *values = self._session.run(["logits", *self.names.values()], {"image": image[None]})
        layers = {}
        for (name, output), value in zip(self.names.items(), values, strict=True):
            # the pooling of a single pixel stays channels first
            channels = value.shape[1 if value.shape[2:] == (1, 1) else 3]
            layers[name] = value.reshape(-1, channels // 2 if output == self._pairs else channels)
        return layers, logits[0]
