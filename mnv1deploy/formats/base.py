"""What a format and a session are, and what all of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mnv1deploy.artifact import PROVENANCE, Precision, Provenance
from mnv1deploy.device import Device
from mnv1deploy.errors import MnvError
from mnv1deploy.packages import missing
from mnv1deploy.spec import ModelSpec

if TYPE_CHECKING:
    from mnv1deploy.network import MobileNetV1
    from mnv1deploy.quantization import Quantization

Images = NDArray[np.uint8]
Logits = NDArray[np.float32]

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
OPENVINO = "OpenVINOExecutionProvider"

DIRECTML = "DmlExecutionProvider"
COREML = "CoreMLExecutionProvider"
MIGRAPHX = "MIGraphXExecutionProvider"
QNN = "QNNExecutionProvider"

PROVIDER_ALIASES = {
    **{"cpu": CPU, "cuda": CUDA, "gpu": CUDA, "nvidia": CUDA, "tensorrt": TENSORRT, "trt": TENSORRT},
    **{"openvino": OPENVINO, "dml": DIRECTML, "directml": DIRECTML, "coreml": COREML, "migraphx": MIGRAPHX},
    **{"rocm": MIGRAPHX, "qnn": QNN},
    **{name.lower(): name for name in (CPU, CUDA, TENSORRT, OPENVINO, DIRECTML, COREML, MIGRAPHX, QNN)},
}
"""What a user may type, in any case; everywhere else providers have onnxruntime's names, whatever the engine."""

PROVIDER_PACKAGES = {
    CUDA: "onnxruntime-gpu, with an NVIDIA driver (pip install 'mnv1deploy[gpu]', in place of [cpu])",
    TENSORRT: "onnxruntime-gpu and tensorrt (pip install 'mnv1deploy[gpu]' tensorrt)",
    OPENVINO: "onnxruntime-ep-openvino (pip install 'mnv1deploy[openvino-ep]')",
    DIRECTML: "onnxruntime-directml, on Windows",
    COREML: "onnxruntime on macOS",
    MIGRAPHX: "onnxruntime-migraphx",
    QNN: "onnxruntime-qnn",
    CPU: "onnxruntime (pip install 'mnv1deploy[cpu]')",
}
"""Which package brings a provider that is not there."""


class Session(Protocol):
    """An artifact opened in its engine, on one provider."""

    @property
    def concurrent(self) -> bool:
        """Whether calls of several threads may run at once.

        What :func:`mnv1deploy.formats.open_session` gives is right in either case: calls take turns where not.
        """

    @property
    def forks(self) -> bool:
        """Whether a forked child can open the artifact again; engines whose threads are the process's hang there."""

    @property
    def spec(self) -> ModelSpec:
        """Of the network inside."""

    @property
    def provider(self) -> str:
        """The provider in use, asked of the engine."""

    def __call__(self, images: Images) -> Logits:
        """Raw pixels, uint8 ``[N, H, W, C]`` -> logits, float32 ``[N, classes]``. Raises MnvError for other input."""

    def runner(self, images: Images, *, include_copies: bool) -> Callable[[], object]:
        """One inference of ``images`` as a call without arguments that returns when the result is there, to be timed.

        On a GPU provider input and output stay in the device's memory unless ``include_copies``; on the CPU the
        two are the same.
        """


class CpuSession(ABC):
    """What the sessions of engines that run on the CPU alone share: each has its provenance and ``_infer``.

    Attributes:
        concurrent, forks: see Session.
        provenance: of the artifact, set by the constructor.
    """

    concurrent = False
    forks = False
    provider = CPU
    provenance: Provenance

    @property
    def spec(self) -> ModelSpec:
        """Of the network inside."""
        return self.provenance.spec

    def __call__(self, images: Images) -> Logits:
        """See Session."""
        check_images(images, self.spec)
        return self._infer(images)

    def runner(self, images: Images, *, include_copies: bool) -> Callable[[], object]:
        """See Session."""
        check_images(images, self.spec)
        return lambda: self._infer(images)

    @abstractmethod
    def _infer(self, images: Images) -> Logits:
        """What :meth:`__call__` returns for images that keep the contract."""


@dataclass(frozen=True)
class OperatorTime:
    """What one operator of an opened artifact takes.

    Attributes:
        name: of the layer it computes where the engine keeps that, else the engine's.
        kind: as the engine calls it.
        mean: per call, in milliseconds.
    """

    name: str
    kind: str
    mean: float


@runtime_checkable
class Profiling(Protocol):
    """What a Session may offer besides, if its engine has a profiler."""

    def profile(self, images: Images, calls: int) -> list[OperatorTime]:
        """Every operator, in the order they run, over ``calls`` calls after a warm-up."""


@runtime_checkable
class ForDevice(Protocol):
    """What a Format may offer besides, if what it writes can be made for one device."""

    def for_device(self, device: Device) -> Format:
        """The format that writes for that one."""


