"""AOTInductor: the network compiled, for the CPU or for CUDA, in the ``.pt2`` package that follows TorchScript."""

from __future__ import annotations

import platform
import re
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv1deploy import schema
from mnv1deploy.artifact import METADATA_KEY, Precision, Provenance
from mnv1deploy.errors import MnvError
from mnv1deploy.files import read_member, rewritten
from mnv1deploy.formats.base import CPU, CUDA, Format, refuse_provider
from mnv1deploy.formats.torch_session import DEVICES, TorchSession, load_error, torch_device, torch_providers
from mnv1deploy.packages import engine, silenced

if TYPE_CHECKING:
    from mnv1deploy.network import MobileNetV1
    from mnv1deploy.quantization import Quantization

_ON_X86 = platform.machine().lower() in ("x86_64", "amd64")
_X86 = {"march": "x86-64-v3", "simdlen": 256}
"""AVX2 and FMA, which x86 CPUs have since 2013; left alone, the compiler takes what the exporting machine has.

torch 2.11 has no ``march`` yet: what it writes is for CPUs like the exporting machine's.
"""


class AOTIFormat(Format):
    """``.pt2``: machine code for this operating system and kind of CPU; the provenance is in its metadata.

    int8 is for x86. Bytes are the same only with the same TORCHINDUCTOR_CACHE_DIR, and int8's never: torch writes bytes
    of its packed weights' descriptions that it has not set.

    Args:
        provider: that it is compiled for; for CUDA, on the kind of card that it is for, in fp32 or fp16.
    """

    name = "aoti"
    suffix = ".pt2"
    precisions: tuple[Precision, ...] = ("fp32", "int8") if _ON_X86 else ("fp32",)
    extra = export_extra = "train"
    runners: tuple[str, ...] = ("torch",)
    writers: tuple[str, ...] = ("torch",)
    executes = True

    def __init__(self, provider: str = CPU) -> None:
        self._provider = provider
        if provider == CUDA:
            self.precisions = ("fp32", "fp16")

    def for_provider(self, provider: str) -> AOTIFormat:
        """See ForProvider."""
        torch_device(provider, self.name)
        return AOTIFormat(provider)

    def export(
        self, network: MobileNetV1, path: Path, provenance: Provenance, quantization: Quantization | None
    ) -> None:
        """See Format.export. Needs a C++ compiler."""
        import torch
        from filelock import FileLock
        from torch._inductor import aoti_compile_and_package
        from torch._inductor import config as inductor
        from torch._inductor.exc import CppCompileError, InductorError, InvalidCxxCompiler
        from torch._inductor.runtime.cache_dir_utils import cache_dir

        device = DEVICES[self._provider]
        images = torch.zeros(2, *network.spec.pixels.shape, dtype=torch.uint8, device=device)
        options: dict[str, Any] = {"aot_inductor.metadata": {METADATA_KEY: provenance.to_json()}}
        module: Any = (network.half() if provenance.precision == "fp16" else network).to(device).eval()
        if _ON_X86:
            options |= {f"cpp.{name}": value for name, value in _X86.items() if hasattr(inductor.cpp, name)}
        if quantization:
            from mnv1deploy.formats.onednn_int8 import OneDNNMobileNetV1

            module = OneDNNMobileNetV1(network, quantization)
            options["freezing"] = True  # packs the weights now
        with tempfile.TemporaryDirectory() as folder, silenced(prints=False), torch.no_grad():
            program = torch.export.export(module, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
            package = Path(folder) / "network.pt2"
            try:
                # two exports of one graph at the same time would write the same files in the compiler's cache
                with FileLock(Path(cache_dir()) / "mnv1deploy.lock"):
                    aoti_compile_and_package(program, package_path=str(package), inductor_configs=options)
            except (InvalidCxxCompiler, CppCompileError, InductorError) as error:
                cause = getattr(error, "inner_exception", error)  # torch 2.15 wraps it
                if not isinstance(cause, (InvalidCxxCompiler, CppCompileError)):
                    raise
                raise MnvError(
                    f"Exporting to aoti needs a C++ compiler that works, and here is none: {MnvError.reason(cause)}.",
                    "Install one (on Debian: apt install g++), or name it in the environment variable CXX.",
                ) from error
            path.write_bytes(_reproducible(package.read_bytes()))

    def providers(self) -> tuple[str, ...]:
        """The CPU if torch is installed, and CUDA where torch has it; a package is for one of them."""
        return torch_providers()

    def provenance(self, path: Path) -> Provenance | None:
        """From the package's metadata; read without torch."""
        text = _metadata(path).get(METADATA_KEY)
        try:
            return Provenance.from_json(text) if text else None
        except ValueError as error:
            raise load_error(path, error) from error

    def open(self, path: Path, *, provider: str, threads: int | None) -> TorchSession:
        """See Format.open. Opening runs the machine code in the file: open none whose origin you do not trust."""
        engine("torch", self.extra)
        device = torch_device(provider, self.name)
        provenance = self.provenance(path)
        if provenance is None:
            raise MnvError(f"{path} was not written by mnv1deploy: it carries no spec.", "Export the checkpoint again.")
        compiled_for = str(_metadata(path).get("AOTI_DEVICE_KEY", "cpu"))
        if device != compiled_for:
            its = tuple(name for name, short in DEVICES.items() if short == compiled_for)
            remedy = f"It was compiled for {compiled_for}: mnv1 export --format aoti --provider {device} makes another."
            raise refuse_provider(provider, its, path.name, remedy)
        from torch._inductor import aoti_load_package

        try:
            with silenced(prints=False):
                module = aoti_load_package(str(path))
        except (RuntimeError, OSError) as error:
            raise load_error(path, error) from error
        return TorchSession(module, provenance.spec, device, threads)


def _metadata(path: Path) -> dict[str, Any]:
    """What is said in the package of its library; empty if nothing is. Raises MnvError if it cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith("wrapper_metadata.json"):
                    return dict(schema.loads(read_member(archive, name, schema.LIMIT)))
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, TypeError, NotImplementedError) as error:
        raise load_error(path, error) from error
    return {}


def _reproducible(package: bytes) -> bytes:
    """The package without the sources, which name the machine, its serialization id, and paths in the library.

    A path is overwritten by as many slashes as it has characters, so that nothing in the library moves; of a kernel
    for CUDA, which is a file of the package, the name stays.
    """
    import torch

    places = [str(Path(torch.__file__).parents[1]), tempfile.gettempdir(), str(Path.home())]
    path = re.compile(rb"(?:" + b"|".join(re.escape(place.encode()) for place in places) + rb")/[^\0\s:\"']*")

    def change(name: str, content: bytes) -> tuple[str, bytes]:
        return name, path.sub(_blank, content) if name.endswith(".so") else content

    return rewritten(package, (".cpp", "/serialization_id"), change)


def _blank(path: re.Match[bytes]) -> bytes:
    folder, slash, name = path[0].rpartition(b"/")
    kept = name if name.endswith(b".cubin") else b"/" * len(name)
    return b"/" * len(folder) + slash + kept
