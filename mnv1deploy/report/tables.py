"""What every command found, as tables and lines for a person."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv1deploy.artifact import Accuracy, Proof, manifest_path, network_kind
from mnv1deploy.benchmark import machine_line
from mnv1deploy.c.counting import Count, instructions
from mnv1deploy.c.fitting import STACK, fitting_plan, needs
from mnv1deploy.c.plan import footprint
from mnv1deploy.errors import MnvError
from mnv1deploy.loadgen import MIN_SECONDS, SERVER_SECONDS
from mnv1deploy.report.console import columns_on_output, output_is_a_terminal, show_line, visible
from mnv1deploy.spec import ModelSpec

if TYPE_CHECKING:
    from mnv1deploy.benchmark import Profile, Result
    from mnv1deploy.c.plan import Plan
    from mnv1deploy.choosing import Choice, Wanted
    from mnv1deploy.cost import Cost
    from mnv1deploy.datasets import Dataset
    from mnv1deploy.doctor import Report
    from mnv1deploy.exporting import Exported
    from mnv1deploy.importing import Imported
    from mnv1deploy.loadgen import Result as LoadgenResult
    from mnv1deploy.loadgen import Settings as LoadgenSettings
    from mnv1deploy.quantization import Quantization
    from mnv1deploy.quantization.sensitivity import Deviation, Sensitivity, Trial
    from mnv1deploy.verification import Evaluation

FEW_FILES = 3
"""An artifact of more is a folder, whose manifest is the place to look for their hashes."""


def show_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    spare: Sequence[str] = (),
    title: str = "",
    captions: Sequence[str] = (),
) -> None:
    """A table on standard output, as wide as it needs to be in a pipe and no wider than a terminal.

    Args:
        columns: headers; of those that begin with ">" the cells are aligned to the right.
        rows: a cell per column.
        spare: headers of columns that a narrow terminal does without, the first of them first.
        title: above it.
        captions: lines below it, wrapped.
    """
    from rich import box
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    def table(wanted: Sequence[int]) -> Table:
        made = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
        for index in wanted:
            number = columns[index].startswith(">")  # no figure is ever broken in two
            header = Text(visible(columns[index].lstrip(">")))
            made.add_column(header, justify="right" if number else "left", no_wrap=number, overflow="fold")
        for row in rows:
            made.add_row(*(Text(visible(row[index])) for index in wanted))
        return made

    terminal = output_is_a_terminal()
    console = Console(file=sys.stdout, width=columns_on_output(), highlight=False, markup=False)
    shown, dropped = list(range(len(columns))), [">" + header for header in spare]
    left_out = []
    while (needed := Measurement.get(console, console.options, table(shown)).minimum) >= console.width and (
        terminal and dropped
    ):
        header = dropped.pop(0)
        shown.remove(columns.index(header))
        left_out.append(header.lstrip(">"))
    if not terminal:
        console.width = max(console.width, needed)
    if title:
        console.print(Text(visible(title), style="bold"))
    console.print(table(shown))
    for caption in captions:
        console.print(Text(visible(caption)))
    if left_out:
        console.print(f"Left out here for want of width: {', '.join(left_out)}.")


def show_facts(facts: Sequence[tuple[str, object]]) -> None:
    """A line per fact, its name before it; on a terminal a long one goes on below itself."""
    indent = 14
    width = columns_on_output() if output_is_a_terminal() else 0
    for name, value in facts:
        text = visible(value)
        lines = textwrap.wrap(text, max(width - indent, 20), break_long_words=False) if width else [text]
        for number, line in enumerate(lines or [""]):
            show_line(f"{'' if number else name:{indent}}{line}")


def figure_text(value: float) -> str:
    """A measured figure, with a decimal while it has fewer than four digits: 82.8, 9,816."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"


