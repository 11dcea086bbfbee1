"""Tables, JSON, progress bars and plots: everything a person or a script gets to see."""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv1deploy import distributed, formats
from mnv1deploy.artifact import Accuracy, Manifest, Proof, read_checkpoint_metadata
from mnv1deploy.errors import MnvError
from mnv1deploy.files import atomic, sha256
from mnv1deploy.packages import is_installed, versions
from mnv1deploy.spec import ModelSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.progress import Progress
    from torch.utils.tensorboard import SummaryWriter

    from mnv1deploy.benchmark import Profile, Result
    from mnv1deploy.c.plan import Plan
    from mnv1deploy.classifier import Prediction
    from mnv1deploy.cost import Cost
    from mnv1deploy.datasets import Dataset
    from mnv1deploy.exporting import Exported
    from mnv1deploy.quantization import Quantization
    from mnv1deploy.sensitivity import Deviation, Sensitivity, Trial
    from mnv1deploy.training import Epoch, Run, Step
    from mnv1deploy.verification import Evaluation

PIPE_WIDTH = 120
"""Columns where standard output is not a terminal."""


def machine() -> dict[str, Any]:
    """What a figure was measured on: processor, its instruction sets for small integers, cores, system, versions."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    fields = {key.strip(): value.strip() for key, colon, value in (line.partition(":") for line in lines) if colon}
    model = fields.get("model name") or platform.processor() or platform.machine()
    flags = fields.get("flags", fields.get("Features", ""))
    known = ("avx2", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
    engines = [package for name in formats.NAMES for package in formats.get(name).runners]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": model,
        "cores": cores,
        "instructions": [flag for flag in known if flag in flags.split()],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions("numpy", *dict.fromkeys(engines), "onnxruntime-gpu", "onnxruntime-openvino"),
    }


def machine_line() -> str:
    """:func:`machine` in one line, for under a table."""
    facts = machine()
    packages = ", ".join(f"{name} {version}" for name, version in facts["versions"].items() if name != "mnv1deploy")
    sets = f" ({', '.join(facts['instructions'])})" if facts["instructions"] else ""
    return f"{facts['cpu']}, {facts['cores']} cores{sets}; {packages}"


def show_json(content: Any) -> None:
    """One JSON document on standard output."""
    json.dump(content, sys.stdout, indent=2)
    sys.stdout.write("\n")


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "", caption: str = "") -> None:
    """A table on standard output; columns whose header begins with ">" are aligned to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
        title=title or None,
        title_justify="left",
        title_style="bold",
        pad_edge=False,
    )
    for header in columns:
        number = header.startswith(">")  # in a narrow terminal names fold before any figure loses a digit
        table.add_column(header.lstrip(">"), justify="right" if number else "left", no_wrap=number, overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False, markup=False)
    console.print(table)
    if caption:
        console.print(caption)


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


def show_exported(exported: Sequence[Exported], latency: dict[Path, float], absent: dict[str, str]) -> None:
    """The proofs of what one export command wrote.

    Args:
        exported: in order.
        latency: p50 of one picture on one thread, in milliseconds; empty where it was not measured.
        absent: formats left out for want of a package, and the pip extra that brings it.
    """
    rows = []
    for item in exported:
        proof = item.proof
        accuracy, before = (proof.accuracy, proof.checkpoint_accuracy) if proof else (None, None)
        rows.append(
            (
                item.path.name,
                f"{item.manifest.bytes:,}",
                f"{proof.max_logit_difference:.1e}" if proof else "",
                f"{proof.agreement:.2%}" if proof else "",
                f"{accuracy.top1:.2%}" if accuracy else "not measured",
                f"{100 * (accuracy.top1 - before.top1):+.2f}" if accuracy and before else "",
                *([_figure(1000 * latency[item.path]) if item.path in latency else ""] if latency else []),
                "failed" if item.failures else "proved" if proof else "not run here",
            )
        )
    proofs = [item.proof for item in exported if item.proof]
    on = f"; accuracy and its change in points on {proofs[0].accuracy.on}" if proofs and proofs[0].accuracy else ""
    speed = "; p50 of one picture on one thread, in microseconds" if latency else ""
    show_table(
        [
            *("artifact", ">bytes", ">max logit difference", ">agreement", ">top-1", ">change"),
            *([">p50"] if latency else []),
            "proof",
        ],
        rows,
        caption=f"Against the checkpoint: logits and top-1 agreement on {proofs[0].images}{on}{speed}."
        if proofs
        else "",
    )
    for item in exported:
        if item.manifest.not_run:
            show_line(f"{item.path.name} was not run here: {item.manifest.not_run}")
    for name, extra in absent.items():
        show_line(f"{name} was left out; it comes with: pip install 'mnv1deploy[{extra}]'")
    for item in exported:
        if not item.failures:
            for name, facts in item.manifest.files.items():
                show_line(f"{item.path.parent / name}  sha256 {facts['sha256']}")


