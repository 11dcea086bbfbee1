"""What some commands found, drawn."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mnv1deploy.benchmark import machine
from mnv1deploy.errors import MnvError
from mnv1deploy.files import atomic
from mnv1deploy.packages import engine
from mnv1deploy.report.console import visible
from mnv1deploy.report.tables import figure_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mnv1deploy.benchmark import Result
    from mnv1deploy.choosing import Choice
    from mnv1deploy.quantization.sensitivity import Sensitivity
    from mnv1deploy.training.progress import Epoch
    from mnv1deploy.verification import Evaluation


SUFFIXES = (".png", ".svg", ".pdf")


def check(path: Path) -> None:
    """Raises MnvError, before anything has been computed, unless a plot can be drawn to ``path``."""
    if path.suffix.lower() not in SUFFIXES:
        said = f"{path.suffix} files" if path.suffix else "a name without a suffix"
        raise MnvError(
            f"Plots are drawn to PNG, SVG or PDF, not to {said}.", f"Name it {path.stem or 'plot'}.png or .svg."
        )
    if path.is_dir():
        raise MnvError(f"{path} is a folder, and a plot is a file.", "Name a file that ends in .png or .svg.")
    engine("matplotlib", "plot")


def save_plot(path: Path, draw: Callable[[Figure], None], *, size: tuple[float, float] = (8, 5)) -> None:
    """Draws into a PNG, SVG or PDF; ``size`` in inches. Raises MnvError as :func:`check` does."""
    check(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained", dpi=120)
    draw(figure)
    # nothing of the time or the program that drew it: the same figures give the same file
    undated = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    kind = path.suffix.lower()
    with warnings.catch_warnings(), atomic(path) as temporary:
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a box stands for it in the picture
        figure.savefig(temporary, format=kind.lstrip("."), metadata=undated[kind])


def _plain(text: str) -> str:
    """A name as it is: without a shape for what has none, and no formula between dollar signs."""
    return visible(text).replace("$", r"\$")


def _legend(figure: Figure, *axes: Axes) -> None:
    """Below the panels, where it covers no curve."""
    handles, labels = [], []
    for panel in axes:
        mine = panel.get_legend_handles_labels()
        handles += mine[0]
        labels += mine[1]
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8, frameon=False)


def plot_curves(log: Sequence[Epoch], path: Path) -> None:
    """Loss, accuracies and learning rate by epoch."""

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        epochs = [row.epoch for row in log]
        left.plot(epochs, [row.train_loss for row in log], label="training loss (augmented)")
        rate = left.twinx()
        rate.plot(epochs, [row.learning_rate for row in log], color="tab:gray", linestyle=":", label="learning rate")
        rate.set_ylabel("learning rate")
        left.set_ylabel("loss")
        right.plot(epochs, [100 * row.train_accuracy for row in log], label="training (augmented)")
        if log[0].holdout_accuracy is not None:
            right.plot(epochs, [100 * (row.holdout_accuracy or 0) for row in log], label="held out (averaged weights)")
        right.set_ylabel("top-1 (%)")
        for axes in (left, right):
            axes.set_xlabel("epoch")
            axes.grid(alpha=0.3)
        _legend(figure, left, rate, right)

    save_plot(path, draw, size=(11, 4.5))


def plot_confusion(evaluation: Evaluation, path: Path) -> None:
    """The confusion matrix, in percent of each true class."""
    classes = evaluation.dataset.classes
    totals = evaluation.confusion.sum(1, keepdims=True).clip(1)
    percent = 100 * evaluation.confusion / totals

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
        names = [_plain(name) for name in classes]
        axes.set_xticks(range(len(classes)), names, rotation=45, ha="right")
        axes.set_yticks(range(len(classes)), names)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.set_title(_plain(f"top-1 {evaluation.accuracy}"), fontsize=9)
        if len(classes) <= 20:
            for row, values in enumerate(percent):
                for column, value in enumerate(values):
                    if value >= 0.05:
                        colour = "white" if value > 50 else "black"
                        axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=colour, fontsize=7)

    side = min(4 + 0.35 * len(classes), 20)
    save_plot(path, draw, size=(side, side))


def plot_bench(results: Sequence[Result], path: Path) -> None:
    """Bars of p50, a panel per number of threads and batch size; the whiskers span the medians of the rounds."""
    settings = sorted({(r.threads or 0, r.batch_size) for r in results})
    batches = sorted({batch for _, batch in settings})
    counts = sorted({count for count, _ in settings})
    most = max(sum((r.threads or 0, r.batch_size) == setting for r in results) for setting in settings)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(len(counts), len(batches), squeeze=False)
        for count, batch in settings:
            axes = panels[counts.index(count), batches.index(batch)]
            mine = sorted((r for r in results if (r.threads or 0, r.batch_size) == (count, batch)), key=lambda r: r.p50)
            p50 = [1000 * r.p50 for r in mine]
            whiskers = (
                [1000 * (r.p50 - r.p50_lowest) for r in mine],
                [1000 * (r.p50_highest - r.p50) for r in mine],
            )
            bars = axes.barh(range(len(mine)), p50, xerr=whiskers, capsize=2)
            axes.bar_label(bars, labels=[figure_text(value) for value in p50], padding=4, fontsize=7)
            axes.set_yticks(range(len(mine)), [_plain(r.artifact) for r in mine], fontsize=8)
            axes.invert_yaxis()
            axes.margins(x=0.15)
            axes.set_title(f"batch {batch}, threads {count or 'auto'}", fontsize=9)
            axes.grid(axis="x", alpha=0.3)
        figure.supxlabel("microseconds per call, p50 (whiskers: lowest and highest median of the rounds)", fontsize=9)
        figure.suptitle(f"{results[0].provider} on {machine()['cpu']}, {machine()['cores']} cores", fontsize=10)

    save_plot(path, draw, size=(1 + 6 * len(batches), 1.2 + (0.6 + 0.28 * most) * len(counts)))


def plot_quantization(found: Sensitivity, path: Path) -> None:
    """Per layer: what it costs alone, and the noise in its weights and its output."""

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2, sharey=True)
        names = [row.name for row in found.layers]
        left.barh(names, [1000 * row.alone.divergence for row in found.layers])
        left.invert_yaxis()
        left.set_xlabel("divergence when it alone is quantised (thousandths of a nat)")
        right.plot([row.weight_sqnr for row in found.layers], names, "o-", label="its weights")
        right.plot([row.output_sqnr for row in found.layers], names, "s-", label="its output, all before it quantised")
        right.set_xlabel("signal-to-quantization-noise ratio (dB)")
        for axes in (left, right):
            axes.grid(axis="x", alpha=0.3)
        _legend(figure, right)
        figure.suptitle(
            f"int8 on {found.images:,} images ({_plain(found.dataset)}): agreement {found.together.agreement:.2%}, "
            f"top-1 {found.accuracy:.2%} {100 * found.together.accuracy_change:+.2f} points",
            fontsize=9,
        )

    save_plot(path, draw, size=(11, 1 + 0.3 * len(found.layers)))


def plot_choices(choices: Sequence[Choice], path: Path) -> None:
    """Accuracy over instructions, or over multiply-adds where nothing was counted; a line joins the best that fit.

    What does not fit is hollow. Networks of unknown accuracy are marks on the axis below.
    """
    counted = all(choice.instructions for choice in choices)

    def effort(choice: Choice) -> float:
        return ((choice.instructions or 0) if counted else choice.multiply_adds) / 1e6

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        known = [choice for choice in choices if choice.candidate.accuracy]
        for choice in known:
            colour = "tab:blue" if choice.fits else "none"
            axes.scatter(effort(choice), 100 * choice.top1, s=50, facecolors=colour, edgecolors="tab:blue", zorder=3)
            axes.annotate(
                _plain(choice.candidate.name),
                (effort(choice), 100 * choice.top1),
                xytext=(6, -4),
                textcoords="offset points",
                fontsize=8,
            )
        front = sorted((effort(choice), 100 * choice.top1) for choice in known if choice.is_best)
        axes.plot([x for x, _ in front], [y for _, y in front], color="tab:blue", alpha=0.5)
        for choice in choices:
            if not choice.candidate.accuracy:
                axes.axvline(effort(choice), color="tab:gray", linestyle=":", linewidth=1)
                axes.text(
                    effort(choice),
                    0.02,
                    _plain(choice.candidate.name),
                    transform=axes.get_xaxis_transform(),
                    rotation=90,
                    fontsize=7,
                )
        axes.set_xscale("log")
        axes.set_xlabel(f"millions of {'instructions' if counted else 'multiply-adds'} for a picture")
        axes.set_ylabel("top-1 (%)")
        axes.grid(alpha=0.3)

    save_plot(path, draw, size=(7, 4.5))
