"""Standard output and standard error: the one place that writes to them.

What is written may have been named by others, so that a line never holds a control character, and may be more than
the encoding has letters for. Where standard output cannot be written, OutputError says so.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import shutil
import sys
import textwrap
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from mnv1deploy.errors import MnvError
from mnv1deploy.progress import OnProgress

if TYPE_CHECKING:
    from rich.progress import Progress

PIPE_WIDTH = 120
"""Columns where standard output is not a terminal."""

PATIENCE = 10.0
"""Seconds of work without a word where standard error is not a terminal."""

_HALVES = re.compile("[\ud800-\udfff]")
"""What Python reads bytes of a name that are no UTF-8 as; no encoding has them."""

_JOINERS = "\u200c\u200d"
"""Have no shape of their own, but Persian, Indic scripts and emoji are written with them."""


class OutputError(MnvError):
    """Standard output is full, closed, or nobody reads it any more; the message is empty for the last."""


class _StandardOutput(io.FileIO):
    """The process's standard output, whose failures are OutputErrors; after one it takes everything and drops it."""

    _failed = False

    def write(self, data: Any) -> int:
        """See FileIO."""
        if self._failed:
            return len(data)
        try:
            return super().write(data) or 0
        except OSError as error:
            self._failed = True  # what is flushed when the interpreter ends must not fail again
            raise _output_error(error) from error


class _StandardError(io.FileIO):
    """The process's standard error, which drops what cannot be written: there is nowhere left to say so."""

    def write(self, data: Any) -> int:
        """See FileIO."""
        try:
            return super().write(data) or 0
        except OSError:
            return len(data)


class _ClosedOutput(io.RawIOBase):
    """In place of a standard output that was closed before the program began."""

    _failed = False

    def writable(self) -> bool:
        """See RawIOBase."""
        return True

    def write(self, data: Any) -> int:
        """See RawIOBase."""
        if self._failed:
            return len(data)
        self._failed = True
        raise OutputError("Standard output cannot be written: it is closed.")


def _output_error(error: OSError) -> OutputError:
    if isinstance(error, BrokenPipeError):
        return OutputError("")  # whoever read it (head, a pager) has seen enough
    return OutputError(f"Standard output cannot be written: {error.strerror}.")


def prepare() -> None:
    """Makes both streams fit for anything: failures that are told apart, and a "?" for letters an encoding lacks."""
    out, err = sys.stdout, sys.stderr
    if isinstance(err, io.TextIOWrapper):
        if os.name == "nt" and err.isatty():
            err.reconfigure(errors="replace")
        else:
            raw_error = _StandardError(err.fileno(), "w", closefd=False)
            sys.stderr = io.TextIOWrapper(io.BufferedWriter(raw_error), err.encoding, "replace", line_buffering=True)
    if out is None:
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(_ClosedOutput()), "utf-8", "replace")
    elif isinstance(out, io.TextIOWrapper):
        if os.name == "nt" and out.isatty():
            out.reconfigure(errors="replace")  # Windows' console is written by calls of its own
            return
        raw = _StandardOutput(out.fileno(), "w", closefd=False)
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(raw), out.encoding, "replace", line_buffering=out.line_buffering
        )


def visible(text: object) -> str:
    """Text in one line, with everything that has no shape (line breaks, escape sequences, halves of letters) spelt."""
    text = str(text)
    return text if text.isprintable() else "".join(map(_spelt, text))


def _spelt(letter: str) -> str:
    from unicodedata import category

    if letter.isprintable() or letter in _JOINERS or category(letter) == "Zs":
        return letter
    return _HALVES.sub(_spelt_half, letter) if _HALVES.match(letter) else letter.encode("unicode_escape").decode()


def encodable(text: str) -> str:
    """Text of which every encoding of Unicode has all letters: bytes of a name that are no UTF-8 are spelt."""
    return text if text.isascii() else _HALVES.sub(_spelt_half, text)