def _agreement(proof: Proof) -> str:
    return "says nothing" if proof.agreement is None else f"{proof.agreement:.2%}"


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
                f"{footprint(item.spec).flash if item.format == 'c' else item.manifest.bytes:,}",
                f"{proof.max_logit_difference:.1e}" if proof else "",
                _agreement(proof) if proof else "",
                f"{accuracy.top1:.2%}" if accuracy else "not measured",
                f"{100 * (accuracy.top1 - before.top1):+.2f}" if accuracy and before else "",
                *([figure_text(1000 * latency[item.path]) if item.path in latency else ""] if latency else []),
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
        spare=("change", "max logit difference", "bytes"),
        captions=[f"Against the checkpoint: logits and top-1 agreement on {proofs[0].images}{on}{speed}."]
        if proofs
        else [],
    )
    for item in exported:
        if item.format == "c":
            _show_memory(item)
        if item.manifest.not_run:
            show_line(f"{item.path.name} was not run here: {item.manifest.not_run}")
    for name, extra in absent.items():
        show_line(f"{name} was left out; it comes with: pip install 'mnv1deploy[{extra}]'")
    for item in exported:
        files = item.manifest.files
        if not item.failures and len(files) > FEW_FILES:
            show_line(f"{item.path}  {len(files)} files, whose sha256 are in {manifest_path(item.path).name}")
        elif not item.failures:
            for name, facts in files.items():
                show_line(f"{item.path.parent / name}  sha256 {facts['sha256']}")


def _show_memory(item: Exported) -> None:
    """What C takes of flash and RAM, and what programs take of a device that it was written for."""
    buffers = fitting_plan(item.spec, item.device)
    found = footprint(item.spec, buffers.scratch)
    show_line(f"{item.path.name}: {_memory(found.flash, found.ram)}")
    if not item.device.is_bounded:
        return
    saved = footprint(item.spec).ram - found.ram
    if saved:
        show_line(f"It is planned with fewer rows at a time, which saves {saved:,} bytes of RAM and takes longer.")
    rows = needs(item.spec, buffers)
    show_table(
        ["processor", "options", "kernels", ">code", ">flash", ">RAM", ">instructions", "fits"],
        [
            (
                row.build.processor,
                row.build.options,
                row.build.kernels,
                f"{row.build.code:,}",
                f"{row.flash:,}",
                f"{row.ram:,}",
                _millions(instructions(item.spec, row.build)),
                "yes" if row.fit(item.device) else "no",
            )
            for row in rows
        ],
        spare=("kernels", "code"),
        captions=[
            f"flash, RAM: bytes of a whole program, with one picture and {STACK:,} bytes of stack, by "
            f"{rows[0].build.compiler}; flash within some hundred bytes. A camera's frame and code come on top.",
            "code: bytes of it that are the network's instructions, counted in the bundled network.",
            "instructions: for a picture, counted under emulation; ~ is estimated from counts. Fewer rows at a time "
            "take up to a tenth more.",
        ],
    )


def _millions(count: Count | None) -> str:
    """Of instructions, and whether they are an estimate; "" where nothing is known."""
    return f"{'' if count.is_measured else '~ '}{count.instructions / 1e6:.1f} M" if count else ""


def show_bench(results: Sequence[Result], refused: dict[str, MnvError]) -> None:
    """Two tables of one benchmark run: times per call, then what every contestant costs once; and who is missing."""
    names = ("min", "mean", "std", "p50", "p90", "p99")
    ordered = sorted(results, key=lambda r: (r.batch_size, r.threads or 0, r.p50))
    times = [
        (
            r.artifact,
            r.threads or "auto",
            r.batch_size,
            *(figure_text(1000 * getattr(r, name)) for name in names),
            figure_text(r.images_per_second),
            f"{r.ratio:.2f}",
        )
        for r in ordered
    ]
    show_table(
        ["artifact", ">threads", ">batch", *(f">{name}" for name in names), ">images/s", ">ratio"],
        times,
        spare=("std", "min", "mean", "p90", "p99", "images/s"),
        title=f"{results[0].provider}: microseconds per call; ratio of p50 to the fastest with that batch and threads",
    )
    once = {
        (r.artifact, r.threads or "auto"): (f"{r.load:.1f}", "" if r.peak_memory is None else f"{r.peak_memory:.0f}")
        for r in ordered
    }
    show_table(
        ["artifact", ">threads", ">load (ms)", ">peak memory (MiB)"],
        [(*contestant, *facts) for contestant, facts in once.items()],
        captions=["peak memory: of the whole process, interpreter and engine included", machine_line()],
    )
    for name, error in refused.items():
        show_line(f"{name} was not measured: {error}")


