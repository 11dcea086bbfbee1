"""A session that threads share, and that comes through a fork and a pickle."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np

from mnv1deploy.errors import MnvError
from mnv1deploy.formats.base import CPU, Images, Logits, OperatorTime, Profiling, Session
from mnv1deploy.spec import ModelSpec


class SharedSession:
    """An artifact opened in its engine, for any number of threads and processes; see Session.

    Calls of an engine that is not ``concurrent`` take turns. A forked child opens the artifact again at its first call,
    since an engine's threads stay with the parent, or says that its engine does not survive a fork. A pickle is the
    path, the provider and the number of threads.

    Args:
        path: of the artifact.
        provider: its full name.
        threads: to compute with; None leaves it to the engine.
        open_engine: gives the engine's own session.
        notes: what to know of the artifact; see :func:`mnv1deploy.formats.notes`.
    """

    def __init__(
        self,
        path: Path,
        provider: str,
        threads: int | None,
        open_engine: Callable[[], Session],
        notes: tuple[str, ...] = (),
    ) -> None:
        self.path, self.threads, self.notes = path, threads, notes
        self._asked, self._open_engine = provider, open_engine
        self._opened: Session | None = None
        self._is_lost = False
        self._opening = threading.Lock()
        self._turn: AbstractContextManager[Any] = nullcontext()
        self._spec = self.engine.spec
        _SESSIONS.add(self)

    @property
    def engine(self) -> Session:
        """The engine's own session, of this process. Raises MnvError in a forked child that it does not survive."""
        if self._is_lost:
            raise MnvError(
                f"{self.path} was opened before this process was forked, which its engine does not survive.",
                "Open it in the child alone, or start processes with multiprocessing's spawn.",
            )
        if self._opened is None:
            with self._opening:
                if self._opened is None:
                    opened = self._open()
                    self._turn = nullcontext() if opened.concurrent else threading.Lock()
                    self._opened = opened
        return self._opened

    def _open(self) -> Session:
        """Opens the artifact and has it look at a black picture: what it says of itself is compared with what it does.

        Whatever an engine raises over a damaged file, which may be anything, becomes an MnvError here.
        """
        try:
            session = self._open_engine()
            spec = session.spec
            if session.provider == CPU:  # a GPU's engine may take a minute to be built for one picture
                logits = session(np.zeros((1, *spec.pixels.shape), np.uint8))
                if logits.shape != (1, len(spec.classes)) or logits.dtype != np.float32:
                    raise MnvError(
                        f"{self.path} says that it knows {len(spec.classes)} classes, and gives "
                        f"{logits.dtype} {list(logits.shape)} for one picture.",
                        "It was changed, or is damaged; export it again.",
                    )
        except MnvError:
            raise
        except Exception as error:
            raise MnvError(
                f"{self.path} cannot be run: {type(error).__name__}: {MnvError.reason(error)}.",
                "It is damaged, or of another version than its engine; export it again.",
            ) from error
        return session

    @property
    def concurrent(self) -> bool:
        """Whether calls of several threads run at once; if not, they take turns."""
        return self.engine.concurrent

    @property
    def forks(self) -> bool:
        """Whether a forked child can go on with it; if not, it says so."""
        return self.engine.forks

    @property
    def spec(self) -> ModelSpec:
        """Of the network inside."""
        return self._spec

    @property
    def provider(self) -> str:
        """The provider in use, asked of the engine."""
        return self.engine.provider

    def __call__(self, images: Images) -> Logits:
        """See Session."""
        engine = self.engine
        with self._turn:
            try:
                return engine(images)
            except MnvError:
                raise
            except Exception as error:
                raise MnvError(
                    f"The engine failed on {self.path}: {type(error).__name__}: {MnvError.reason(error)}."
                ) from error

    def runner(self, images: Images, *, include_copies: bool) -> Callable[[], object]:
        """See Session. It is the engine's own, for one thread alone."""
        return self.engine.runner(images, include_copies=include_copies)

    def profile(self, images: Images, calls: int) -> list[OperatorTime]:
        """See Profiling. Raises MnvError for an engine that has no profiler."""
        if not isinstance(self.engine, Profiling):
            raise MnvError(f"{self.path} cannot be profiled: its engine tells nothing of single operators.")
        with self._turn:
            return self.engine.profile(images, calls)

    def __reduce__(self) -> tuple[Any, ...]:
        from mnv1deploy.formats import reopen

        return reopen, (self.path, self._asked, self.threads)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path} on {self._asked}>"

    def _forked(self) -> None:
        """Leaves the parent's engine alone: to destroy it here would wait for threads that are not there."""
        if self._opened is not None:
            self._is_lost = not self._opened.forks
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._opened))
        self._opened, self._turn, self._opening = None, nullcontext(), threading.Lock()


_SESSIONS: WeakSet[SharedSession] = WeakSet()


def _after_fork() -> None:
    for session in _SESSIONS:
        session._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
