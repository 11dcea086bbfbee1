"""What is installed, what of it works, and what is known not to go together: for a bug report.

Every engine is tried in a process of its own, which opens and runs the smallest artifact there is for it: one that
crashes, hangs or prints is a line and not the end.
"""

from __future__ import annotations

import importlib.metadata as metadata
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mnv1deploy import benchmark, bundled, datasets, formats
from mnv1deploy.artifact import Manifest, Provenance, hashes
from mnv1deploy.errors import MnvError
from mnv1deploy.files import cache_folder
from mnv1deploy.formats.base import Format, Images, Logits, missing_to_export
from mnv1deploy.formats.c import compiler
from mnv1deploy.machine import processors
from mnv1deploy.packages import install_hint, is_installed, missing, versions
from mnv1deploy.spec import CIFAR, Block

if TYPE_CHECKING:
    from packaging.requirements import Requirement

SECONDS = 240.0
"""What an engine may take to be imported, to write the smallest artifact and to run it."""

SMALLEST = CIFAR.replace(name="smallest", input_size=8, stem=Block(16, 1), blocks=(Block(16, 2),))
"""The network of the artifacts that are written to try an engine."""

PICTURES = 64
BUNDLED_TOP1 = 0.8
"""What the bundled network reaches on so many pictures of the bundled sample, in an engine that computes rightly."""

VARIABLES = ("CC", "CFLAGS", "CUDA_VISIBLE_DEVICES", "LD_PRELOAD", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
PREFIXES = ("MNV1_", "OMP_", "KMP_", "MKL_")
"""Of environment variables that change what engines do."""

Status = Literal["works", "broken", "not tried", "not installed", "elsewhere"]


@dataclass(frozen=True)
class Engine:
    """How a format fares on this machine.

    Attributes:
        format: its name.
        status: "works" if an artifact was opened, run and right; "broken" if what is installed did not do that; "not
            tried" where there is nothing to try it with; "not installed"; "elsewhere" if no machine like this runs it.
        versions: of the packages that run it.
        providers: what it can run on.
        detail: what was tried, or why not, or what to do.
        seconds: what that took.
    """

    format: str
    status: Status
    versions: dict[str, str]
    providers: tuple[str, ...] = ()
    detail: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Doubt:
    """Versions that do not go together.

    Attributes:
        what: a sentence.
        source: where that is known from.
    """

    what: str
    source: str


@dataclass(frozen=True)
class Report:
    """What the doctor found.

    Attributes:
        machine: facts by name, in words.
        engines: of every format.
        doubts: see Doubt.
    """

    machine: dict[str, str]
    engines: tuple[Engine, ...]
    doubts: tuple[Doubt, ...]

    @property
    def is_well(self) -> bool:
        """Whether nothing that is installed is broken."""
        return not any(engine.status == "broken" for engine in self.engines)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "is_well": self.is_well}


def examine(names: Sequence[str] = formats.NAMES, on_engine: Callable[[str], None] = lambda name: None) -> Report:
    """Looks at the machine, and tries the engines of all formats or of some.

    Args:
        names: of the formats.
        on_engine: called with the name of each format that is done.
    """
    with ThreadPoolExecutor(processors()) as pool:

        def tried(name: str) -> Engine:
            found = _engine(name)
            on_engine(name)
            return found

        engines = tuple(pool.map(tried, names))
    return Report(machine(), engines, tuple(doubts()))


# ---- Engines


def _engine(name: str, seconds: float = SECONDS) -> Engine:
    entry = formats.get(name)
    found = {package: version for package, version in versions(*entry.runners).items() if package != "mnv1deploy"}
    if entry.elsewhere:
        return Engine(name, "elsewhere", found, detail=entry.elsewhere)
    if lacking := missing(entry.runners):
        return Engine(name, "not installed", found, detail=f"{', '.join(lacking)}: {install_hint(entry.extra)}")
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mnv1-doctor-") as folder:
        answer = _in_a_process([sys.executable, "-m", "mnv1deploy.doctor", name, folder], Path(folder), seconds)
    facts = {**answer, "providers": tuple(answer.get("providers", ())), "detail": _shareable(answer["detail"])}
    return Engine(name, versions=found, seconds=round(time.monotonic() - start, 1), **facts)