def show_loadgen(results: Sequence[LoadgenResult], settings: LoadgenSettings) -> None:
    """A row per contestant: what LoadGen measured and its verdict, or the accuracy of the answers it logged."""
    images = f"{results[0].on}, {results[0].images:,} pictures"
    if settings.accuracy:
        show_table(
            ["artifact", ">threads", ">top-1"],
            [(result.artifact, result.threads or "auto", f"{result.top1 or 0:.2%}") for result in results],
            title=f"LoadGen, {settings.scenario}, accuracy",
            captions=[f"of the answers in LoadGen's log, on {images}", machine_line()],
        )
    else:
        rows = []
        for result in results:
            value = result.value or 0.0
            verdict = "VALID" if result.valid else "INVALID"
            rows.append(
                (
                    result.artifact,
                    result.threads or "auto",
                    f"{value / 1e6:.3f}" if "(ns)" in result.metric else f"{value:,.1f}",
                    *(f"{result.latency(p) or 0:.3f}" for p in ("50", "90", "99", "99.9")),
                    verdict + (f": {', '.join(result.unmet)}" if result.unmet else ""),
                )
            )
        called = results[0].metric.replace("latency (ns)", "latency, ms")
        show_table(
            ["artifact", ">threads", f">{called}", *(f">p{p}, ms" for p in ("50", "90", "99", "99.9")), "LoadGen says"],
            rows,
            spare=("p99.9, ms", "p50, ms", "p90, ms", "p99, ms"),
            title=f"LoadGen, {settings.scenario}, {results[0].provider}",
            captions=[f"on {images}; what is not satisfied stands behind INVALID", machine_line()],
        )
        if not settings.keeps_the_rules:
            show_line(
                f"MLPerf's rules ask for {MIN_SECONDS:,.0f} seconds and, of the server, {1000 * SERVER_SECONDS:g} ms: "
                "this is no MLPerf result, whatever LoadGen says."
            )
    for result in results:
        show_line(f"{result.artifact}  LoadGen's logs are in {result.logs}")


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
    names = [profile.artifact for profile in profiles]
    headers, meanings = _headers(names, max(map(len, order)))
    show_table(
        [
            "operator",
            *(["type"] if alone else []),
            *(f">{header}" for header in headers),
            *([">share"] if alone else []),
        ],
        [*rows, ["all", *([""] if alone else []), *(f"{total:.1f}" for total in sums), *([""] if alone else [])]],
        title="mean microseconds per operator",
        captions=[
            *([f"Columns: {meanings}."] if meanings and not alone else []),
            f"{', '.join(names)} on {profiles[0].provider}, batch {profiles[0].batch_size}, with the engine's profiler "
            "on, which costs time itself.",
            machine_line(),
        ],
    )


def _headers(names: Sequence[str], taken: int) -> tuple[list[str], str]:
    """Headers for columns of figures, and what they mean: the names where there is room for them, else numbers.

    ``taken`` is what is left of those columns.
    """
    if taken + sum(max(len(visible(name)), 5) + 3 for name in names) < columns_on_output():
        return list(names), ""
    return [str(number) for number in range(1, len(names) + 1)], ", ".join(
        f"{number} {name}" for number, name in enumerate(names, 1)
    )


