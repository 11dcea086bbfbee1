"""The checkpoint itself, run by PyTorch in eager mode: what every artifact is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mnv1deploy.artifact import Precision, Provenance
from mnv1deploy.errors import MnvError
from mnv1deploy.formats.base import Format
from mnv1deploy.formats.torch_session import TorchSession, torch_device, torch_providers

if TYPE_CHECKING:
    from mnv1deploy.network import MobileNetV1
    from mnv1deploy.quantization import Quantization


class PyTorchFormat(Format):
    """``.safetensors``: written by the trainer and by ``mnv1 import``, not by an export."""

    name = "pytorch"
    suffix = ".safetensors"
    precisions: tuple[Precision, ...] = ()
    extra = export_extra = "train"
    runners: tuple[str, ...] = ("torch",)
    writers: tuple[str, ...] = ("torch",)

    def export(
        self, network: MobileNetV1, path: Path, provenance: Provenance, quantization: Quantization | None
    ) -> None:
        """Refuses: a checkpoint is where an export starts."""
        raise MnvError("A checkpoint is what is exported, not a format to export to.")

    def providers(self) -> tuple[str, ...]:
        """The CPU, and CUDA where torch has it."""
        return torch_providers()

    def provenance(self, path: Path) -> Provenance | None:
        """A checkpoint is its own origin."""
        return None

    def open(self, path: Path, *, provider: str, threads: int | None) -> TorchSession:
        """See Format.open."""
        device = torch_device(provider, self.name)
        from mnv1deploy import checkpoint

        network = checkpoint.load(path).network.to(device)
        return TorchSession(network, network.spec, device, threads)