ANSWER = "answer.json"


def _in_a_process(command: Sequence[str], folder: Path, seconds: float) -> dict[str, Any]:
    """What a process writes to ANSWER in the folder; what became of it, if it does not."""
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}  # what engines warn of says nothing here
    with subprocess.Popen(command, **options, env=environment, start_new_session=True) as process:
        try:
            _, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL) if os.name == "posix" else process.kill()
            process.communicate()
            return {"status": "broken", "detail": f"It had not ended after {seconds:g} seconds."}
    answer = folder / ANSWER
    if process.returncode == 0 and answer.exists():
        told: dict[str, Any] = json.loads(answer.read_text("utf-8"))
        return told
    return {"status": "broken", "detail": f"Its process {_fate(process.returncode)}{_last_words(errors)}."}


def _fate(status: int) -> str:
    """How a process ended, in words."""
    if status < 0:
        try:
            return f"died of {signal.Signals(-status).name}"
        except ValueError:
            return f"died of signal {-status}"
    return f"ended with exit code {status}"


def _last_words(errors: bytes) -> str:
    lines = [line for line in errors.decode("utf-8", "replace").splitlines() if line.strip()]
    return f", saying: {lines[-1].strip().rstrip('.')[:200]}" if lines else ""


def _try(name: str, folder: Path) -> dict[str, Any]:
    """What an engine's own process finds: the fields of Engine."""
    entry = formats.get(name)
    providers: list[str] = []
    try:
        providers = list(entry.providers())
        if not providers:
            return _not_here(entry)
        if name == "onnx":
            detail = _run_bundled(bundled.INT8)
        elif name == "pytorch":
            detail = _run_bundled(bundled.CHECKPOINT)
        elif lacking := missing_to_export(entry):
            hint = install_hint(entry.export_extra)
            return {
                "status": "not tried",
                "providers": providers,
                "detail": f"It can be imported; to write something to run takes {', '.join(lacking)}. {hint}",
            }
        else:
            detail = _write_and_run(entry, folder)
    except MnvError as error:
        return {"status": "broken", "providers": providers, "detail": str(error)}
    except Exception as error:
        reason = f"{type(error).__name__}: {MnvError.reason(error)}."
        return {"status": "broken", "providers": providers, "detail": reason}
    return {"status": "works", "providers": providers, "detail": detail}


def _not_here(entry: Format) -> dict[str, Any]:
    """Of an engine that offers nothing to run on."""
    if entry.name == "c":
        return {"status": "not installed", "detail": "There is no C compiler: install gcc or clang, or the extra c."}
    return {"status": "broken", "detail": f"{', '.join(entry.runners)} is installed and cannot be imported."}


def _run_bundled(path: Path) -> str:
    """Runs a shipped file on labelled pictures. Raises MnvError if its answers are not what they should be."""
    data = datasets.sample()
    images, labels = data.images[:PICTURES], data.labels[:PICTURES]
    top1 = float((formats.open_session(path, threads=1)(images).argmax(1) == labels).mean())
    if top1 < BUNDLED_TOP1:
        raise MnvError(f"{path.name} is right in {top1:.0%} of {len(images)} pictures, and should be in more.")
    return f"{path.name}: {top1:.0%} of {len(images)} pictures right"


def _write_and_run(entry: Format, folder: Path) -> str:
    """Writes the smallest artifact and runs it. Raises MnvError if its logits are not PyTorch's."""
    import torch

    from mnv1deploy import quantization, verification
    from mnv1deploy.formats.torch_session import TorchSession
    from mnv1deploy.network import MobileNetV1

    precision = "fp32" if "fp32" in entry.precisions else entry.precisions[0]
    images = datasets.resized(datasets.calibration(), SMALLEST.pixels).images[:PICTURES]
    torch.manual_seed(0)
    network = MobileNetV1(SMALLEST).eval()
    integers = quantization.quantize(network.folded(), images, "doctor") if precision == "int8" else None
    path = folder / f"{SMALLEST.name}_{precision}{entry.suffix}"
    facts = integers.facts if integers else None
    provenance = Provenance(entry.name, precision, SMALLEST, "", (), facts, versions(*entry.writers))
    entry.export(integers.network if integers else network.folded(), path, provenance, integers)
    files = {file: facts for file, facts in hashes(folder).items() if file != ANSWER}
    Manifest(provenance, files, None).write(path)
    found = formats.open_session(path, threads=1)(images)
    expected = TorchSession(network, SMALLEST, "cpu", 1)(images)
    noise = _noise(found, expected, images)
    if noise > verification.LIMITS[precision].bundled_noise:
        raise MnvError(f"{path.name} gives other logits than PyTorch: they differ by {noise:.1%}.")
    return f"written and run in {precision}, logits within {noise:.1%} of PyTorch's"


