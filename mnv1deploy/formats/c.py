"""C: the network as one C99 file, compiled here with the system's compiler to be run from Python."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mnv1deploy.artifact import PROVENANCE, Precision, Provenance
from mnv1deploy.c import TEMPLATES
from mnv1deploy.c.backends import NAMES as BACKENDS
from mnv1deploy.c.names import identifier
from mnv1deploy.cost import cost
from mnv1deploy.device import ANY_DEVICE, Device
from mnv1deploy.errors import MnvError
from mnv1deploy.files import cache_folder
from mnv1deploy.formats.base import (
    CPU,
    CpuSession,
    Format,
    Images,
    Logits,
    check_images,
    provenance_in,
    refuse_provider,
)
from mnv1deploy.machine import processors
from mnv1deploy.packages import install_hint, is_installed

if TYPE_CHECKING:
    from mnv1deploy.network import MobileNetV1
    from mnv1deploy.quantization import Quantization

COMPILERS = ("cc", "gcc", "clang")
ZIG = (sys.executable, "-m", "ziglang", "cc")
"""A whole compiler in a Python package, for machines that have none of their own."""

TUNED = "-mtune=icelake-server"
"""An order of instructions: gcc's default one is 3 % slower, on AMD too. Zig has other names for processors."""

FLAGS: tuple[str, ...] = ("-std=c99", "-O3", "-fPIC", "-shared", "-pthread")
if platform.machine() in ("x86_64", "AMD64"):
    FLAGS += (TUNED,)
elif platform.machine() in ("aarch64", "arm64"):
    FLAGS += ("-mcpu=native",)  # brings in the kernels with dot products, which the compiler has to be told of

BACKEND_VARIABLE = "MNV1_C_BACKEND"
"""Names the one to run on, for tests and comparisons, instead of the best that the processor has."""

LEAST_TO_SHARE = 20_000_000
"""Multiply-adds of a picture that threads share: fewer take less time than sharing them out does."""

COMPILER_SECONDS = 60, 20
"""What the compiler may take, and what for each MB of source besides."""

COMPILER_MEGABYTES = 1_000, 400
"""The same of its memory."""


class CFormat(Format):
    """A folder of C: header, source, example, Makefile, README and the provenance as JSON."""

    name = "c"
    suffix = ".c"
    precisions: tuple[Precision, ...] = ("int8",)
    extra = ""
    export_extra = "train"
    runners: tuple[str, ...] = ()
    writers: tuple[str, ...] = ("torch",)
    executes = True

    def __init__(self, device: Device = ANY_DEVICE) -> None:
        self._device = device

    def for_device(self, device: Device) -> CFormat:
        """See ForDevice."""
        return CFormat(device)

    def export(
        self, network: MobileNetV1, path: Path, provenance: Provenance, quantization: Quantization | None
    ) -> None:
        """See Format.export. Writes a folder."""
        from mnv1deploy.c import generate

        assert quantization, "C is int8 only"
        generate.write(path, quantization, provenance, self._device)

    def providers(self) -> tuple[str, ...]:
        """The CPU, where there is a C compiler."""
        return (CPU,) if compiler() else ()

    def provenance(self, path: Path) -> Provenance:
        """Read from the folder. Raises MnvError if it is not one that :meth:`export` wrote."""
        return provenance_in(path, "of C")

    def open(self, path: Path, *, provider: str, threads: int | None) -> CSession:
        """See Format.open. Compiles the folder unless that was done before."""
        if provider != CPU:
            raise refuse_provider(provider, self.providers(), self.name)
        return CSession(path, self.provenance(path), threads)