def show_evaluation(evaluation: Evaluation) -> None:
    """Top-1, per-class accuracy, calibration and, up to twenty classes, the confusion matrix."""
    classes = evaluation.dataset.classes
    small = len(classes) <= 20
    rows = [
        (name, f"{accuracy:.2%}" if counts.any() else "-", *(count or "." for count in (counts if small else ())))
        for name, accuracy, counts in zip(classes, evaluation.class_accuracy, evaluation.confusion, strict=True)
    ]
    headers, meanings = _headers(classes, max(map(len, classes)) + 12) if small else ([], "")
    show_table(
        ["class", ">top-1", *(f">{header}" for header in headers)],
        rows,
        captions=[
            *([f"Columns: {meanings}."] if meanings else []),
            f"top-1 {evaluation.accuracy}",
            f"Expected calibration error of its probabilities {evaluation.calibration_error():.2%} at temperature "
            f"{evaluation.temperature:g}"
            + ("." if evaluation.temperature == 1 else f", {evaluation.calibration_error(1.0):.2%} without."),
        ],
    )


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
        ["layer", ">weights", ">SQNR", ">output", ">clipped", ">output SQNR", *DEVIATION_COLUMNS],
        rows,
        spare=("clipped", "output", "weights"),
        title="weights and outputs with their signal-to-quantization-noise ratio (dB); what each layer alone costs",
        captions=[
            f"Ranges by {facts['ranges']} over {facts['calibration']}. Clipped: outputs per million above the range. "
            "Output SQNR: with all layers up to this one quantised. Cost of quantising this layer alone, on "
            f"{found.images:,} images ({found.dataset}; float top-1 {found.accuracy:.2%}): Kullback-Leibler divergence "
            "in thousandths of a nat, top-1 agreement, change of the top-1 accuracy in points."
        ],
    )


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
        captions=[
            f"Against the float network on {len(data):,} images ({data.name}): Kullback-Leibler divergence in "
            "thousandths of a nat, top-1 agreement, change of the top-1 accuracy in points."
        ],
    )


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
        spare=("standard", "bytes", "ratio"),
        captions=[
            f"bytes: of the output, {cost.precision}; with input: held while the layer runs, at most "
            f"{cost.peak_bytes:,} ({cost.peak_layer}).",
            "standard: multiply-adds of a 3x3 convolution in place of both; ratio: 1 / C_out + 1 / 9.",
        ],
    )


def show_plan(plan: Plan) -> None:
    """A row per fusion of two layers in the generated C: what it reads and writes, and what is in between."""
    rows = [
        (
            fusion.name,
            "the picture" if fusion.input < 0 else f"{fusion.input:,} .. {fusion.input + fusion.input_bytes:,}",
            f"{fusion.output:,} .. {fusion.output + fusion.output_bytes:,}",
            str(fusion.rows),
            f"{fusion.rows_bytes:,}",
        )
        for fusion in plan.fusions
    ]
    show_table(
        ["fused layers", ">reads", ">writes", ">rows at a time", ">bytes of rows"],
        rows,
        title=f"{plan.scratch:,} bytes of scratch",
        captions=[
            "reads, writes: bytes of the scratch; an output overwrites what was read before it.",
            f"rows: what a 1x1 convolution reads, a few at a time, at {plan.rows_at:,} .. {plan.scratch:,}.",
        ],
    )


def _memory(flash: int, ram: int) -> str:
    return f"{flash:,} bytes of flash for weights and tables, {ram:,} of RAM; code, stack and picture come on top"