@runtime_checkable
class ForProvider(Protocol):
    """What a Format may offer besides, if what it writes is compiled for one provider."""

    def for_provider(self, provider: str) -> Format:
        """The format that writes for that one. Raises MnvError if it is not there."""


def provenance_in(folder: Path, what: str) -> Provenance:
    """That of a folder which is an artifact; ``what`` it is stands in the MnvError if it was not written here."""
    try:
        return Provenance.from_json((folder / PROVENANCE).read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise MnvError(
            f"{folder} is no folder {what} that mnv1deploy wrote: it has no readable {PROVENANCE}.",
            "Export the checkpoint again.",
        ) from error


class Format(Protocol):
    """How one edge format is written and run.

    Attributes:
        name: as in ``mnv1 export --format``.
        suffix: of its artifacts' names, by which they are told apart; may be of a folder.
        precisions: it can be exported in.
        extra: the pip extra that brings what runs it, and nothing more; empty where the base does.
        runners: the packages that run it.
        export_extra: the pip extra that brings what writes it, too.
        writers: the packages that write it, whose versions decide its bytes.
        quantizer: who decides the integers of its int8; "mnv1deploy" where the engine takes ours.
        executes: whether opening an artifact executes code that is in it.
        checks: whether its engine checks a file before it follows what stands in it; one that does not may die of it.
        elsewhere: why this machine cannot run its artifacts whatever is installed; empty if it can.
        decodes_whole: why its artifacts, which decode pictures themselves, have JPEGs whole; empty if they decode none.
    """

    name: str
    suffix: str
    precisions: tuple[Precision, ...]
    extra: str
    runners: tuple[str, ...]
    export_extra: str
    writers: tuple[str, ...]
    quantizer: str = "mnv1deploy"
    executes: bool = False
    checks: bool = True
    elsewhere: str = ""
    decodes_whole: str = ""

    def export(
        self, network: MobileNetV1, path: Path, provenance: Provenance, quantization: Quantization | None
    ) -> None:
        """Writes ``network`` (batch-norms folded, float32) to ``path`` in ``provenance.precision``.

        ``path`` is in a folder of its own; more files beside it, or files in a folder of that name, are part of the
        artifact. ``quantization`` has the integer grids for int8 and is None otherwise; ``network`` then has exactly
        those integers times their scales as weights and biases. The same call gives the same bytes.
        """

    def providers(self) -> tuple[str, ...]:
        """What :meth:`open` can be asked for on this machine, the default first; empty if the engine is missing."""

    def provenance(self, path: Path) -> Provenance | None:
        """What the file itself says of where it comes from; None if only its manifest can say it."""

    def open(self, path: Path, *, provider: str, threads: int | None) -> Session:
        """Opens an artifact. ``threads`` None leaves their number to the engine.

        Raises:
            MnvError: for a provider that is not there, an engine that is not installed, or a damaged file.
        """


def missing_to_export(format_: Format) -> list[str]:
    """The packages that an export to a format, and its proof, needs and that are not installed."""
    return missing(format_.writers if format_.elsewhere else (*format_.writers, *format_.runners))


def resolve_provider(name: str) -> str:
    """A provider's full name from what the user typed; "cuda:0" is "cuda".

    Raises:
        MnvError: for another device than the first, which no engine is asked for here.
    """
    plain, _, device = name.lower().partition(":")
    if device not in ("", "0"):
        raise MnvError(
            f"A provider runs on its first device; {name} asks for another.",
            f"Make that one the first: CUDA_VISIBLE_DEVICES={device} with --provider {plain}."
            if PROVIDER_ALIASES.get(plain) in (CUDA, TENSORRT)
            else f"Ask for {plain}.",
        )
    return PROVIDER_ALIASES.get(plain, name)


def refuse_provider(provider: str, available: tuple[str, ...], format_name: str, remedy: str = "") -> MnvError:
    """The error for a provider that was asked for and is not there."""
    there = ", ".join(available) or "none"
    return MnvError(f"{provider} is not available for {format_name} on this machine; available: {there}.", remedy)


def check_images(images: Any, spec: ModelSpec) -> None:
    """Raises MnvError unless ``images`` keep the contract: uint8 ``[N, H, W, C]``, N >= 1, at the spec's size."""
    shape = spec.pixels.shape
    if not isinstance(images, np.ndarray):
        raise MnvError(
            f"The network takes a numpy array of raw pixels, not a {type(images).__name__}.",
            "For paths and pictures there is Classifier.predict.",
        )
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != shape or not len(images):
        wanted = ", ".join(map(str, shape))
        raise MnvError(
            f"The network takes raw pixels, uint8 [N, {wanted}]; this is {images.dtype} {list(images.shape)}.",
            "Do not normalise or transpose: that is inside the artifact.",
        )
