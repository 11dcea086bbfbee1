"""From what a user names (a recipe, pictures, a checkpoint) to a run that is ready, new or resumed."""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from mnv1deploy import bundled, checkpoint, datasets
from mnv1deploy.datasets import Dataset
from mnv1deploy.errors import MnvError, flag
from mnv1deploy.spec import ModelSpec, Pixels
from mnv1deploy.training import distributed
from mnv1deploy.training.run import Run, begun
from mnv1deploy.training.settings import Settings
from mnv1deploy.training.setup import Parts, base_spec, spec_for
from mnv1deploy.training.state import State

FEW = 10_000
"""With fewer pictures to train on a run starts from a bundled checkpoint, where one has the network's sizes."""

FROM_NOTHING = "none"
"""In place of a checkpoint to start from: random weights."""


_SETTINGS = {field.name for field in fields(Settings)} - {"teacher"}  # which is a folder here, and a recipe there
_NETWORK = {"init", "preset", "width", "input_size", "colours"}
_DATA = {"skip_unreadable", "download"}
_RUN = {"device", "sync_batchnorm", "teacher"}


class Ready(NamedTuple):
    """A run that is ready, and the pictures it is measured on in the end."""

    run: Run
    test: Dataset


def ready(output: Path, data: Path | None, asked: Mapping[str, Any], *, resume: bool) -> Ready:
    """A new run in ``output``, or the one there, with what was asked for.

    Args:
        output, data: see :func:`begin`.
        asked: by name what :func:`begin` takes, the settings among it; what is not there is as it is by default, and
            what neither of both takes is left alone.
        resume: go on with the run in ``output``.

    Raises:
        MnvError: as :func:`begin` and :func:`resumed`; for a setting where a run is resumed.
    """
    rest = _named(asked, _DATA | _RUN)
    if not resume:
        how = _named(asked, {"recipe"} | _NETWORK)
        return begin(output, data, changes=_named(asked, _SETTINGS), **how, **rest)
    if fixed := [flag(name) for name in asked if name in {"recipe"} | _SETTINGS | _NETWORK]:
        raise MnvError(f"A run is resumed with the settings it was begun with; leave out {', '.join(fixed)}.")
    return resumed(output, data, **rest)


def command_to_resume(output: Path, asked: Mapping[str, Any]) -> str:
    """How a run in ``output`` is gone on with. What was asked for is in its state but for what a machine decides."""
    words = ["mnv1", "train", "--resume", "--output", str(output)]
    for name, value in asked.items():
        if name in ("device", "threads"):
            words += [flag(name), str(value)]
        elif name in ("tensorboard", "sync_batchnorm", "json", "skip_unreadable") and value:
            words.append(flag(name))
    return shlex.join(words)


def _named(asked: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in asked.items() if name in names}


def begin(
    output: Path,
    data: Path | None = None,
    *,
    recipe: str = "quick",
    changes: Mapping[str, Any] | None = None,
    init: str | None = None,
    preset: str | None = None,
    width: float | None = None,
    input_size: int | None = None,
    colours: int | None = None,
    skip_unreadable: bool = False,
    download: Path | None = None,
    **of_run: Any,
) -> Ready:
    """A new run in ``output``; nothing is written there yet.

    Args:
        output: folder of the run.
        data: folder of the pictures; CIFAR-10 by default.
        recipe, changes: see :meth:`Settings.recipe`; settings that are not changed follow the number of pictures.
        init: a checkpoint to start from, a bundled one by its width ("w0.25"), or "none"; by default the
            bundled one that has the network's sizes, if there are fewer pictures than :data:`FEW`.
        preset, width, input_size, colours: see :func:`base_spec`.
        skip_unreadable, download: see :func:`mnv1deploy.datasets.load`.
        **of_run: see :class:`Run`.

    Raises:
        MnvError: for anything that cannot be; see :class:`Run`.
    """
    changes = changes or {}
    settings = Settings.recipe(recipe, **changes)
    settings.of_teacher()
    if distributed.from_first(lambda: begun(output)):
        raise MnvError(f"{output} has a run already.", "Go on with --resume, or name another folder.")
    start = None if init in (None, FROM_NOTHING) else str(bundled.checkpoint(init))
    base = base_spec(start, preset=preset, width=width, input_size=input_size, colours=colours)
    train, test = _read(data, base.pixels, skip_unreadable, download)
    parts = Parts.of(train, settings.holdout)
    settings = Settings.recipe(recipe, pictures=len(parts.train), **changes)
    if init is None and settings.network == "mobilenetv1" and len(parts.train) < FEW:
        start = _bundled_like(base)
    spec, source = spec_for(train, base), _absolute(data or download)
    del train  # its pictures are in the parts
    return Ready(Run(spec, parts, settings, output, init=start, source=source, **of_run), test)


def resumed(
    output: Path,
    data: Path | None = None,
    *,
    teacher: str | Path | None = None,
    skip_unreadable: bool = False,
    download: Path | None = None,
    **of_run: Any,
) -> Ready:
    """The run in ``output`` as it was left, with the pictures that it was begun on.

    Args:
        output: folder of the run.
        data, teacher: where the pictures and the teacher's run are now, if not where they were.
        skip_unreadable, download: see :func:`mnv1deploy.datasets.load`.
        **of_run: see :class:`Run`.

    Raises:
        MnvError: if there is no run, its pictures are not found, or are other ones.
    """
    state = distributed.from_first(lambda: State.read(output))
    source = _absolute(data or download) or state.source or None
    train, test = _read(None if download and not data else source, state.spec.pixels, skip_unreadable, download)
    if train.classes != state.spec.classes:
        raise MnvError(
            f"The run in {output} was begun on {state.data}, which {source or 'CIFAR-10'} is not.",
            "Name the folder of its pictures with --data.",
        )
    parts = Parts.of(train, state.settings.holdout)
    teacher = teacher or state.teacher or None
    del train  # its pictures are in the parts
    run = Run(state.spec, parts, state.settings, output, resume=True, teacher=teacher, source=source, **of_run)
    return Ready(run, test)


def _absolute(path: Path | None) -> Path | None:
    return Path(os.path.expanduser(path)).absolute() if path else None


def _read(
    data: str | Path | None, pixels: Pixels, skip_unreadable: bool, download: Path | None
) -> tuple[Dataset, Dataset]:
    with distributed.first_of_machine():
        train, test = datasets.load(data, pixels, skip_unreadable=skip_unreadable, download=download)
    return train, test


def _bundled_like(base: ModelSpec) -> str | None:
    """The bundled checkpoint of such a network, whatever its classes."""
    for path in bundled.CHECKPOINTS.values():
        found = checkpoint.load(path).spec
        if base.replace(name=found.name, classes=found.classes, temperature=found.temperature) == found:
            return str(path)
    return None