def show_info(facts: dict[str, Any]) -> None:
    """The facts of :func:`info_as_dict`, a line each."""
    spec = ModelSpec.from_dict(facts["spec"])
    kind = network_kind(facts) if "training" in facts else "mobilenetv1"
    shape = ", ".join(map(str, spec.pixels.shape))
    blocks = ", ".join(f"{block.channels}/{block.stride}" for block in spec.blocks)
    classes = ", ".join(spec.classes[:12]) + (", ..." if len(spec.classes) > 12 else "")
    mean, std = (
        ", ".join(f"{v:g}" for v in dict.fromkeys(part)) for part in (spec.normalization.mean, spec.normalization.std)
    )
    size = "" if "flash" in facts else f"{facts['bytes']:,} bytes, "  # of a source they say nothing
    rows: list[tuple[str, object]] = [
        ("file", f"{facts['path']} ({size}{facts['format']} {facts.get('precision', 'fp32')})"),
        *(("sha256", f"{file['sha256']}  {name}") for name, file in facts["files"].items()),
        (
            "network",
            f"{spec.name}, stem {spec.stem.channels}/{spec.stem.stride}, blocks {blocks}, {spec.activation}, "
            f"{spec.padding} padding"
            if kind == "mobilenetv1"
            else f"a {kind} for {spec.name}, no MobileNetV1 itself",
        ),
        (
            "input",
            f"image uint8 [N, {shape}], normalised inside: (pixel - {mean}) / {std}",
        ),
        ("output", f"logits float32 [N, {len(spec.classes)}]: {classes}"),
        ("probabilities", "softmax(logits" + (f" / {spec.temperature:g})" if spec.temperature != 1 else ")")),
    ]
    if "flash" in facts:
        rows.append(("memory", _memory(facts["flash"], facts["ram"])))
    for accuracy in facts.get("accuracy", []):
        rows.append(("accuracy", Accuracy(**accuracy)))
    if "imported_from" in facts.get("training", {}):
        rows += _imported_rows(facts["training"])
    elif facts.get("training"):
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
                f"top-1 agreement {_agreement(proof)} on {proof.images}",
            )
        )
        if proof.others:
            rows.append(("", f"logits compared on {proof.others} besides"))
        if proof.accuracy and proof.checkpoint_accuracy:
            rows.append(("", f"top-1 {proof.accuracy}; checkpoint {proof.checkpoint_accuracy.top1:.2%}"))
    elif "proof" in facts:
        reason = facts["not_run"] or "there is no manifest beside the file"
        rows.append(("proof", f"none: {reason}"))
    rows.append(("written by", ", ".join(f"{name} {version}" for name, version in facts["versions"].items())))
    show_facts(rows)


