"""ExecuTorch: PyTorch's own runtime for phones and boards; a ``.pte`` whose network is one XNNPACK delegate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from mnv1deploy.artifact import METADATA_KEY, Precision, Provenance
from mnv1deploy.errors import MnvError
from mnv1deploy.formats.base import CPU, CpuSession, Format, Images, Logits, check_images, refuse_provider
from mnv1deploy.packages import engine, missing, silenced

if TYPE_CHECKING:
    from torch import Tensor

    from mnv1deploy.network import MobileNetV1
    from mnv1deploy.quantization import Quantization

MAX_BATCH = 15
"""Pictures per call of the file's ``forward``, for which the runtime reserves memory; sessions take any number.

From 16 pictures on torch lowers a convolution differently, so no graph holds on both sides of that.
"""


class ExecuTorchFormat(Format):
    """``.pte``: ``forward`` takes 1 to MAX_BATCH pictures; the provenance is what its method ``mnv1deploy`` returns.

    int8 is our integers, as quantize and dequantize operators that the XNNPACK backend turns into integer kernels.
    """

    name = "executorch"
    suffix = ".pte"
    precisions: tuple[Precision, ...] = ("fp32", "int8")
    extra = export_extra = "executorch"
    runners: tuple[str, ...] = ("torch", "executorch")
    writers: tuple[str, ...] = ("torch", "executorch")

    def export(
        self, network: MobileNetV1, path: Path, provenance: Provenance, quantization: Quantization | None
    ) -> None:
        """See Format.export."""
        import torch

        from mnv1deploy.formats.decomposed import DecomposedMobileNetV1

        images = torch.zeros(2, *network.spec.pixels.shape, dtype=torch.uint8)
        batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
        text = torch.frombuffer(bytearray(provenance.to_json().encode()), dtype=torch.uint8)
        with silenced():
            exir = engine("executorch.exir", self.extra)
            xnnpack = engine("executorch.backends.xnnpack.partition.xnnpack_partitioner", self.extra)
            module = DecomposedMobileNetV1(network, quantization).eval()
            program = torch.export.export(module, (images,), dynamic_shapes=({0: batch},))
            lowered = exir.to_edge_transform_and_lower(
                program, partitioner=[xnnpack.XnnpackPartitioner()], constant_methods={METADATA_KEY: text}
            )
            path.write_bytes(lowered.to_executorch().buffer)

    def providers(self) -> tuple[str, ...]:
        """The CPU, if executorch and torch are installed."""
        return () if missing(self.runners) else (CPU,)

    def provenance(self, path: Path) -> Provenance | None:
        """From the file's method ``mnv1deploy``, run by ExecuTorch."""
        return ExecuTorchSession(_runtime(), path).provenance

    def open(self, path: Path, *, provider: str, threads: int | None) -> ExecuTorchSession:
        """See Format.open. The number of threads is the whole process's."""
        runtime = _runtime()
        if provider not in self.providers():
            raise refuse_provider(provider, self.providers(), self.name)
        if threads:
            with silenced():
                library = engine("executorch.extension.pybindings.portable_lib", self.extra)
                if library._threadpool_get_thread_count() != threads:
                    library._unsafe_reset_threadpool(threads)
        return ExecuTorchSession(runtime, path)


class ExecuTorchSession(CpuSession):
    """A program in ExecuTorch's runtime, whose XNNPACK backend runs it."""

    def __init__(self, runtime: ModuleType, path: Path) -> None:
        import torch

        self._torch = torch
        try:
            with silenced():
                program = runtime.Runtime.get().load_program(
                    path, verification=runtime.Verification.InternalConsistency
                )
                if not {"forward", METADATA_KEY} <= program.method_names:
                    raise MnvError(
                        f"{path} was not written by mnv1deploy: it carries no spec.", "Export the checkpoint again."
                    )
                text = program.load_method(METADATA_KEY).execute(())[0]
                self._forward = program.load_method("forward")
        except (RuntimeError, ValueError) as error:
            raise MnvError(
                f"{path} is no ExecuTorch program, or is damaged: {MnvError.reason(error)}.", "Export it again."
            ) from error
        self.provenance = Provenance.from_json(bytes(text.numpy()).decode())

    def _infer(self, images: Images) -> Logits:
        parts = [self._forward.execute(part)[0].numpy() for part in self._parts(images)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def runner(self, images: Images, *, include_copies: bool) -> Callable[[], object]:
        """See Session. The tensors around the pixels are made once."""
        check_images(images, self.spec)
        execute, parts = self._forward.execute, self._parts(images)
        return lambda: [execute(part)[0] for part in parts]

    def _parts(self, images: Images) -> list[tuple[Tensor]]:
        """The arguments of one call each, of as many pictures as that takes."""
        pixels = self._torch.from_numpy(np.require(images, requirements=["C", "W"]))
        return [(part,) for part in self._torch.split(pixels, MAX_BATCH)]


def _runtime() -> ModuleType:
    with silenced():
        engine("torch", "executorch")
        return engine("executorch.runtime", "executorch")