def _figure(value: float) -> str:
    """A measured figure, with a decimal while it has fewer than four digits: 82.8, 9,816."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"


def show_bench(results: Sequence[Result], refused: dict[str, MnvError]) -> None:
    """Two tables of one benchmark run: times per call, then what every contestant costs once; and who is missing."""
    names = ("min", "mean", "std", "p50", "p90", "p99")
    ordered = sorted(results, key=lambda r: (r.batch_size, r.threads or 0, r.p50))
    times = [
        (
            r.artifact,
            r.threads or "auto",
            r.batch_size,
            *(_figure(1000 * getattr(r, name)) for name in names),
            _figure(r.images_per_second),
            f"{r.ratio:.2f}",
        )
        for r in ordered
    ]
    show_table(
        ["artifact", ">threads", ">batch", *(f">{name}" for name in names), ">images/s", ">ratio"],
        times,
        title=f"{results[0].provider}: microseconds per call; ratio of p50 to the fastest with that batch and threads",
    )
    once = {
        (r.artifact, r.threads or "auto"): (f"{r.load:.1f}", "" if r.peak_memory is None else f"{r.peak_memory:.0f}")
        for r in ordered
    }
    show_table(
        ["artifact", ">threads", ">load (ms)", ">peak memory of the process (MiB)"],
        [(*contestant, *facts) for contestant, facts in once.items()],
        caption=machine_line(),
    )
    for name, error in refused.items():
        show_line(f"{name} was not measured: {error}")


def show_profiles(profiles: Sequence[Profile]) -> None:
    """The time per operator: of one artifact with its share, of several side by side, in the order they run."""
    order: list[str] = []
    spent: list[dict[str, float]] = []
    kinds: dict[str, str] = {}
    for profile in profiles:
        mine: dict[str, float] = {}
        position = 0
        for operator in profile.operators:
            if operator.name not in order:
                order.insert(position, operator.name)
            position = max(position, order.index(operator.name) + 1)
            mine[operator.name] = mine.get(operator.name, 0) + 1000 * operator.mean
            kinds.setdefault(operator.name, operator.kind)
        spent.append(mine)
    alone = len(profiles) == 1
    rows = [
        [name, *([kinds[name]] if alone else []), *(f"{mine[name]:.1f}" if name in mine else "" for mine in spent)]
        for name in order
    ]
    sums = [sum(mine.values()) for mine in spent]
    if alone:
        for row, name in zip(rows, order, strict=True):
            row.append(f"{spent[0][name] / sums[0]:.1%}")
    show_table(
        ["operator", *(["type", ">mean", ">share"] if alone else (f">{profile.artifact}" for profile in profiles))],
        [*rows, ["all", *([""] if alone else []), *(f"{total:.1f}" for total in sums), *([""] if alone else [])]],
        title="mean microseconds per operator",
        caption=f"{', '.join(profile.artifact for profile in profiles)} on {profiles[0].provider}, batch "
        f"{profiles[0].batch_size}, with the engine's profiler on, which costs time itself.\n{machine_line()}",
    )


def show_evaluation(evaluation: Evaluation) -> None:
    """Top-1, per-class accuracy and, up to twenty classes, the confusion matrix."""
    classes = evaluation.dataset.classes
    small = len(classes) <= 20
    rows = [
        (name, f"{accuracy:.2%}", *(count or "." for count in (counts if small else ())))
        for name, accuracy, counts in zip(classes, evaluation.class_accuracy, evaluation.confusion, strict=True)
    ]
    headers = [f">{name[:5]}" for name in classes] if small else []
    show_table(["class", ">top-1", *headers], rows, caption=f"top-1 {evaluation.accuracy}")


DEVIATION_COLUMNS = (">divergence", ">agreement", ">accuracy")


def _deviation_columns(of: Deviation) -> tuple[str, ...]:
    return (f"{1000 * of.divergence:.3f}", f"{of.agreement:.2%}", f"{100 * of.accuracy_change:+.2f}")


def show_quantization(found: Sensitivity, quantization: Quantization) -> None:
    """A row per layer and one for the whole network."""
    rows: list[tuple[object, ...]] = [
        (
            row.name,
            f"{row.weight_range[0]:.2f} .. {row.weight_range[1]:.2f}",
            f"{row.weight_sqnr:.1f}",
            "float" if row.activation_bound is None else f"0 .. {row.activation_bound:.2f}",
            "" if row.clipped is None else f"{1e6 * row.clipped:,.0f}",
            f"{row.output_sqnr:.1f}",
            *_deviation_columns(row.alone),
        )
        for row in found.layers
    ]
    rows.append(("all of them", "", "", "", "", "", *_deviation_columns(found.together)))
    facts = quantization.facts
    show_table(
        ["layer", ">weights", ">SQNR", ">output", ">clipped", ">SQNR", *DEVIATION_COLUMNS],
        rows,
        title="weights and outputs with their signal-to-quantization-noise ratio (dB); what each layer alone costs",
        caption=(
            f"Ranges by {facts['ranges']} over {facts['calibration']}. Clipped: outputs per million above the range. "
            "Output SQNR: with all layers up to this one quantised. Cost of quantising this layer alone, on "
            f"{found.images:,} images ({found.dataset}; float top-1 {found.accuracy:.2%}): Kullback-Leibler divergence "
            "in thousandths of a nat, top-1 agreement, change of the top-1 accuracy in points."
        ),
    )


def quantization_as_dict(found: Sensitivity, quantization: Quantization) -> dict[str, Any]:
    """What :func:`show_quantization` shows, with every scale and zero point."""
    content = asdict(found)
    for row in content["layers"]:
        grid = quantization.activations.get(row["name"])
        row["activation"] = None if grid is None else asdict(grid)
        row["weight_scales"] = [float(scale) for scale in quantization.weights[row["name"]].scales]
        for key, value in row.items():
            row[key] = None if value == math.inf else value
    return {**content, "quantization": quantization.facts}


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
        right.legend(fontsize=8)
        for axes in (left, right):
            axes.grid(axis="x", alpha=0.3)
        figure.suptitle(
            f"int8 on {found.images:,} images ({found.dataset}): agreement {found.together.agreement:.2%}, "
            f"top-1 {found.accuracy:.2%} {100 * found.together.accuracy_change:+.2f} points",
            fontsize=9,
        )

    save_plot(path, draw, size=(11, 1 + 0.3 * len(found.layers)))


def show_trials(trials: Sequence[Trial], data: Dataset) -> None:
    """A row per quantization scheme."""
    rows = [
        (
            trial.scheme.ranges,
            f"{trial.scheme.equalization:g}" if trial.scheme.equalization else "none",
            "compensated" if trial.scheme.compensation else "nearest",
            "corrected" if trial.scheme.bias_correction else "as they are",
            *_deviation_columns(trial.deviation),
        )
        for trial in trials
    ]
    show_table(
        ["ranges", "equalization", "rounding", "biases", *DEVIATION_COLUMNS],
        rows,
        caption=(
            f"Against the float network on {len(data):,} images ({data.name}): Kullback-Leibler divergence in "
            "thousandths of a nat, top-1 agreement, change of the top-1 accuracy in points."
        ),
    )


def trials_as_dicts(trials: Sequence[Trial], data: Dataset) -> dict[str, Any]:
    """What :func:`show_trials` shows."""
    return {"dataset": data.name, "images": len(data), "trials": [asdict(trial) for trial in trials]}


def show_cost(cost: Cost) -> None:
    """A row per layer, the totals, and the peak of the memory."""
    rows = [
        (
            layer.name,
            "x".join(map(str, layer.output)),
            f"{layer.multiply_adds:,}",
            f"{layer.parameters:,}",
            f"{layer.activation_bytes:,}",
            f"{layer.live_bytes:,}",
            "" if layer.standard_multiply_adds is None else f"{layer.standard_multiply_adds:,}",
            "" if layer.ratio is None else f"{layer.ratio:.3f}",
        )
        for layer in cost.layers
    ]
    ratio = cost.multiply_adds / cost.standard_multiply_adds
    total = (
        f"{cost.multiply_adds:,}",
        f"{cost.parameters:,}",
        "",
        "",
        f"{cost.standard_multiply_adds:,}",
        f"{ratio:.3f}",
    )
    show_table(
        ["layer", ">output", ">multiply-adds", ">parameters", ">bytes", ">with input", ">standard", ">ratio"],
        [*rows, ("total", "", *total)],
        caption=f"bytes: of the output, {cost.precision}; with input: held while the layer runs, at most "
        f"{cost.peak_bytes:,} ({cost.peak_layer}).\n"
        "standard: multiply-adds of a 3x3 convolution in place of the pair; ratio: 1 / C_out + 1 / 9.",
    )


def show_plan(plan: Plan) -> None:
    """A row per step of the generated C: what it reads and writes, and what it holds in between."""
    rows = [
        (
            step.name,
            "the picture" if step.input < 0 else f"{step.input:,} .. {step.input + step.input_bytes:,}",
            f"{step.output:,} .. {step.output + step.output_bytes:,}",
            str(step.rows),
            f"{step.rows_bytes:,}",
        )
        for step in plan.steps
    ]
    show_table(
        ["step", ">reads", ">writes", ">rows at a time", ">bytes of rows"],
        rows,
        title=f"{plan.scratch:,} bytes of scratch",
        caption="reads, writes: bytes of the scratch; an output overwrites what was read before it.\n"
        f"rows: what a 1x1 convolution reads, a few at a time, at {plan.rows_at:,} .. {plan.scratch:,}.",
    )


def predictions_as_dicts(predictions: Sequence[tuple[str, Prediction]]) -> list[dict[str, Any]]:
    """For JSON: a list of objects with path, label, probability and top."""
    return [
        {
            "path": path,
            "label": answer.label,
            "probability": answer.probability,
            "top": [{"label": label, "probability": probability} for label, probability in answer.top],
        }
        for path, answer in predictions
    ]


def show_predictions(predictions: Sequence[tuple[str, Prediction]]) -> None:
    """A line per picture: the likeliest class, its probability, and the runners-up."""
    path_width = max(len(path) for path, _ in predictions)
    label_width = max(len(answer.label) for _, answer in predictions)
    for path, answer in predictions:
        others = ", ".join(f"{label} {probability:.1%}" for label, probability in answer.top[1:])
        line = f"{path:{path_width}}  {answer.label:{label_width}}  {answer.probability:6.1%}"
        show_line(line + (f"  ({others})" if others else ""))


def exported_as_dicts(exported: Sequence[Exported], latency: dict[Path, float]) -> list[dict[str, Any]]:
    """For JSON: per artifact its path (None if it failed), its failures, its latency if measured, and its manifest."""
    return [
        {
            "path": None if item.failures else str(item.path),
            "failures": list(item.failures),
            "p50": latency.get(item.path),
            **item.manifest.to_dict(),
        }
        for item in exported
    ]


def evaluation_as_dict(evaluation: Evaluation) -> dict[str, Any]:
    """For JSON: top-1, per-class accuracy, and the confusion matrix with a row per true class."""
    classes = evaluation.dataset.classes
    per_class = {
        name: None if value != value else value
        for name, value in zip(classes, evaluation.class_accuracy.tolist(), strict=True)
    }
    return {
        **asdict(evaluation.accuracy),
        "classes": per_class,
        "confusion": evaluation.confusion.tolist(),
    }


def info_as_dict(path: Path) -> dict[str, Any]:
    """What a file says of itself and its manifest proves: spec, provenance, proof.

    Raises:
        MnvError: if it is of no known format, or says nothing.
    """
    format_ = formats.of_file(path)
    manifest = Manifest.read(path)
    facts: dict[str, Any] = {"path": str(path), "format": format_.name}
    if manifest:
        facts |= {"bytes": manifest.bytes, "files": manifest.files}
    else:
        facts |= {"bytes": path.stat().st_size, "files": {path.name: {"sha256": sha256(path)}}}
    if format_.name == "pytorch":
        return facts | read_checkpoint_metadata(path)
    provenance = manifest.provenance if manifest else format_.provenance(path)
    if provenance is None:
        raise MnvError(f"{path} says nothing of where it comes from.", "It was not written by mnv1deploy.")
    proof = asdict(manifest.proof) if manifest and manifest.proof else None
    return facts | provenance.to_dict() | {"proof": proof, "not_run": manifest.not_run if manifest else ""}


def spec_of(path: Path) -> ModelSpec:
    """The spec in any artifact or checkpoint. Raises MnvError."""
    return ModelSpec.from_dict(info_as_dict(path)["spec"])


def show_info(facts: dict[str, Any]) -> None:
    """The facts of :func:`info_as_dict`, a line each."""
    spec = ModelSpec.from_dict(facts["spec"])
    shape = ", ".join(map(str, spec.pixels.shape))
    blocks = ", ".join(f"{block.channels}/{block.stride}" for block in spec.blocks)
    classes = ", ".join(spec.classes[:12]) + (", ..." if len(spec.classes) > 12 else "")
    mean, std = (
        ", ".join(f"{v:g}" for v in dict.fromkeys(part)) for part in (spec.normalization.mean, spec.normalization.std)
    )
    rows: list[tuple[str, object]] = [
        ("file", f"{facts['path']} ({facts['bytes']:,} bytes, {facts['format']} {facts.get('precision', 'fp32')})"),
        *(("sha256", f"{file['sha256']}  {name}") for name, file in facts["files"].items()),
        (
            "network",
            f"{spec.name}, stem {spec.stem.channels}/{spec.stem.stride}, blocks {blocks}, {spec.activation}, "
            f"{spec.padding} padding",
        ),
        (
            "input",
            f"image uint8 [N, {shape}], normalised inside: (pixel - {mean}) / {std}",
        ),
        ("output", f"logits float32 [N, {len(spec.classes)}]: {classes}"),
    ]
    for accuracy in facts.get("accuracy", []):
        rows.append(("accuracy", Accuracy(**accuracy)))
    if facts.get("training"):
        rows.append(("training", ", ".join(f"{key} {value}" for key, value in facts["training"].items())))
    if "checkpoint_sha256" in facts:
        rows.append(("checkpoint", facts["checkpoint_sha256"]))
        rows += [("", Accuracy(**accuracy)) for accuracy in facts["checkpoint_accuracy"]]
    if facts.get("quantization"):
        rows.append(("quantization", ", ".join(f"{key} {value}" for key, value in facts["quantization"].items())))
    if facts.get("proof"):
        proof = Proof.from_dict(facts["proof"])
        rows.append(
            (
                "proof",
                f"largest logit difference {proof.max_logit_difference:.2g}, "
                f"top-1 agreement {proof.agreement:.2%} on {proof.images}",
            )
        )
        if proof.accuracy and proof.checkpoint_accuracy:
            rows.append(("", f"top-1 {proof.accuracy}; checkpoint {proof.checkpoint_accuracy.top1:.2%}"))
    elif "proof" in facts:
        reason = facts["not_run"] or "there is no manifest beside the file"
        rows.append(("proof", f"none: {reason}"))
    rows.append(("written by", ", ".join(f"{name} {version}" for name, version in facts["versions"].items())))
    for name, value in rows:
        show_line(f"{name:14}{value}")


def show_formats(rows: Sequence[dict[str, Any]]) -> None:
    """Every format: what it can be exported in, and what writes and runs it here."""

    def packages(found: dict[str, str | None], extra: str) -> str:
        if None in found.values():
            return f"pip install 'mnv1deploy[{extra}]'"
        return ", ".join(f"{name} {version}" for name, version in found.items())

    show_table(
        ["format", "suffix", "precisions", "runs with", "written with"],
        [
            (
                row["format"],
                row["suffix"],
                ", ".join(row["precisions"]),
                row["elsewhere"] or packages(row["runners"], row["extra"]),
                packages(row["writers"], row["export_extra"]),
            )
            for row in rows
        ],
    )


def formats_as_dicts() -> list[dict[str, Any]]:
    """The formats that can be exported to, with the version of every package, None for one that is not installed."""

    def found(packages: Sequence[str]) -> dict[str, str | None]:
        there = versions(*packages)
        return {name: there.get(name, "") if is_installed(name) else None for name in packages}

    return [
        {
            "format": entry.name,
            "suffix": entry.suffix,
            "precisions": list(entry.precisions),
            "quantizer": entry.quantizer,
            "extra": entry.extra,
            "runners": found(entry.runners),
            "export_extra": entry.export_extra,
            "writers": found(entry.writers),
            "elsewhere": entry.elsewhere,
        }
        for entry in map(formats.get, formats.exportable())
    ]


def show_providers(available: dict[str, list[str]], missing: dict[str, str]) -> None:
    """What is there, by format, and what is not, by the package that brings it."""
    there = [(name, format_) for format_, names in available.items() for name in names]
    show_table(["available", "for"], there)
    show_table(["not available", "comes with"], list(missing.items()), caption=machine_line())


def save_plot(path: Path, draw: Callable[[Figure], None], *, size: tuple[float, float] = (8, 5)) -> None:
    """Draws into a PNG or SVG. Raises MnvError without matplotlib, or for a suffix it cannot write."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MnvError(
            "Plots need matplotlib, which is not installed.", "Install it with: pip install 'mnv1deploy[plot]'"
        ) from error
    figure = Figure(figsize=size, layout="constrained", dpi=120)
    draw(figure)
    with atomic(path) as temporary:
        try:
            figure.savefig(temporary, metadata={"Software": None} if path.suffix == ".png" else None)
        except ValueError as error:
            raise MnvError(f"Cannot draw to {path}: {error}.", "Use a name that ends in .png or .svg.") from error