def _noise(found: Logits, expected: Logits, images: Images) -> float:
    """See :func:`mnv1deploy.verification.logit_noise`; infinite if there are none or not as many."""
    from mnv1deploy.verification import logit_noise

    if found.shape != (len(images), len(SMALLEST.classes)) or not np.isfinite(found).all():
        return float("inf")
    return float(logit_noise(found, expected))


# ---- The machine


def machine() -> dict[str, str]:
    """Facts in words, by name; no name of a user or a machine, and no path."""
    facts = benchmark.machine()
    cores = f"{facts['cores']} of {os.cpu_count()} processors" if facts["cores"] != os.cpu_count() else None
    sets = ", ".join(facts["instructions"])
    found = {
        "mnv1deploy": facts["versions"].get("mnv1deploy", "not installed, only found by Python"),
        "Python": f"{platform.python_implementation()} {facts['python']}, {8 * _pointer_bytes()} bits, {_kind()}",
        "system": platform.platform(),
        "processor": f"{facts['cpu']}, {cores or str(facts['cores']) + ' processors'}" + (f" ({sets})" if sets else ""),
        "memory": _memory(),
        "GPU": _gpu(),
        "C compiler": _compiler(),
        "packages": ", ".join(f"{name} {version}" for name, version in _packages().items()) or "none",
        "variables": ", ".join(f"{name}={value}" for name, value in _variables()) or "none",
        "cache": _cache(),
    }
    return {name: _shareable(text) for name, text in found.items()}


def _pointer_bytes() -> int:
    import struct

    return struct.calcsize("P")


def _kind() -> str:
    """What sort of an installation Python's is."""
    if (Path(sys.prefix) / "conda-meta").exists():
        return "conda"
    return "virtual environment" if sys.prefix != sys.base_prefix else "no virtual environment"


def _memory() -> str:
    facts = Path("/proc/meminfo")
    if facts.exists():
        lines = dict(re.findall(r"^(\w+): +(\d+) kB$", facts.read_text(), re.MULTILINE))
        text = f"{int(lines['MemTotal']) / 2**20:.1f} GiB, {int(lines.get('MemAvailable', 0)) / 2**20:.1f} free"
        limit = Path("/sys/fs/cgroup/memory.max")
        if limit.exists() and (number := limit.read_text().strip()).isdigit():
            text += f", of which this process may have {int(number) / 2**30:.1f}"
        return text
    try:
        return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB"
    except (AttributeError, ValueError, OSError):
        return "unknown"


def _gpu() -> str:
    """What NVIDIA's driver says; of others their engines' providers tell."""
    if not shutil.which("nvidia-smi"):
        return "none of NVIDIA's (there is no nvidia-smi)"
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    return _first_line(query) or "nvidia-smi is there and says nothing"


def _compiler() -> str:
    command = compiler()
    if not command:
        return "none"
    return f"{' '.join([Path(command[0]).name, *command[1:]])}: {_first_line([*command, '--version'])}"


