"""A training run as it goes: a bar and a line per epoch on standard error, and a TensorBoard log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from mnv1deploy.bundled import CHECKPOINT
from mnv1deploy.report import console
from mnv1deploy.training import distributed

if TYPE_CHECKING:
    from rich.progress import Progress
    from torch.utils.tensorboard import SummaryWriter

    from mnv1deploy.training.progress import Epoch
    from mnv1deploy.training.progress import Progress as TrainingProgress
    from mnv1deploy.training.run import Run


@contextmanager
def training_progress(
    run: Run, purpose: str = "", *, tensorboard: bool = False
) -> Iterator[tuple[Callable[[TrainingProgress], None], Callable[[Epoch], None]]]:
    """(on_step, on_epoch): a bar with loss, accuracy, images/s and time left on a terminal, and a line per epoch.

    Args:
        run: to be told of.
        purpose: at the start of every line, where it is one of several runs.
        tensorboard: write the epochs to a TensorBoard log in the run's folder too.
    """
    epochs = run.settings.epochs
    prefix = f"{purpose}, " if purpose else ""
    silent = distributed.rank() > 0
    if not silent:
        for line in _run_facts(run):
            console.show_note(f"{prefix}{line}")
    bar: Progress | None = console.progress_bar() if console.on_a_terminal() and not silent else None
    log = _tensorboard_log(run.folder, len(run.log)) if tensorboard and not silent else None
    task = None

    def on_step(so_far: TrainingProgress) -> None:
        nonlocal task
        if bar is None or (so_far.step % 10 and so_far.step != so_far.steps):
            return
        if task is None:
            task = bar.add_task("training", total=epochs * so_far.steps, fields="")
        fields = "the teachers answer first" if run.settings.teachers else ""
        if so_far.step:
            speed = f"{so_far.images_per_second:,.0f} images/s"
            fields = f"loss {so_far.loss.item():.3f}  top-1 {so_far.accuracy.item():.1%}  {speed}"
        done = (so_far.epoch - 1) * so_far.steps + so_far.step
        bar.update(task, completed=done, description=f"{prefix}epoch {so_far.epoch}/{epochs}", fields=fields)

    def on_epoch(epoch: Epoch) -> None:
        holdout = "" if epoch.holdout_accuracy is None else f"  held-out top-1 {epoch.holdout_accuracy:.2%}"
        line = (
            f"{prefix}epoch {epoch.epoch:3}/{epochs}  loss {epoch.train_loss:.4f}  top-1 {epoch.train_accuracy:.2%}"
            f"{holdout}  {epoch.images_per_second:,.0f} images/s"
        )
        if bar is not None:
            bar.console.print(line, highlight=False)
        elif not silent:
            console.show_note(line)
        if log is not None:
            for name, value in asdict(epoch).items():
                if name != "epoch" and value is not None:
                    log.add_scalar(name, value, epoch.epoch)

    with bar or nullcontext(), log or nullcontext():
        yield on_step, on_epoch


def _run_facts(run: Run) -> Iterator[str]:
    """What a run found and what it is about to do, a sentence a line."""
    import torch

    settings, train, holdout = run.settings, run.parts.train, run.parts.holdout
    classes = ", ".join(train.classes[:6]) + (", ..." if len(train.classes) > 6 else "")
    yield (
        f"{len(train) + len(holdout):,} pictures of {len(train.classes)} classes ({classes})"
        f"{f' in {run.source}' if run.source else ''}: {len(train):,} to train on, {len(holdout):,} held out"
    )
    left = len(train) - run.steps * settings.batch_size
    over = f"; {left} are left over in each, other ones every time" if left else ""
    epochs = f"{settings.epochs} epoch{'s' if settings.epochs > 1 else ''}"
    yield f"{epochs} of {run.steps} batch{'es' if run.steps > 1 else ''} of {settings.batch_size} pictures{over}"
    threads = torch.get_num_threads()
    cores = f", {threads} thread{'s' if threads > 1 else ''}" if run.device.type == "cpu" else ""
    yield (
        f"learning rate {settings.learning_rate:.3g}, average over {1 / (1 - settings.ema):,.0f} steps, on "
        f"{run.device}{cores}"
    )
    if run.log:
        yield f"{len(run.log)} epochs are done already"
        return
    bundled = " (--init none for random weights)" if run.init == CHECKPOINT.name else ""
    yield f"starts from {run.init or 'random weights'}{bundled}"
    if settings.ema and len(holdout):
        yield "held-out top-1 is of the averaged weights, which are far behind the trained ones in the first epochs"


def _tensorboard_log(folder: Path, epochs: int) -> SummaryWriter:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=epochs + 1)
