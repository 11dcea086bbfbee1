"""What is installed, how to get what is not, and silence around packages that talk to the terminal."""

from __future__ import annotations

import ctypes
import importlib
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from types import ModuleType

from mnv1deploy.errors import MnvError


def engine(module: str, extra: str) -> ModuleType:
    """Imports the package a format needs. Raises MnvError naming the extra that brings it."""
    # from 1.29 on onnxruntime reports its use to its makers, by a thread that forked children wait for when they exit
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MnvError(
            f"This needs {module.partition('.')[0]}, which is not installed ({error}).", install_hint(extra)
        ) from error


def install_hint(extra: str) -> str:
    """The sentence that says how to get what an extra brings."""
    return f"Install it with: pip install 'mnv1deploy[{extra}]'"


def is_installed(package: str) -> bool:
    """Whether the module of that name can be imported, whichever distribution brings it."""
    from importlib.util import find_spec

    return find_spec(package.replace("-", "_")) is not None


def missing(packages: Iterable[str]) -> list[str]:
    """Those of the packages that are not installed."""
    return [package for package in packages if not is_installed(package)]


def versions(*packages: str) -> dict[str, str]:
    """Versions of mnv1deploy and of those of ``packages`` that are installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in ("mnv1deploy", *packages):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


_silence = threading.RLock()
"""One at a time: what is silenced belongs to the whole process. A fork waits, so that no child starts silenced."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_silence.acquire, after_in_parent=_silence.release, after_in_child=_silence.release)


@contextmanager
def silenced(to: int | None = None, *, prints: bool = True) -> Iterator[None]:
    """Keeps what a package says of itself off the terminal and out of standard output; errors are raised all the same.

    That is its warnings, its log up to warnings and, of native code too, what it prints. All of it is the process's:
    whatever other threads print meanwhile is lost, so nothing long belongs in here.

    Args:
        to: the open file to which prints go, its descriptor; by default nowhere.
        prints: False for packages that only warn and log: then both streams are left alone.
    """
    with _silence, warnings.catch_warnings(), ExitStack() as stack:
        warnings.simplefilter("ignore")
        stack.callback(logging.disable, logging.root.manager.disable)
        logging.disable(max(logging.WARNING, logging.root.manager.disable))
        if prints:
            stack.enter_context(_printing_to(to))
        yield


@contextmanager
def _printing_to(descriptor: int | None) -> Iterator[None]:
    """Both standard streams, Python's and the process's, lead to ``descriptor`` or nowhere."""
    flush_c = ctypes.CDLL("msvcrt" if os.name == "nt" else None).fflush
    streams = [stream for stream in (1, 2) if _is_open(stream)]
    sink: str | int = os.devnull if descriptor is None else descriptor
    with open(sink, "w", encoding="utf-8", closefd=descriptor is None) as target:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # None in a program without a console
                stream.flush()
        flush_c(None)
        saved = [os.dup(stream) for stream in streams]
        for stream in streams:
            os.dup2(target.fileno(), stream)
        try:
            with redirect_stdout(target), redirect_stderr(target):
                yield
        finally:
            flush_c(None)
            for stream, original in zip(streams, saved, strict=True):
                os.dup2(original, stream)
                os.close(original)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