def _spelt_half(found: re.Match[str]) -> str:
    """The byte of a file name that it stands for, else the half itself, as Python spells it."""
    code = ord(found[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def output_is_a_terminal() -> bool:
    """Whether a person looks at standard output."""
    return sys.stdout.isatty()


def columns_on_output() -> int:
    """Of the terminal, else PIPE_WIDTH."""
    return shutil.get_terminal_size().columns if output_is_a_terminal() else PIPE_WIDTH


def write(text: str) -> None:
    """Writes to standard output, at once. Raises OutputError where that cannot be."""
    sys.stdout.write(text)
    sys.stdout.flush()


def show_line(text: str) -> None:
    """A line on standard output."""
    write(f"{visible(text)}\n")


def show_error(message: str, hint: str = "") -> None:
    """A sentence, and what to do, on standard error."""
    show_notes([message])
    if hint:
        show_note(f"      {hint}")


def show_note(text: str) -> None:
    """A line on standard error, where there is one."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):  # there is nobody else to tell
            sys.stderr.write(f"{visible(text)}\n")
            sys.stderr.flush()


def show_notes(sentences: Iterable[str]) -> None:
    """A line each on standard error."""
    for sentence in sentences:
        show_note(f"mnv1: {sentence}")


def to_json(content: Any, *, indent: int | None = 2) -> str:
    """JSON that every reader takes: no halves of letters (bytes of a name that are no UTF-8), no NaN or infinity."""
    return json.dumps(_plain(content), indent=indent, allow_nan=False)


def _plain(content: Any) -> Any:
    if isinstance(content, str):
        return encodable(content)
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, dict):
        return {_plain(key): _plain(value) for key, value in content.items()}
    return [_plain(value) for value in content] if isinstance(content, (list, tuple)) else content


def show_json(content: Any) -> None:
    """One JSON document on standard output."""
    write(to_json(content) + "\n")


@contextmanager
def json_list() -> Iterator[Callable[[Any], None]]:
    """A JSON document that is one list, written as its elements come; it is closed whatever happens meanwhile."""
    count = 0

    def add(element: Any) -> None:
        nonlocal count
        count += 1
        write((",\n" if count > 1 else "[\n") + textwrap.indent(to_json(element), "  "))

    try:
        yield add
    finally:
        write("\n]\n" if count else "[]\n")


def on_a_terminal() -> bool:
    """Whether a person looks at standard error."""
    return sys.stderr is not None and sys.stderr.isatty()


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error, told of so many more things done; none for one thing or without a terminal."""
    if total < 2 or not on_a_terminal():
        yield lambda count: None
        return
    with progress_bar() as bar:
        task = bar.add_task(description, total=total, fields="")
        yield lambda count: bar.advance(task, count)


@contextmanager
def stages() -> Iterator[OnProgress]:
    """What is being done just now: a bar on a terminal, elsewhere a line for what takes longer than PATIENCE."""
    current = ""
    with ExitStack() as stack:
        if on_a_terminal():
            bar = stack.enter_context(progress_bar())
            task = bar.add_task("", total=None, fields="", visible=False)

            def told(what: str, done: int = 0, total: int = 0) -> None:
                nonlocal current
                if what != current:
                    bar.reset(task)
                    current = what
                bar.update(task, description=visible(what), completed=done, total=total or None, visible=True)

            yield told
            return
        timer: threading.Timer | None = None

        def told_later(what: str, done: int = 0, total: int = 0) -> None:
            nonlocal current, timer
            if what == current:
                return
            if timer:
                timer.cancel()
            current, timer = what, threading.Timer(PATIENCE, show_note, (f"mnv1: {what} ...",))
            timer.daemon = True
            timer.start()

        try:
            yield told_later
        finally:
            if timer:
                timer.cancel()


def progress_bar() -> Progress:
    """On standard error, gone when it is done; each task has ``fields``, a text after the time that is left."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[fields]}", markup=False),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # above the bar where both are one terminal; else a file would stay empty
    )