class CSession(CpuSession):
    """The compiled network. Threads share a batch by pictures, and a large picture by rows.

    Attributes:
        provenance: read from the folder.
        backends: the instruction sets that are there, of BACKENDS.
        backend: the one in use: the last, unless BACKEND_VARIABLE names another.
    """

    concurrent = True
    forks = True

    def __init__(self, path: Path, provenance: Provenance, threads: int | None) -> None:
        self.provenance = provenance
        name = identifier(provenance.spec.name)
        library = _load(_compiled(path, name))
        _check(library, name, path, provenance)
        has = getattr(library, f"{name}_has")
        self.backends = [backend for number, backend in enumerate(BACKENDS) if has(number)]
        self.backend = os.environ.get(BACKEND_VARIABLE) or self.backends[-1]
        if self.backend not in self.backends:
            there = ", ".join(self.backends)
            raise MnvError(f"There is no instruction set {self.backend} here.", f"{BACKEND_VARIABLE} can be {there}.")
        self._run = library.session_run
        self._run.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
        self._run_parallel = library.session_run_parallel
        self._run_parallel.argtypes = (ctypes.c_int, *[ctypes.c_void_p] * 3, ctypes.c_int)
        self._number = BACKENDS.index(self.backend)
        self._classes = len(provenance.spec.classes)
        self._threads = threads or processors()
        self._pool = ThreadPoolExecutor(self._threads - 1) if self._threads > 1 else None
        large = self._pool is not None and cost(provenance.spec).multiply_adds >= LEAST_TO_SHARE
        self._parallel_scratch = library.session_parallel_scratch(self._threads) if large else 0
        self._of_thread = threading.local()

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
        if self._pool is None or (len(images) == 1 and not self._parallel_scratch):
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
        if count == 1 and self._parallel_scratch:
            self._run_parallel(self._number, source, target, self._scratch(), self._threads)
            return
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

    def _scratch(self) -> int:
        """The address of the calling thread's own buffer for one picture on several threads."""
        if not hasattr(self._of_thread, "scratch"):
            self._of_thread.scratch = np.empty(self._parallel_scratch, np.uint8)
        return _address(self._of_thread.scratch)


def scratch(path: Path) -> int:
    """Bytes of the RAM that an exported folder plans with, as its header says. Raises MnvError if it does not."""
    name = identifier(provenance_in(path, "of C").spec.name)
    header = path / f"{name}.h"
    try:
        found = re.search(rf"^#define {name.upper()}_SCRATCH (\d+) ", header.read_text("utf-8"), re.MULTILINE)
    except (OSError, UnicodeDecodeError) as error:
        raise _incomplete(path, error) from error
    if not found:
        raise _incomplete(path, f"{header.name} says nothing of the scratch")
    return int(found[1])


def _incomplete(path: Path, reason: object) -> MnvError:
    return MnvError(f"{path} is not complete: {reason}.", "Export the checkpoint again.")


def _address(array: NDArray[Any]) -> int:
    """Of its first element; quicker than array.ctypes."""
    address: int = array.__array_interface__["data"][0]
    return address


def compiler() -> tuple[str, ...] | None:
    """The C compiler's command: what $CC holds, read as a shell does, else the first of COMPILERS, else ZIG.

    None if nothing is there. On Windows it is never ZIG, since templates/session.c does not know its threads.
    """
    try:
        commands = [shlex.split(os.environ["CC"])] if os.environ.get("CC") else [[name] for name in COMPILERS]
    except ValueError:  # a quotation without an end
        return None
    found = ((shutil.which(program), rest) for program, *rest in filter(None, commands))
    command = next(((path, *rest) for path, rest in found if path), None)
    if not command and not os.environ.get("CC") and os.name == "posix" and is_installed("ziglang"):
        return ZIG
    return command


