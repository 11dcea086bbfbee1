"""The edge formats, one module each. Adding one is adding its module and its line here."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from mnv1deploy.artifact import Manifest, Precision, manifest_path
from mnv1deploy.errors import MnvError
from mnv1deploy.formats.base import CPU, PROVIDER_PACKAGES, Format, Session, missing_to_export, resolve_provider
from mnv1deploy.formats.shared import SharedSession
from mnv1deploy.machine import check_threads

_FORMATS = {
    "onnx": ("OnnxFormat", ".onnx"),
    "torchscript": ("TorchScriptFormat", ".pt"),
    "c": ("CFormat", ".c"),
    "web": ("WebFormat", ".web"),
    "openvino": ("OpenVinoFormat", ".xml"),
    "litert": ("LiteRTFormat", ".tflite"),
    "tflm": ("TFLMFormat", ".tflm.tflite"),
    "executorch": ("ExecuTorchFormat", ".pte"),
    "ncnn": ("NcnnFormat", ".ncnn.param"),
    "mnn": ("MnnFormat", ".mnn"),
    "aoti": ("AOTIFormat", ".pt2"),
    "tensorrt": ("TensorRtFormat", ".trt.onnx"),
    "triton": ("TritonFormat", ".triton"),
    "coreml": ("CoreMlFormat", ".mlpackage"),
    "pytorch": ("PyTorchFormat", ".safetensors"),
}
"""The class of a format in the module of its name, and its suffix, for which no module has to be loaded."""

_ALIASES = {
    "litert": ("tensorflowlite", "lite"),
    "tflm": ("tflitemicro", "litertmicro"),
    "executorch": ("et",),
    "torchscript": ("jit", "ts"),
    "aoti": ("aotinductor",),
    "openvino": ("ov",),
    "ncnn": ("param",),
    "tensorrt": ("trt",),
    "web": ("wasm", "webassembly", "browser", "npm"),
}
"""What people call formats besides; suffixes are understood too."""

WEIGHTS = (".pth", ".ckpt", ".bin", ".pkl", ".h5", ".keras", ".npz")
"""Suffixes of files that others keep weights in."""

NAMES = tuple(_FORMATS)


_PRECISIONS: dict[str, Precision] = {
    **dict.fromkeys(("none", "fp32", "float32", "float"), "fp32"),
    **dict.fromkeys(("fp16", "float16", "half"), "fp16"),
    "int8": "int8",
}


def precision(text: str) -> Precision:
    """The precision somebody means by ``text``. Raises MnvError if there is none."""
    if text.lower() not in _PRECISIONS:
        raise MnvError(f"There is no precision called {text}.", "There are none (which is fp32), fp16 and int8.")
    return _PRECISIONS[text.lower()]


def named(text: str) -> str:
    """The name of the format somebody means: by name in any case, by suffix, or "all". Raises MnvError if none."""
    plain = text.lower().replace("-", "").replace("_", "").lstrip(".")
    by_suffix = {suffix.lstrip("."): name for name, (_, suffix) in _FORMATS.items()}
    aliases = {**{alias: name for name, found in _ALIASES.items() for alias in found}, **by_suffix}
    if plain == "all" or plain in exportable():
        return plain
    return get(aliases.get(plain, text)).name


def get(name: str) -> Format:
    """The format called ``name``. Raises MnvError if there is none."""
    if name not in _FORMATS:
        raise MnvError(f"There is no format called {name}.", f"There are {', '.join(exportable())}.")
    format_: Format = getattr(import_module(f"mnv1deploy.formats.{name}"), _FORMATS[name][0])()
    return format_


def exportable() -> list[str]:
    """Names of the formats that can be exported to."""
    return [name for name in NAMES if get(name).precisions]


def present(precision: Precision) -> list[str]:
    """Names of the formats that can be exported in ``precision`` with what is installed."""
    lacking = absent()
    return [name for name in exportable() if precision in get(name).precisions and name not in lacking]


def absent() -> dict[str, str]:
    """Names of the formats for whose export packages are missing, and the pip extra that brings those."""
    entries = [get(name) for name in exportable()]
    return {entry.name: entry.export_extra for entry in entries if missing_to_export(entry)}


def of_file(path: Path) -> Format:
    """The format of an artifact or checkpoint, by its suffix.

    Raises:
        MnvError: if it is not there or of no known format.
    """
    if not path.exists():
        raise MnvError(f"There is no file {path}.", "mnv1 export makes one.")
    if not path.is_file() and not path.is_dir():  # a pipe or a device has no end
        raise MnvError(f"{path} is no regular file.", "mnv1 export makes one.")
    known = {suffix: name for name, (_, suffix) in _FORMATS.items()}
    for suffix in sorted(known, key=len, reverse=True):  # the longest that fits: one may end like another
        if path.name.endswith(suffix):
            return get(known[suffix])
    if path.is_dir():
        raise MnvError(
            f"{path} is a folder, and no artifact.", f"Name one in it; for all of them: mnv1 bench --all {path}"
        )
    weights = any(part in WEIGHTS for part in path.suffixes)
    remedy = f"If it has weights that were trained elsewhere, bring them in with: mnv1 import {path}" if weights else ""
    raise MnvError(f"{path} is of no known format; known are {', '.join(known)}.", remedy)


def notes(path: str | Path) -> tuple[str, ...]:
    """What to know of an artifact or checkpoint before it is opened: whole sentences. Nothing of it is run.

    Raises:
        MnvError: as :func:`of_file`.
    """
    path = Path(path)
    format_, found = of_file(path), []
    if format_.executes:
        found.append(f"{path} is code that runs as you when it is opened: open none whose origin you do not trust.")
    if format_.precisions and not manifest_path(path).exists():
        found.append(f"{path} has no manifest {manifest_path(path).name} beside it, so it is not proved.")
    return tuple(found)


def open_session(path: str | Path, *, provider: str = CPU, threads: int | None = None) -> SharedSession:
    """Opens any artifact or checkpoint on a provider, for any number of threads.

    Opening executes code that is in the file, where the format's ``executes`` says so; ``notes`` of the session, and
    :func:`notes` before it is opened, say that, too.

    Raises:
        MnvError: if it is not there, damaged, not the file its manifest proves, or the provider is not there.
    """
    path, provider = Path(path), resolve_provider(provider)
    check_threads(threads)
    format_ = of_file(path)
    manifest = Manifest.read(path)
    if manifest is None and not format_.checks:
        _rehearse(path)
    return _session(path, format_, manifest, provider, threads)


def _session(
    path: Path, format_: Format, manifest: Manifest | None, provider: str, threads: int | None
) -> SharedSession:
    if manifest and manifest.provenance.format != format_.name:
        raise MnvError(
            f"{path} is named like {format_.name}, but its manifest is that of {manifest.provenance.format}.",
            f"Give it a name that ends in {get(manifest.provenance.format).suffix}, as it was exported.",
        )

    def open_engine() -> Session:
        session = format_.open(path, provider=provider, threads=threads)
        if manifest and session.spec != manifest.provenance.spec:
            raise MnvError(
                f"{path} describes another network than its manifest {manifest_path(path).name} does.",
                "The manifest was changed; export the artifact again.",
            )
        return session

    return SharedSession(path, provider, threads, open_engine, notes(path))


REHEARSAL_BYTES = 4 << 30
"""The memory that a rehearsal may have: a hundred times what any of our networks takes."""


_REFUSED = 3
"""How a rehearsal ends that has a sentence to say."""


def _rehearse(path: Path) -> None:
    """Opens a file that nothing proves in a process of its own, which dies of it in place of this one.

    Raises:
        MnvError: if it could not be opened there, whatever became of the process.
    """
    import subprocess

    command = [sys.executable, "-c", "import sys; from mnv1deploy import formats; formats.rehearse(sys.argv[1])"]
    try:
        done = subprocess.run([*command, str(path)], capture_output=True, timeout=120)
    except subprocess.TimeoutExpired:
        fate = "did not end"
    else:
        if done.returncode == 0:
            return
        if done.returncode == _REFUSED:
            raise MnvError(*json.loads(done.stdout.splitlines()[-1]))
        fate = f"died (exit code {done.returncode})"
    raise MnvError(
        f"{path} cannot be run: it has no manifest, and a process that tried it {fate}.",
        "It is damaged; copy it again together with its manifest, or export it again.",
    )


def rehearse(path: str) -> None:
    """What a process that tries a file does: opens it, which looks at one picture, in a limited memory."""
    try:
        import resource
    except ImportError:  # Windows has no such limits
        pass
    else:
        resource.setrlimit(resource.RLIMIT_AS, (REHEARSAL_BYTES, REHEARSAL_BYTES))
    try:
        _session(Path(path), of_file(Path(path)), None, CPU, 1)
    except MnvError as error:
        sys.stdout.write(json.dumps([error.message, error.hint]) + "\n")
        sys.exit(_REFUSED)


def reopen(path: Path, provider: str, threads: int | None) -> SharedSession:
    """The session that was pickled."""
    return open_session(path, provider=provider, threads=threads)


def missing_providers(available: Sequence[str]) -> dict[str, str]:
    """Providers that onnxruntime knows and that are not ``available``, with the package that brings each."""
    return {name: package for name, package in PROVIDER_PACKAGES.items() if name not in available}
