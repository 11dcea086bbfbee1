"""TensorFlow Lite Micro: the int8 LiteRT file for microcontrollers, and the memory that it needs there."""

from __future__ import annotations

import re
import struct
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnv1deploy.artifact import Precision, Provenance
from mnv1deploy.errors import MnvError
from mnv1deploy.formats.base import CPU, CpuSession, Format, Images, Logits, refuse_provider
from mnv1deploy.formats.litert import damaged, flatbuffer, read_provenance
from mnv1deploy.packages import engine, missing, silenced
from mnv1deploy.spec import ModelSpec

if TYPE_CHECKING:
    from mnv1deploy.network import MobileNetV1
    from mnv1deploy.quantization import Quantization

ARENA = "arena_bytes"
"""The entry among the provenance's facts of the quantization that says how large a tensor arena the file needs."""

_REPORT = re.compile(
    rb"Arena allocation total (\d+) bytes.*Arena allocation head (\d+) bytes"
    rb".*'TfLiteEvalTensor data'.*?for (\d+) allocations",
    re.DOTALL,
)
"""What the interpreter says of the memory it took: all, that of the activations, and for how many tensors."""

_PLANNING = 96
"""Bytes for which planning one tensor's place is enough: two records of it, in tflite-micro's micro_allocator.cc."""

_RUNTIME = "tflite_micro.python.tflite_micro.runtime"


class TFLMFormat(Format):
    """``.tflm.tflite``: as LiteRT's int8 file, with operators that Micro has, too, and the arena's size inside."""

    name = "tflm"
    suffix = ".tflm.tflite"
    precisions: tuple[Precision, ...] = ("int8",)
    extra = "tflm"
    runners: tuple[str, ...] = ("tflite-micro",)
    checks = False
    export_extra = "tflm,litert,train"
    writers: tuple[str, ...] = ("torch", "ai-edge-litert", "tflite-micro")

    def export(
        self, network: MobileNetV1, path: Path, provenance: Provenance, quantization: Quantization | None
    ) -> None:
        """See Format.export."""
        assert quantization
        arena = _arena(flatbuffer(network, provenance, quantization), network.spec)
        facts = {**(provenance.quantization or {}), ARENA: arena}
        path.write_bytes(flatbuffer(network, replace(provenance, quantization=facts), quantization))

    def providers(self) -> tuple[str, ...]:
        """The CPU, if tflite-micro is installed."""
        return () if missing(self.runners) else (CPU,)

    def provenance(self, path: Path) -> Provenance | None:
        """From the flatbuffer's metadata."""
        return read_provenance(path)

    def open(self, path: Path, *, provider: str, threads: int | None) -> TFLMSession:
        """See Format.open. The interpreter has one thread, as microcontrollers have."""
        engine(_RUNTIME, self.extra)
        if provider not in self.providers():
            raise refuse_provider(provider, self.providers(), self.name)
        return TFLMSession(path)


class TFLMSession(CpuSession):
    """A model in Micro's interpreter with its reference kernels, in an arena of exactly the size it asks for.

    One picture at a time: tensors in an arena have one size.
    """

    forks = True

    def __init__(self, path: Path) -> None:
        self.provenance = read_provenance(path)
        try:
            arena = (self.provenance.quantization or {})[ARENA]
            model = path.read_bytes()
            needed = _arena(model, self.spec)  # in one too small the interpreter may end the process
            if type(arena) is not int or arena < needed:
                raise MnvError(
                    f"{path} says that it needs an arena of {arena} bytes, and needs {needed:,}.",
                    "It was changed, or is damaged; export it again.",
                )
            self._interpreter = _interpreter(model, arena)
        except (struct.error, RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise damaged(path, error) from error

    def _infer(self, images: Images) -> Logits:
        logits = np.empty((len(images), len(self.spec.classes)), np.float32)
        for number in range(len(images)):
            self._interpreter.set_input(images[number : number + 1], 0)
            self._interpreter.invoke()
            logits[number] = self._interpreter.get_output(0)
        return logits


def _interpreter(model: bytes, arena: int) -> Any:
    """Raises RuntimeError if the arena is too small. The file is read whole in Python before C++ reads it unchecked."""
    runtime = engine(_RUNTIME, "tflm")
    with silenced():
        return runtime.Interpreter.from_bytes(model, arena_size=arena)


def _arena(model: bytes, spec: ModelSpec) -> int:
    """The arena that the model needs, in bytes, with this machine's pointers.

    The interpreter's own report of what it used of a large one. Trying small ones ends the process at some sizes. The
    report leaves out the plan of the activations, which is made where they will be: in the arena's head.
    """
    layers = list(spec.layers())
    every_activation = sum(4 * layer.in_size**2 * layer.in_channels for layer in layers)
    interpreter = _interpreter(model, 2 * every_activation + 10 * len(model))
    with tempfile.TemporaryFile() as report:
        with silenced(report.fileno()):
            interpreter.print_allocations()
        report.seek(0)
        text = report.read()
    found = _REPORT.search(text)
    if not found:
        raise MnvError("tflite-micro does not say how much memory the network needs.", "Use another version of it.")
    total, head, tensors = map(int, found.groups())
    return total + max(0, tensors * _PLANNING - head)