def _imported_rows(said: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """What a checkpoint knows of the file that it came from; see :class:`mnv1deploy.importing.Imported`."""
    yield "imported from", f"{said['imported_from']}, sha256 {said['sha256']}"
    for fact in said["facts"]:
        yield "", f"{fact['what']} {fact['value']}: {fact['how']}"
    for verdict in said["fingerprint"]:
        nearest = sorted(verdict["distances"].items(), key=lambda row: row[1])[:3]
        distances = ", ".join(f"{name} {distance:.3f}" for name, distance in nearest)
        yield "", f"fingerprint, {verdict['option']}: {distances} nats; 0 is the same"
    if said["comparison"]:
        yield "", _compared(said["comparison"])
    yield from (("", note) for note in said["notes"])


def _compared(found: Mapping[str, Any]) -> str:
    kind = "integers" if found["quantized"] else "floats"
    return (
        f"{found['engine']} on the file's {kind}, {found['count']} pictures: {found['agreement']:.2%} the same class, "
        f"logits within {found['largest']:.2g} standard deviations"
    )


def show_imported(path: Path, imported: Imported) -> None:
    """What an import decided and on what grounds, what the statistics say, and how it compares with the file."""
    rows = [(fact.what, fact.value, fact.how) for fact in imported.facts]
    show_table(["", "value", "from"], rows)
    for verdict in imported.verdicts:
        show_line(f"Fingerprint, {verdict.option}: {verdict} (nats; 0 is the same)")
    for note in imported.notes:
        show_line(note)
    if imported.proof:
        show_line(_compared(asdict(imported.proof)))
    show_line(f"{path}" + (f"  top-1 {imported.accuracy}" if imported.accuracy else ""))


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


def show_providers(available: dict[str, list[str]], missing: dict[str, str]) -> None:
    """What is there, by format, and what is not, by the package that brings it."""
    by_provider: dict[str, list[str]] = {}
    for format_, names in available.items():
        for name in names:
            by_provider.setdefault(name, []).append(format_)
    show_table(["available", "for"], [(name, ", ".join(found)) for name, found in by_provider.items()])
    show_table(["not available", "comes with"], list(missing.items()), captions=[machine_line()])


def show_doctor(report: Report) -> None:
    """Facts of the machine, a row per format, and what does not go together."""
    show_facts(list(report.machine.items()))
    show_table(
        ["format", "engine", "", ">seconds", "on", "what"],
        [
            (
                engine.format,
                ", ".join(f"{name} {version}" for name, version in engine.versions.items()),
                engine.status,
                f"{engine.seconds:.1f}" if engine.seconds else "",
                ", ".join(name.removesuffix("ExecutionProvider") for name in engine.providers),
                engine.detail,
            )
            for engine in report.engines
        ],
        spare=("seconds", "engine"),
    )
    for doubt in report.doubts:
        show_line(f"{doubt.what} (From {doubt.source}.)")
    broken = [engine.format for engine in report.engines if engine.status == "broken"]
    show_line(f"Broken: {', '.join(broken)}." if broken else "Nothing that is installed is broken.")


def show_choices(wanted: Wanted, choices: Sequence[Choice]) -> None:
    """A row per candidate, what the figures are, and the command that exports the first."""
    here = any(choice.build for choice in choices)
    memories = any(choice.flash for choice in choices)
    timed = any(choice.seconds for choice in choices)
    core = wanted.core if timed else None
    least = "at least " if core and core.is_bound else ""
    rows = []
    for choice in choices:
        accuracy = choice.candidate.accuracy
        count = "" if choice.instructions is None else f"{choice.instructions / 1e6:.1f} M"
        rows.append(
            [
                choice.candidate.name,
                "unknown"
                if accuracy is None
                else f"{accuracy.top1:.2%}{'' if choice.candidate.is_int8 else ' (float)'}",
                f"{choice.weights:,}",
                f"{choice.multiply_adds / 1e6:.1f} M",
                *([choice.build.options if choice.build else ""] if here else []),
                *(
                    [f"{choice.flash or 0:,}", f"{choice.ram or 0:,}{'*' if choice.is_planned else ''}"]
                    if memories
                    else []
                ),
                *([f"{'~ ' if count and not choice.is_measured else ''}{count}"] if here else []),
                *([f"{1000 * choice.seconds:.1f}" if choice.seconds else ""] if timed else []),
                "best" if choice.is_best else "yes" if choice.fits else f"no: {', '.join(choice.missing)}",
            ]
        )
    named = [choice for choice in choices if choice.candidate.accuracy]
    captions = []
    if named:
        captions.append(f"top-1: on {named[0].candidate.accuracy.on if named[0].candidate.accuracy else ''}, of int8")
    if here:
        captions.append(
            f"instructions: for a picture on {wanted.processor}, counted under emulation; ~ is estimated from counts"
        )
    if memories:
        captions.append(
            f"flash, RAM: bytes of a whole program, with one picture and {STACK:,} bytes of stack; * planned with few "
            "rows at a time, which takes up to a tenth more instructions"
        )
    if core:
        captions.append(
            f"ms: estimated, {least}{core.per_instruction:.2f} cycles an instruction ({core.source}), memory without "
            "wait states"
        )
    captions.append("best: nothing else that fits is as accurate and takes less")
    if note := wanted.note:
        captions.append(note)
    show_table(
        [
            *("network", ">top-1", ">weights", ">multiply-adds"),
            *(["options"] if here else []),
            *([">flash", ">RAM"] if memories else []),
            *([">instructions"] if here else []),
            *([f">{least}ms"] if timed else []),
            "fits",
        ],
        rows,
        spare=("weights", "multiply-adds", "options"),
        captions=captions,
    )
    if choices[0].fits:
        from mnv1deploy import choosing

        show_line(choosing.command(wanted, choices[0]))
