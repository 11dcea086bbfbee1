"""ncnn, for phones and boards: ``.ncnn.param`` written by pnnx, and ``.ncnn.bin``."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mnv1deploy.artifact import Precision, Provenance, provenance_beside
from mnv1deploy.errors import MnvError
from mnv1deploy.formats.base import CPU, CpuSession, Format, Images, Logits, refuse_provider
from mnv1deploy.machine import processors
from mnv1deploy.packages import engine, silenced
from mnv1deploy.spec import Layer, ModelSpec

if TYPE_CHECKING:
    from mnv1deploy.network import MobileNetV1
    from mnv1deploy.quantization import Quantization

_PARAM, _BIN = ".ncnn.param", ".ncnn.bin"
_WEIGHTED = ("Convolution", "ConvolutionDepthWise", "InnerProduct")


class NcnnFormat(Format):
    """``.ncnn.param`` with a ``.ncnn.bin`` beside it: blobs ``in0`` (float pixels, planar) and ``out0``.

    ncnn's int8 activations are signed and symmetric: after a ReLU 128 of their 256 values are left. Weights keep our
    integers, activations our ranges.
    """

    name = "ncnn"
    suffix = _PARAM
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    extra = "ncnn"
    runners: tuple[str, ...] = ("ncnn",)
    export_extra = "ncnn-export"
    writers: tuple[str, ...] = ("torch", "pnnx")

    def export(
        self, network: MobileNetV1, path: Path, provenance: Provenance, quantization: Quantization | None
    ) -> None:
        """See Format.export. Raises MnvError if pnnx fails."""
        param, weights = _convert(network, half=provenance.precision == "fp16", extra=self.export_extra)
        layers = iter([layer for layer in network.spec.layers() if layer.kind != "pool"])
        integer = _stay_integer(network.spec)
        lines = []
        for line in param.splitlines():
            kind, *rest = line.split()
            if kind in _WEIGHTED:
                layer = next(layers)
                rest[0] = layer.name
                if not layer.pads_evenly:
                    rest = [*(part for part in rest if not part.startswith(("4=", "14="))), *_padding(layer)]
                if quantization:
                    # 100 more: what it gives stays int8, on the grid of the layer that reads it
                    rest.append("8=101" if layer.name in integer else "8=1")
            lines.append(f"{kind} {' '.join(rest)}".rstrip())
        if next(layers, None):
            raise MnvError("pnnx gave fewer layers than the network has.", "Use another version of pnnx.")
        if quantization:
            constants = len(weights) - _float_bytes(network)
            weights = weights[:constants] + b"".join(_integer_layers(network.spec, quantization))
        path.write_text("\n".join(lines) + "\n", "utf-8")
        _bin(path).write_bytes(weights)

    def providers(self) -> tuple[str, ...]:
        """The CPU; empty if ncnn is missing."""
        try:
            engine("ncnn", self.extra)
        except MnvError:
            return ()
        return (CPU,)

    def provenance(self, path: Path) -> Provenance | None:
        """Only the manifest can say it."""
        return None

    def open(self, path: Path, *, provider: str, threads: int | None) -> NcnnSession:
        """See Format.open."""
        engine("ncnn", self.extra)
        if provider != CPU:
            raise refuse_provider(provider, self.providers(), self.name)
        return NcnnSession(path, threads)


class NcnnSession(CpuSession):
    """A network in ncnn, on the CPU. It takes one picture at a time, as float: batches are a loop, pixels are cast.

    fp16 artifacts are computed in whatever half precision the processor has; fp32 and int8 without any.
    """

    concurrent = True

    def __init__(self, path: Path, threads: int | None) -> None:
        self._ncnn: Any = engine("ncnn", "ncnn")
        self.provenance = provenance_beside(path)
        self._net = self._ncnn.Net()
        options = self._net.opt
        options.num_threads = threads or min(self._ncnn.get_physical_big_cpu_count(), processors())
        options.use_vulkan_compute = False
        half = self.provenance.precision == "fp16"
        options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = half
        if self._net.load_param(str(path)) or self._net.load_model(str(_bin(path))):
            raise MnvError(f"ncnn cannot load {path} and {_bin(path).name}.", "Export the checkpoint again.")

    def _one(self, image: Images) -> NDArray[np.float32]:
        size = self.spec.input_size
        kinds = self._ncnn.Mat.PixelType
        kind = kinds.PIXEL_RGB if self.spec.colours == 3 else kinds.PIXEL_GRAY
        pixels = self._ncnn.Mat.from_pixels(image, kind, size, size)
        extractor = self._net.create_extractor()
        extractor.input("in0", pixels)
        status, logits = extractor.extract("out0")
        if status:
            raise MnvError(f"ncnn gave up on a picture with status {status}.")
        return np.array(logits)

    def _infer(self, images: Images) -> Logits:
        return np.stack([self._one(image) for image in np.ascontiguousarray(images)])


def _bin(param: Path) -> Path:
    return param.with_name(param.name.removesuffix(_PARAM) + _BIN)


def _convert(network: MobileNetV1, *, half: bool, extra: str) -> tuple[str, bytes]:
    """The network as pnnx writes it: parameters and weights, float32 or float16.

    Paddings are as much on every side, whatever the layers say; the network's own are changed to that.
    """
    import torch
    from torch import nn

    class Planar(nn.Module):
        """The network from float pixels [N, C, H, W] on."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            x = (pixels - network.mean) / network.std
            for name in network.feature_layers:
                x = network.get_submodule(name)(x)
            logits: torch.Tensor = network.classifier(network.pool(x).flatten(1))
            return logits

    pnnx, (height, width, colours) = engine("pnnx", extra), network.spec.pixels.shape
    for layer in network.spec.layers():
        if not layer.pads_evenly:  # pnnx would make a layer of it; the sizes are the same with as much on every side
            convolution = network.get_submodule(layer.name)
            del convolution.pad
            convolution.get_submodule("conv").padding = (max(layer.padding),) * 2  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        with silenced(prints=False), torch.inference_mode(), torch.random.fork_rng():
            pixels = torch.zeros(1, colours, height, width)
            traced = torch.jit.trace(Planar().eval(), (pixels,), check_trace=False)  # type: ignore[no-untyped-call]
            torch.jit.save(traced, f"{folder}/net.pt")
        command = [pnnx.EXEC_PATH, "net.pt", f"inputshape=[1,{colours},{height},{width}]", f"fp16={int(half)}"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        param, weights = Path(folder) / f"net{_PARAM}", Path(folder) / f"net{_BIN}"
        if done.returncode or not param.exists():
            reason = next(reversed(done.stderr.strip().splitlines()), f"exit code {done.returncode}")
            raise MnvError(f"pnnx could not convert the network: {reason}.", "Use another version of pnnx.")
        return param.read_text("utf-8"), weights.read_bytes()


def _padding(layer: Layer) -> list[str]:
    """The parameters of a convolution that say what is around its input."""
    top, left, bottom, right = layer.padding
    return [f"4={left}", f"14={top}", f"15={right}", f"16={bottom}"]


def _stay_integer(spec: ModelSpec) -> set[str]:
    """The layers whose output a convolution reads; the pooling computes in float, and the logits are."""
    return {layer.name for layer, reader in pairwise(spec.layers()) if reader.is_convolution}


def _float_bytes(network: MobileNetV1) -> int:
    """Size of all layers' float32 weights, each behind a tag of four bytes, and biases."""
    count = sum(parameter.numel() for parameter in network.parameters())
    return 4 * (count + sum(layer.kind != "pool" for layer in network.spec.layers()))


def _integer_layers(spec: ModelSpec, quantization: Quantization) -> Iterator[bytes]:
    """Every layer as ncnn reads it: a tag, int8 weights to a multiple of four, float biases, the scales' inverses."""
    from mnv1deploy.quantization import INPUT

    before, integer = INPUT, _stay_integer(spec)
    for layer in spec.layers():
        if layer.kind != "pool":
            weights, grid = quantization.weights[layer.name], quantization.activations[before]
            yield np.array(0x000D4B38, "<u4").tobytes()
            yield weights.values.tobytes() + bytes(-weights.values.size % 4)
            yield (weights.bias * np.float64(grid.scale) * weights.scales).astype("<f4").tobytes()
            yield (1 / weights.scales.astype(np.float64)).astype("<f4").tobytes()
            yield np.array(_symmetric(grid), "<f4").tobytes()
            if layer.name in integer:
                yield np.array(_symmetric(quantization.activations[layer.name]), "<f4").tobytes()
        before = layer.name


def _symmetric(grid: Any) -> float:
    """Integers per unit when the grid's range is laid over -127..127."""
    return float(127 / max(grid.bound, grid.scale * grid.zero_point))