def plot_curves(log: Sequence[Epoch], path: Path) -> None:
    """Loss, accuracies and learning rate by epoch."""

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        epochs = [row.epoch for row in log]
        left.plot(epochs, [row.train_loss for row in log], label="training loss (augmented)")
        rate = left.twinx()
        rate.plot(epochs, [row.learning_rate for row in log], color="tab:gray", linestyle=":", label="learning rate")
        rate.set_ylabel("learning rate (dotted)")
        left.set_ylabel("loss")
        right.plot(epochs, [100 * row.train_accuracy for row in log], label="training (augmented)")
        if log[0].holdout_accuracy is not None:
            right.plot(epochs, [100 * (row.holdout_accuracy or 0) for row in log], label="held out (averaged weights)")
        right.set_ylabel("top-1 (%)")
        right.legend(loc="lower right")
        for axes in (left, right):
            axes.set_xlabel("epoch")
            axes.grid(alpha=0.3)

    save_plot(path, draw, size=(11, 4.5))


def plot_confusion(evaluation: Evaluation, path: Path) -> None:
    """The confusion matrix, in percent of each true class."""
    classes = evaluation.dataset.classes
    totals = evaluation.confusion.sum(1, keepdims=True).clip(1)
    percent = 100 * evaluation.confusion / totals

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
        axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
        axes.set_yticks(range(len(classes)), classes)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.set_title(f"top-1 {evaluation.accuracy}", fontsize=9)
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
            axes.bar_label(bars, labels=[_figure(value) for value in p50], padding=4, fontsize=7)
            axes.set_yticks(range(len(mine)), [r.artifact for r in mine], fontsize=8)
            axes.invert_yaxis()
            axes.margins(x=0.15)
            axes.set_title(f"batch {batch}, threads {count or 'auto'}", fontsize=9)
            axes.grid(axis="x", alpha=0.3)
        figure.supxlabel("microseconds per call, p50 (whiskers: lowest and highest median of the rounds)", fontsize=9)
        figure.suptitle(f"{results[0].provider} on {machine()['cpu']}, {machine()['cores']} cores", fontsize=10)

    save_plot(path, draw, size=(1 + 6 * len(batches), 1.2 + (0.6 + 0.28 * most) * len(counts)))
