"""MNN (``.mnn``), Alibaba's engine for phones: written by its converter from the ONNX artifact."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnv1deploy.artifact import Precision, Provenance, provenance_beside
from mnv1deploy.errors import MnvError
from mnv1deploy.formats.base import CPU, CpuSession, Format, Images, Logits, check_images, refuse_provider
from mnv1deploy.formats.onnx import OnnxFormat
from mnv1deploy.packages import engine, silenced

if TYPE_CHECKING:
    from mnv1deploy.network import MobileNetV1
    from mnv1deploy.quantization import Quantization

_IDENTIFIER = re.compile(rb"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")

_CONVERT = "import sys, _tools; sys.exit(not _tools.mnnconvert(['mnnconvert', *sys.argv[1:]]))"
"""The converter alone: importing MNN.tools would install a package that reports every use, and report this one."""


class MnnFormat(Format):
    """``.mnn``: input ``image``, output ``logits``, batch size free.

    int8 is the float network whose weights are on our grids, and those grids beside it, which the converter applies:
    it does not read QDQ. Pooling and the classifier stay float.
    """

    name = "mnn"
    suffix = ".mnn"
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    extra = "mnn"
    runners: tuple[str, ...] = ("MNN",)
    export_extra = "mnn-export"
    writers: tuple[str, ...] = (*OnnxFormat.writers, "MNN")

    def export(
        self, network: MobileNetV1, path: Path, provenance: Provenance, quantization: Quantization | None
    ) -> None:
        """See Format.export. fp16 is the storage of the weights. Raises MnvError if MNN's converter fails."""
        engine("onnx", self.export_extra)
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "net.onnx"
            OnnxFormat().export(network, source, replace(provenance, precision="fp32"), None)
            options = ["--fp16"] if provenance.precision == "fp16" else []
            if quantization:
                grids = Path(folder) / "grids.json"
                grids.write_text(json.dumps(_compression(quantization)))
                options = ["--compressionParamsFile", str(grids)]
            files = ["--modelFile", str(source), "--MNNModel", str(path)]
            # a process of its own: it prints its progress, and ends the process over a model it cannot read
            command = [sys.executable, "-c", _CONVERT, "-f", "ONNX", "--bizCode", "mnv1deploy", *files, *options]
            done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode or not path.exists():
            reason = next(reversed((done.stdout + done.stderr).strip().splitlines()), f"exit code {done.returncode}")
            raise MnvError(f"MNN's converter failed: {reason}.", "Use another version of MNN.")
        content = path.read_bytes()
        # the converter gives every file an identifier by chance; here it follows from the rest
        chance = _IDENTIFIER.search(content)
        if chance:
            rest = hashlib.sha256(content.replace(chance[0], b"")).hexdigest()
            path.write_bytes(content.replace(chance[0], str(uuid.uuid5(uuid.NAMESPACE_OID, rest)).encode()))

    def providers(self) -> tuple[str, ...]:
        """The CPU; empty if MNN is missing."""
        try:
            with silenced():
                engine("MNN", self.extra)
        except MnvError:
            return ()
        return (CPU,)

    def provenance(self, path: Path) -> Provenance | None:
        """Only the manifest can say it."""
        return None

    def open(self, path: Path, *, provider: str, threads: int | None) -> MnnSession:
        """See Format.open."""
        with silenced():
            engine("MNN", self.extra)
        if provider != CPU:
            raise refuse_provider(provider, self.providers(), self.name)
        return MnnSession(path, threads)


def _compression(quantization: Quantization) -> dict[str, Any]:
    """The grids as the converter's compression parameters (MNN_compression.proto): int8, which is ours less 128."""
    from mnv1deploy.quantization import INPUT

    def tensor(name: str) -> dict[str, Any]:
        grid = quantization.activations[name]
        return {"name": name, "scales": [grid.scale], "zero_point": grid.zero_point - 128}

    names = quantization.network.feature_layers
    layers = [
        {
            "input": [tensor(source)],
            "weight": [{"name": name, "scales": quantization.weights[name].scales.tolist()}],
            "output": [tensor(name)],
        }
        for source, name in pairwise((INPUT, *names))
    ]
    return {"version": "0.0.0", "algo": [{"type": "QUANTIZE", "quant_params": {"layer": layers}}]}


class MnnSession(CpuSession):
    """A module in MNN, on the CPU, as precise as its artifact; fp16 in float16 on processors that have it."""

    def __init__(self, path: Path, threads: int | None) -> None:
        neural: Any = engine("MNN.nn", "mnn")
        self._expr: Any = engine("MNN.expr", "mnn")
        self.provenance = provenance_beside(path)
        precision = "low" if self.provenance.precision == "fp16" else "high"
        settings = {"backend": "CPU", "precision": precision, "numThread": threads or 4}  # 4 is MNN's own default
        try:
            with silenced():
                runtime = neural.create_runtime_manager((settings,))
                self._module = neural.load_module_from_file(
                    str(path), ["image"], ["logits"], runtime_manager=runtime, rearrange=True
                )
        except (SystemError, RuntimeError) as error:
            raise MnvError(f"MNN cannot load {path}: {MnvError.reason(error)}.", "Export it again.") from error

    def _variable(self, images: Images) -> Any:
        # NCHW is how MNN names dimensions that are as they stand in the ONNX model
        return self._expr.const(np.ascontiguousarray(images), list(images.shape), self._expr.NCHW, self._expr.uint8)

    def _infer(self, images: Images) -> Logits:
        logits: Logits = self._module.forward([self._variable(images)])[0].read().copy()
        return logits

    def runner(self, images: Images, *, include_copies: bool) -> Callable[[], object]:
        """See Session."""
        check_images(images, self.spec)
        pixels = self._variable(images)
        return lambda: self._module.forward([pixels])[0].read()
