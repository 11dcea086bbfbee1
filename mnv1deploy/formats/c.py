"""C: the network as one C99 file, compiled here with the system's compiler to be run from Python."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mnv1deploy.artifact import Precision, Provenance
from mnv1deploy.c import TEMPLATES
from mnv1deploy.errors import MnvError
from mnv1deploy.files import atomic, cache_folder
from mnv1deploy.formats.base import CPU, CpuSession, Format, Images, Logits, check_images, refuse_provider

if TYPE_CHECKING:
    from mnv1deploy.network import MobileNetV1
    from mnv1deploy.quantization import Quantization

COMPILERS = ("cc", "gcc", "clang")
FLAGS: tuple[str, ...] = ("-std=c99", "-O3", "-fPIC", "-shared")
if platform.machine() in ("x86_64", "AMD64"):
    FLAGS += ("-mtune=icelake-server",)  # an order of instructions: gcc's default one is 3 % slower, on AMD too
elif platform.machine() in ("aarch64", "arm64"):
    FLAGS += ("-mcpu=native",)  # brings in the kernels with dot products, which the compiler has to be told of

BACKENDS = ("portable", "avx2", "avx512_vnni", "amx_int8", "neon_dotprod")
"""Instruction sets, in the order of the header's enum."""

BACKEND_VARIABLE = "MNV1_C_BACKEND"
"""Names the one to run on, for tests and comparisons, instead of the best that the processor has."""

PROVENANCE = "provenance.json"


class CFormat(Format):
    """A folder of C: header, source, example, Makefile, README and the provenance as JSON."""

    name = "c"
    suffix = ".c"
    precisions: tuple[Precision, ...] = ("int8",)
    extra = ""
    export_extra = "train"
    runners: tuple[str, ...] = ()
    writers: tuple[str, ...] = ("torch",)

    def export(
        self, network: MobileNetV1, path: Path, provenance: Provenance, quantization: Quantization | None
    ) -> None:
        """See Format.export. Writes a folder."""
        from mnv1deploy.c import generate

        assert quantization, "C is int8 only"
        generate.write(path, quantization, provenance)

    def providers(self) -> tuple[str, ...]:
        """The CPU, where there is a C compiler."""
        return (CPU,) if compiler() else ()

    def provenance(self, path: Path) -> Provenance:
        """Read from the folder. Raises MnvError if it is not one that :meth:`export` wrote."""
        try:
            return Provenance.from_json((path / PROVENANCE).read_text("utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise MnvError(
                f"{path} is no folder of C that mnv1deploy wrote: it has no readable {PROVENANCE}.",
                "Export the checkpoint again.",
            ) from error

    def open(self, path: Path, *, provider: str, threads: int | None) -> CSession:
        """See Format.open. Compiles the folder unless that was done before."""
        if provider != CPU:
            raise refuse_provider(provider, self.providers(), self.name)
        return CSession(path, self.provenance(path), threads)


class CSession(CpuSession):
    """The compiled network. A batch is shared out among threads; one picture is one thread's.

    Attributes:
        provenance: read from the folder.
        backends: the instruction sets that are there, of BACKENDS.
        backend: the one in use: the last, unless BACKEND_VARIABLE names another.
    """

    def __init__(self, path: Path, provenance: Provenance, threads: int | None) -> None:
        self.provenance = provenance
        library = ctypes.CDLL(str(_compiled(path)))
        self.backends = [name for number, name in enumerate(BACKENDS) if library.mobilenetv1_has(number)]
        self.backend = os.environ.get(BACKEND_VARIABLE) or self.backends[-1]
        if self.backend not in self.backends:
            there = ", ".join(self.backends)
            raise MnvError(f"There is no instruction set {self.backend} here.", f"{BACKEND_VARIABLE} can be {there}.")
        self._run = library.session_run
        self._run.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
        self._number = BACKENDS.index(self.backend)
        self._classes = len(provenance.spec.classes)
        self._threads = threads or os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._threads - 1) if self._threads > 1 else None

    def _infer(self, images: Images) -> Logits:
        images = np.ascontiguousarray(images)
        logits = np.empty((len(images), self._classes), np.float32)
        self._fill(images, logits)
        return logits

    def runner(self, images: Images, *, include_copies: bool) -> Callable[[], Logits]:
        """See Session. The logits are the same array every time."""
        check_images(images, self.spec)
        images = np.ascontiguousarray(images)
        logits = np.empty((len(images), self._classes), np.float32)
        if self._pool is None or len(images) == 1:
            run, arguments = self._run, (self._number, _address(images), len(images), _address(logits))

            def run_alone(keep: Images = images) -> Logits:
                run(*arguments)
                return logits

            return run_alone

        def run_shared() -> Logits:
            self._fill(images, logits)
            return logits

        return run_shared

    def _fill(self, images: Images, logits: Logits) -> None:
        """One call of the library per thread, on neighbouring pictures; none holds the interpreter's lock."""
        source, target, count = _address(images), _address(logits), len(images)
        if self._pool is None or count == 1:
            self._run(self._number, source, count, target)
            return
        parts = min(self._threads, count)
        bounds = [count * part // parts for part in range(parts + 1)]
        calls = [
            (self._number, source + start * images.strides[0], end - start, target + start * logits.strides[0])
            for start, end in pairwise(bounds)
        ]
        others = [self._pool.submit(self._run, *call) for call in calls[1:]]
        self._run(*calls[0])
        for other in others:
            other.result()


def _address(array: NDArray[Any]) -> int:
    """Of its first element; quicker than array.ctypes."""
    address: int = array.__array_interface__["data"][0]
    return address


def compiler() -> str | None:
    """The C compiler's path: what $CC names, else the first of COMPILERS that is there."""
    names = [os.environ["CC"]] if os.environ.get("CC") else COMPILERS
    return next(filter(None, map(shutil.which, names)), None)


def _compiled(path: Path) -> Path:
    """The shared library of a folder, from the cache if the same source was compiled by the same compiler before."""
    command = compiler()
    if not command:
        raise MnvError(
            "Running a network in C from Python takes a C compiler, and there is none here.",
            "Install gcc or clang: apt install gcc, dnf install gcc, or xcode-select --install on a Mac.",
        )
    # its version, and what it compiles for, which with -mcpu=native is this machine alone
    macros = subprocess.run([command, *FLAGS, "-dM", "-E", "-xc", os.devnull], capture_output=True, check=False).stdout
    sources = [path / "mobilenetv1.h", path / "mobilenetv1.c", TEMPLATES / "session.c"]
    try:
        contents = [source.read_bytes() for source in sources]
    except OSError as error:
        raise MnvError(f"{path} is not complete: {error}.", "Export the checkpoint again.") from error
    digest = sha256(b"\0".join([*contents, macros, command.encode(), *map(str.encode, FLAGS)])).hexdigest()
    library = cache_folder() / "c" / f"{digest}.so"
    if not library.exists():
        with atomic(library) as temporary:
            arguments = [*FLAGS, f"-I{path}", *map(str, sources[1:]), "-o", str(temporary)]
            done = subprocess.run([command, *arguments], capture_output=True, text=True, check=False)
            if done.returncode:
                reason = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip())
                raise MnvError(f"{command} cannot compile {path}: {reason}")
    return library
