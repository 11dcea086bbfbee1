"""TorchScript: a file that ``torch.jit.load`` runs in a process that has only torch, from Python or C++."""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from mnv1deploy import schema
from mnv1deploy.artifact import METADATA_KEY, Precision, Provenance
from mnv1deploy.errors import MnvError
from mnv1deploy.files import read_member, rewritten
from mnv1deploy.formats.base import CPU, CUDA, Format
from mnv1deploy.formats.torch_session import TorchSession, load_error, torch_device, torch_providers
from mnv1deploy.packages import engine, silenced

if TYPE_CHECKING:
    import torch

    from mnv1deploy.network import MobileNetV1
    from mnv1deploy.quantization import Quantization

_METADATA_FILE = f"{METADATA_KEY}.json"


class TorchScriptFormat(Format):
    """``.pt``: a frozen, traced module. int8 is built from torch's own quantised operators, which run on CPUs."""

    name = "torchscript"
    suffix = ".pt"
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    extra = export_extra = "train"
    runners: tuple[str, ...] = ("torch",)
    writers: tuple[str, ...] = ("torch",)
    executes = True

    def export(
        self, network: MobileNetV1, path: Path, provenance: Provenance, quantization: Quantization | None
    ) -> None:
        """See Format.export."""
        import torch

        if quantization:
            from mnv1deploy.formats.torch_int8 import Int8MobileNetV1

            with silenced(prints=False):
                module: torch.nn.Module = Int8MobileNetV1(network, quantization)
        else:
            module = network.half() if provenance.precision == "fp16" else network
        images = torch.zeros(2, *network.spec.pixels.shape, dtype=torch.uint8)
        buffer = io.BytesIO()
        # whether convolutions may round float32 to TF32 on GPUs stands in the file, as it is set here
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        with silenced(prints=False), torch.inference_mode(), torch.random.fork_rng(), exact:
            traced = torch.jit.trace(module.eval(), (images,), check_trace=False)  # type: ignore[no-untyped-call]
            torch.jit.save(torch.jit.freeze(traced), buffer, _extra_files={_METADATA_FILE: provenance.to_json()})
        path.write_bytes(_reproducible(buffer.getvalue()))

    def providers(self) -> tuple[str, ...]:
        """The CPU, and CUDA where torch has it."""
        return torch_providers()

    def provenance(self, path: Path) -> Provenance | None:
        """From the extra file inside; read without torch."""
        try:
            with zipfile.ZipFile(path) as archive:
                name = next((n for n in archive.namelist() if n.endswith(f"/extra/{_METADATA_FILE}")), None)
                return Provenance.from_json(read_member(archive, name, schema.LIMIT)) if name else None
        except (zipfile.BadZipFile, zlib.error, OSError, ValueError, NotImplementedError) as error:
            raise load_error(path, error) from error

    def open(self, path: Path, *, provider: str, threads: int | None) -> TorchSession:
        """See Format.open."""
        engine("torch", self.extra)
        provenance = self.provenance(path)
        if provenance is None:
            raise MnvError(
                f"{path} is not a TorchScript artifact of mnv1deploy.",
                f"If it is a state dict, bring it in with: mnv1 import {path}",
            )
        allowed = (CPU,) if provenance.precision == "int8" else (CPU, CUDA)
        device = torch_device(provider, f"torchscript {provenance.precision}", allowed=allowed)
        import torch

        try:
            with silenced(prints=False):
                if provenance.precision == "int8":
                    # torch warns once that such tensors are deprecated, and from inside a module past every filter
                    torch._make_per_tensor_quantized_tensor(torch.zeros(1, dtype=torch.uint8), 1.0, 0)
                module = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
        except (RuntimeError, ValueError) as error:
            raise load_error(path, error) from error
        return TorchSession(module, provenance.spec, device, threads)


def _reproducible(archive: bytes) -> bytes:
    """The same TorchScript archive without what differs from one export or machine to the next.

    That is its debug records, which name source files, its serialization id, and the counter in the module's name.
    """
    counter = re.compile(rb"[./]___torch_mangle_\d+")

    def change(name: str, content: bytes) -> tuple[str, bytes]:
        kept = counter.sub(b"", name.encode()).decode()
        return kept, counter.sub(b"", content) if name.endswith(("/data.pkl", ".py")) else content

    return rewritten(archive, (".debug_pkl", "/serialization_id"), change)