def _first_line(command: Sequence[str]) -> str:
    """Of what a command prints; what became of it, if it prints nothing."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"it cannot be run ({type(error).__name__})"
    return next(iter((done.stdout or done.stderr).strip().splitlines()), "")


def _packages() -> dict[str, str]:
    """All packages that write or run formats, and what the base and the extras of users need, where installed."""
    entries = [formats.get(name) for name in formats.NAMES]
    named = [package for entry in entries for package in (*entry.runners, *entry.writers)]
    own = [requirement.name for requirement, extra in _requirements() if extra != "dev"]
    others = ("onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-ep-openvino")
    found = versions(*{name.lower(): name for name in (*own, *named, *others)}.values())  # metadata may have MNN as mnn
    return {name: version for name, version in found.items() if name != "mnv1deploy"}


def _variables() -> Iterator[tuple[str, str]]:
    for name in sorted(os.environ):
        if name in VARIABLES or name.startswith(PREFIXES):
            value = os.environ[name]
            yield name, "a path" if re.search(r"[/\\]", value) else value


def _cache() -> str:
    folder = cache_folder()
    while not folder.exists():
        folder = folder.parent
    writable = "can" if os.access(folder, os.W_OK) else "cannot"
    return f"{writable} be written, {shutil.disk_usage(folder).free / 2**30:.1f} GiB free"


def _shareable(text: str) -> str:
    """Without the user's folder or name."""
    home = str(Path.home())
    return text.replace(home, "~") if len(home) > 1 else text


# ---- Versions that do not go together


def doubts() -> Iterator[Doubt]:
    """What installed versions contradict: their own requirements, ours, and what is known of them."""
    yield from _overwritten()
    yield from _unmet()
    telemetry = versions("onnxruntime").get("onnxruntime")
    if telemetry and _numbers(telemetry) >= (1, 29) and os.environ.get("ORT_DISABLE_TELEMETRY") in ("", "0"):
        yield Doubt(
            f"onnxruntime {telemetry} reports its use to its makers, by a thread that forked children wait for when "
            "they end; ORT_DISABLE_TELEMETRY=1 switches that off.",
            "mnv1deploy/packages.py: seen with onnxruntime 1.29 and later",
        )


def _overwritten() -> Iterator[Doubt]:
    """Distributions that hold the same module: the last to be installed has overwritten files of the other."""
    entries = [formats.get(name) for name in formats.NAMES]
    modules = dict.fromkeys(
        package.replace("-", "_") for entry in entries for package in (*entry.runners, *entry.writers)
    )
    holders = metadata.packages_distributions()
    for module in modules:
        found = sorted(set(holders.get(module, [])))
        if len(found) > 1:
            yield Doubt(
                f"{' and '.join(found)} are both installed and both hold the module {module}: one has overwritten "
                f"files of the other. Uninstall all of them, then install one.",
                "what they say of their files",
            )


def _unmet() -> Iterator[Doubt]:
    """Requirements of ours, and of the packages that formats need, that what is installed does not meet."""
    if not is_installed("packaging"):
        return
    for requirement, extra in _requirements():
        yield from _contradicted(requirement, f"mnv1deploy[{extra}]" if extra else "mnv1deploy")
    for package in _packages():
        for requirement in _parsed(metadata.requires(package) or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                yield from _contradicted(requirement, package)


def _requirements() -> Iterator[tuple[Requirement, str]]:
    """Ours for this system, each with the extra that it is of."""
    try:
        own = metadata.metadata("mnv1deploy")
        texts = metadata.requires("mnv1deploy") or []
    except metadata.PackageNotFoundError:
        return
    if not is_installed("packaging"):
        return
    for requirement in _parsed(texts):
        for extra in ("", *(own.get_all("Provides-Extra") or [])):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                yield requirement, extra
                break


def _parsed(texts: Sequence[str]) -> list[Requirement]:
    from packaging.requirements import Requirement

    return [Requirement(text) for text in texts]


def _contradicted(requirement: Requirement, whose: str) -> Iterator[Doubt]:
    there = versions(requirement.name).get(requirement.name)
    if requirement.name != "mnv1deploy" and there and not requirement.specifier.contains(there, prereleases=True):
        yield Doubt(
            f"{whose} needs {requirement.name} {requirement.specifier}, and {there} is installed.",
            f"the requirements of {whose.partition('[')[0]}",
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


if __name__ == "__main__":
    _, its_name, its_folder = sys.argv
    Path(its_folder, ANSWER).write_text(json.dumps(_try(its_name, Path(its_folder))), "utf-8")
