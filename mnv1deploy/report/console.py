"""Standard output and standard error: lines, JSON, progress bars."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv1deploy import distributed

if TYPE_CHECKING:
    from rich.progress import Progress
    from torch.utils.tensorboard import SummaryWriter

    from mnv1deploy.training import Epoch, Run, Step


def show_json(content: Any) -> None:
    """One JSON document on standard output."""
    json.dump(content, sys.stdout, indent=2)
    sys.stdout.write("\n")


def show_line(text: str) -> None:
    """A line on standard output."""
    sys.stdout.write(f"{text}\n")


def show_error(message: str, hint: str = "") -> None:
    """A sentence, and what to do, on standard error."""
    sys.stderr.write(f"mnv1: {message}\n" + (f"      {hint}\n" if hint else ""))


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error, told of so many more things done; none for one thing or without a terminal."""
    if total < 2 or not sys.stderr.isatty():
        yield lambda count: None
        return
    with _progress_bar() as bar:
        task = bar.add_task(description, total=total, fields="")
        yield lambda count: bar.advance(task, count)


def _progress_bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[fields]}"),
        console=Console(stderr=True),
        transient=True,
    )


@contextmanager
def training_progress(
    run: Run, purpose: str = "", *, tensorboard: bool = False
) -> Iterator[tuple[Callable[[Step], None], Callable[[Epoch], None]]]:
    """(on_step, on_epoch): a bar with loss, accuracy, images/s and time left on a terminal, and a line per epoch.

    Args:
        run: to be told of.
        purpose: at the start of every line, where it is one of several runs.
        tensorboard: write the epochs to a TensorBoard log in the run's folder too.
    """
    epochs = run.settings.epochs
    prefix = f"{purpose}, " if purpose else ""
    silent = distributed.rank() > 0
    bar: Progress | None = _progress_bar() if sys.stderr.isatty() and not silent else None
    log = _tensorboard_log(run.folder, len(run.log)) if tensorboard and not silent else None
    task = None

    def on_step(step: Step) -> None:
        nonlocal task
        if bar is None or (step.step % 10 and step.step != step.steps):
            return
        if task is None:
            task = bar.add_task("training", total=epochs * step.steps, fields="")
        fields = "the teachers answer first" if run.settings.teachers else ""
        if step.step:
            speed = f"{step.images_per_second:,.0f} images/s"
            fields = f"loss {step.loss.item():.3f}  top-1 {step.accuracy.item():.1%}  {speed}"
        done = (step.epoch - 1) * step.steps + step.step
        bar.update(task, completed=done, description=f"{prefix}epoch {step.epoch}/{epochs}", fields=fields)

    def on_epoch(epoch: Epoch) -> None:
        holdout = "" if epoch.holdout_accuracy is None else f"  held-out top-1 {epoch.holdout_accuracy:.2%}"
        line = (
            f"{prefix}epoch {epoch.epoch:3}/{epochs}  loss {epoch.train_loss:.4f}  top-1 {epoch.train_accuracy:.2%}"
            f"{holdout}  {epoch.images_per_second:,.0f} images/s"
        )
        if bar is not None:
            bar.console.print(line, highlight=False)
        elif not silent:
            sys.stderr.write(line + "\n")
        if log is not None:
            for name, value in asdict(epoch).items():
                if name != "epoch" and value is not None:
                    log.add_scalar(name, value, epoch.epoch)

    with bar or nullcontext(), log or nullcontext():
        yield on_step, on_epoch


def _tensorboard_log(folder: Path, epochs: int) -> SummaryWriter:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=epochs + 1)