def _compiled(path: Path, name: str) -> Path:
    """The shared library of a folder, from the cache if the same source was compiled by the same compiler before.

    A library's name ends with the hash of what it holds: one that is damaged is compiled anew.
    """
    command = compiler()
    if not command:
        named = os.environ.get("CC")
        raise MnvError(
            "Running a network in C from Python takes a C compiler, and there is none here.",
            f"CC names it, and holds {named}, which cannot be run."
            if named
            else "Install gcc or clang: apt install gcc, dnf install gcc, or xcode-select --install on a Mac. "
            f"Or a compiler for Python. {install_hint('c')}",
        )
    try:
        contents = [(path / file).read_bytes() for file in (f"{name}.h", f"{name}.c")]
        blob = path / f"{name}.bin"
        contents += [blob.read_bytes()] if blob.exists() else []
    except OSError as error:
        raise _incomplete(path, error) from error
    session = Template((TEMPLATES / "session.c").read_text("utf-8")).substitute(name=name, NAME=name.upper())
    command = (*command, *(flag for flag in FLAGS if command != ZIG or flag != TUNED))
    # its version, and what it compiles for, which with -mcpu=native is this machine alone
    _, macros, _ = _limited([*command, "-dM", "-E", "-xc", os.devnull], 0)
    parts = [*contents, session.encode(), macros.encode(), *map(os.fsencode, command)]
    digest = sha256(b"\0".join(parts)).hexdigest()
    folder = _cache()
    for library in folder.glob(f"{digest}.*.so"):
        if library.is_file() and library.name == f"{digest}.{_sha256(library)}.so":
            return library
        shutil.rmtree(library) if library.is_dir() else library.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix=".compiling-", dir=folder) as temporary:
        source, built = Path(temporary, "session.c"), Path(temporary, "network.so")
        source.write_text(session, "utf-8")
        arguments = [*command, f"-I{path}", str(path / f"{name}.c"), str(source), "-o", str(built)]
        status, _, errors = _limited(arguments, sum(map(len, contents)))
        if status:
            reason = next((line for line in errors.splitlines() if "error" in line), errors.strip())
            raise MnvError(f"{shlex.join(command)} cannot compile {path}: {reason}")
        return built.replace(folder / f"{digest}.{_sha256(built)}.so")


def _cache() -> Path:
    """The folder of compiled libraries, which nobody else may write to."""
    folder = cache_folder() / "c"
    try:
        for part in (*reversed(folder.parents), folder):
            if not part.exists():
                part.mkdir(mode=0o700, exist_ok=True)
        if os.name == "posix":
            for part in (folder.parent, folder):
                found = part.lstat()
                if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
                    raise MnvError(
                        f"{part} is not a folder that you alone may write to, and libraries from it would be run.",
                        "Remove it, or set XDG_CACHE_HOME to a folder of your own.",
                    )
            folder.chmod(0o700)
    except OSError as error:
        raise MnvError(
            f"Compiled networks are kept in {folder}, which cannot be written: {error.strerror}.",
            "Set XDG_CACHE_HOME to a folder of your own.",
        ) from error
    return folder


def _sha256(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def _limited(command: Sequence[str], source_bytes: int) -> tuple[int, str, str]:
    """Runs a compiler within COMPILER_SECONDS and COMPILER_MEGABYTES: its status, output and errors."""
    seconds, megabytes = (
        least + each * source_bytes // 10**6 for least, each in (COMPILER_SECONDS, COMPILER_MEGABYTES)
    )
    if os.name == "posix":  # not every system has every limit
        limits = f'ulimit -v {megabytes * 1000} 2>/dev/null; ulimit -t {seconds} 2>/dev/null; exec "$@"'
        command = ["/bin/sh", "-c", limits, "sh", *command]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={"ZIG_GLOBAL_CACHE_DIR": str(cache_folder() / "zig"), **os.environ, "LC_ALL": "C"},
        start_new_session=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=2 * seconds)
        except subprocess.TimeoutExpired:
            # the driver's own processes, too
            os.killpg(process.pid, signal.SIGKILL) if os.name == "posix" else process.kill()
            process.communicate()
            return 1, "", f"error: it took longer than {2 * seconds} seconds"
        return process.returncode, output, errors


def _load(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise MnvError(
            f"The compiled network cannot be loaded: {error}.",
            "Is XDG_CACHE_HOME on a disk that programs may run from?",
        ) from error


def _check(library: ctypes.CDLL, name: str, path: Path, provenance: Provenance) -> None:
    """Raises MnvError unless the code is of the network that the provenance describes, by which buffers are made."""
    spec = provenance.spec
    expected = (spec.input_size, spec.colours, len(spec.classes), len(BACKENDS))
    found = tuple((ctypes.c_int * len(expected)).in_dll(library, "session_shape"))
    agree = found == expected
    if agree:
        names = (ctypes.c_char_p * len(spec.classes)).in_dll(library, f"{name}_classes")
        agree = [text.encode() for text in spec.classes] == list(names)
    if not agree:
        raise MnvError(
            f"{path} holds another network than its {PROVENANCE} says: size, colours, classes or their names differ.",
            "Export the checkpoint again.",
        )
