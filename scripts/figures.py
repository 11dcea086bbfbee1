"""What docs/measurements.json says, as text for README and docs.

A page has a figure between ``<!-- measured: NAME -->`` and ``<!-- /measured -->``; NAME is one of FIGURES. Beside what
was measured there is what can be computed from the sources at once. tests/test_docs.py compares the pages with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from mnv1deploy import bundled
from mnv1deploy.artifact import Manifest
from mnv1deploy.benchmark import processor
from mnv1deploy.c import backends
from mnv1deploy.c.cycles import CORES
from mnv1deploy.c.plan import plan
from mnv1deploy.classifier import BATCH
from mnv1deploy.cluster import PART
from mnv1deploy.cost import cost
from mnv1deploy.report.tables import figure_text
from mnv1deploy.spec import CIFAR, PAPER, SCALED_SIDES
from mnv1deploy.verification import LIMITS

ROOT = Path(__file__).parents[1]
FILE = ROOT / "docs" / "measurements.json"
PAGES = (ROOT / "README.md", ROOT / "models" / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
MARKED = re.compile(r"(<!-- measured: ([\w.-]+) -->)(.*?)(<!-- /measured -->)", re.DOTALL)
PRECISIONS = ("int8", "fp16", "fp32")

Run = dict[str, Any]
Runs = dict[str, list[Run]]

ENGINES = {
    "c": ("C", ""),
    "onnx": ("ONNX, onnxruntime", "onnxruntime"),
    "openvino": ("OpenVINO", "openvino"),
    "litert": ("LiteRT", "ai-edge-litert"),
    "executorch": ("ExecuTorch", "executorch"),
    "torchscript": ("TorchScript", "torch"),
    "ncnn": ("ncnn", "ncnn"),
    "mnn": ("MNN", "MNN"),
    "aoti": ("AOTInductor", "torch"),
    "tflm": ("LiteRT for Microcontrollers", ""),
    "tensorrt": ("TensorRT's ONNX, onnxruntime", "onnxruntime"),
    "triton": ("Triton's repository, onnxruntime", "onnxruntime"),
    "coreml": ("Core ML", ""),
    "web": ("WebAssembly, wasmtime", "wasmtime"),
    "pytorch": ("PyTorch, eager", "torch"),
    "pytorch-compiled": ("PyTorch, compiled", "torch"),
}
"""What tables call the formats and the two references of ``mnv1 bench``, and the package of each engine."""


def measured() -> Runs:
    """Every run that is kept, by name, the newest first."""
    return json.loads(FILE.read_text("utf-8"))["runs"] if FILE.exists() else {}


def written(text: str, runs: Runs) -> str:
    """A page's text with every marked figure as it was measured. Raises KeyError for a name that is none of FIGURES."""
    return MARKED.sub(lambda found: f"{found[1]}{FIGURES[found[2]](runs)}{found[4]}", text)


def names(text: str) -> set[str]:
    """Of the figures on a page."""
    return {found[1] for found in MARKED.findall(text)}


# ---- Texts


def table(header: str, rows: Iterable[Sequence[str]]) -> str:
    """Columns whose header begins with ">" are aligned to the right."""
    titles = header.split(" | ")
    lines = [
        [title.lstrip(">") for title in titles],
        ["---:" if title.startswith(">") else "---" for title in titles],
        *rows,
    ]
    return "\n" + "\n".join(f"| {' | '.join(line)} |".replace("  ", " ") for line in lines) + "\n"


def percent(value: float | None) -> str:
    """Of a fraction; nothing where there is none."""
    return "" if value is None else f"{100 * value:.2f} %"


def microseconds(value: float | None) -> str:
    """Nothing where there is none."""
    return "" if value is None else figure_text(value)


def top1(row: Run | None) -> float | None:
    """An artifact's accuracy as a fraction, where it was proved here."""
    return row["proof"]["accuracy"]["top1"] if row and row["proof"] and row["proof"]["accuracy"] else None


def machine(name: str) -> Callable[[Runs], str]:
    """What the newest run of that name was made on, and how busy it was with other things."""

    def sentence(runs: Runs) -> str:
        run = runs[name][0]
        return f"{processor(run['machine'])}, load {run['load']:.1f} at the start, {run['date']}"

    return sentence


# ---- Artifacts


def artifacts(runs: Runs) -> dict[str, dict[str, Run]]:
    """The newest facts and latencies by format and precision, the fastest int8 first, then the fastest fp32."""
    p50 = {row["artifact"]: row["p50"] for row in runs["latency"][0]["results"]}
    found: dict[str, dict[str, Run]] = {}
    for row in runs["artifacts"][0]["results"]:
        if row["format"] == "triton":  # it is the ONNX file again
            continue
        found.setdefault(row["format"], {})[row["precision"]] = {**row, "p50": p50.get(row["artifact"])}
    for name in ("pytorch", "pytorch-compiled"):
        found[name] = {"fp32": {"p50": p50[name], "bytes": None, "proof": None}}

    def latency(name: str) -> list[float]:
        return [found[name].get(precision, {}).get("p50") or float("inf") for precision in ("int8", "fp32")]

    return {name: found[name] for name in sorted(found, key=latency)}


def engines_table(runs: Runs) -> str:
    """README's: a row per engine that runs here."""
    formats = artifacts(runs)
    versions = runs["latency"][0]["machine"]["versions"]
    times = {name: [row.get("p50") for p in ("int8", "fp32") if (row := rows.get(p))] for name, rows in formats.items()}
    fastest = [min(rows[p]["p50"] for rows in formats.values() if rows.get(p, {}).get("p50")) for p in ("int8", "fp32")]

    def rows() -> Iterator[list[str]]:
        for name, rows in formats.items():
            if not any(times[name]):
                continue
            int8, fp32 = rows.get("int8"), rows.get("fp32")
            latency = [row["p50"] if row else None for row in (int8, fp32)]
            shown = [
                f"**{microseconds(one)}**" if one == best else microseconds(one)
                for one, best in zip(latency, fastest, strict=True)
            ]
            title, package = ENGINES[name]
            agreement = int8["proof"]["agreement"] if int8 and int8["proof"] else None
            yield [
                f"{title} {versions.get(package, '')}".strip(),
                shown[0],
                shown[1],
                percent(top1(int8)),
                percent(agreement),
                compiled(runs) if name == "c" else f"{int8['bytes']:,}" if int8 else "",
            ]

    return table("engine | >int8, µs | >fp32, µs | >top-1 of int8 | >agreement | >bytes", rows())


def format_table(name: str) -> Callable[[Runs], str]:
    """A format's own page: a row per precision, with onnxruntime's latency of the same run; no empty column."""

    def text(runs: Runs) -> str:
        found = artifacts(runs)
        here = any(row["p50"] for row in found[name].values())

        def rows() -> Iterator[dict[str, str]]:
            for precision in PRECISIONS:
                row, onnx = found[name].get(precision), found["onnx"].get(precision)
                if not row:
                    continue
                proof = row["proof"] or {}
                difference, accuracy = proof.get("max_logit_difference"), top1(row)
                change = 100 * (accuracy - proof["checkpoint_accuracy"]["top1"]) if accuracy else None
                yield {
                    "precision": precision,
                    ">bytes": f"{row['bytes']:,}",
                    ">largest logit difference": "" if difference is None else f"{difference:.1e}",
                    ">agreement": percent(proof.get("agreement")),
                    ">change in points": "" if change is None else f"{change:+.2f}",
                    ">p50, µs": microseconds(row["p50"]),
                    ">onnxruntime, µs": microseconds(onnx["p50"]) if onnx and here and name != "onnx" else "",
                }

        shown = list(rows())
        columns = [column for column in shown[0] if any(row[column] for row in shown)]
        return table(" | ".join(columns), ([row[column] for column in columns] for row in shown))

    return text


def checkpoint_accuracy(runs: Runs) -> str:
    """What every artifact was compared with."""
    proofs = (row["proof"] for row in runs["artifacts"][0]["results"] if row["proof"])
    return percent(next(proof["checkpoint_accuracy"]["top1"] for proof in proofs))


def onnx_by_processor(runs: Runs) -> str:
    """A row per processor that was measured on."""

    def rows() -> Iterator[list[str]]:
        for run in runs["latency"]:
            p50 = {row["artifact"]: row["p50"] for row in run["results"]}
            int8, fp32 = (p50[f"mobilenetv1_cifar10_{precision}.onnx"] for precision in ("int8", "fp32"))
            version = run["machine"]["versions"]["onnxruntime"]
            yield [processor(run["machine"]), version, microseconds(int8), microseconds(fp32), f"{int8 / fp32:.2f}"]

    return table("processor | onnxruntime | >int8, µs | >fp32, µs | >ratio", rows())


def old_onnxruntime_table(runs: Runs) -> str:
    """A row per version: how far the logits of the files in models/ are from those of the newest."""

    def rows() -> Iterator[list[str]]:
        for row in runs["old_onnxruntime"][0]["results"]:
            found = (row[precision] for precision in ("int8", "fp32"))
            yield [row["onnxruntime"], *("refused" if isinstance(one, str) else f"{one:.1e}" for one in found)]

    return table("onnxruntime | >int8 | >fp32", rows())


def throughput(runs: Runs) -> str:
    """Images per second, the fastest first."""
    rows = sorted(runs["throughput"][0]["results"], key=lambda row: -row["images_per_second"])
    called = {".c": "the C", ".onnx": "onnxruntime", ".xml": "OpenVINO", ".tflite": "LiteRT", ".pte": "ExecuTorch"}
    *first, last = (
        f"{called[Path(row['artifact']).suffix]} {round(row['images_per_second'], -2):,.0f}" for row in rows
    )
    return f"{', '.join(first)} and {last}"


def shipped(runs: Runs) -> str:
    """The files in models/, by what they and their manifests say."""

    def rows() -> Iterator[list[str]]:
        for path in reversed(bundled.CHECKPOINTS.values()):
            int8 = path.with_name(f"{path.stem}_int8.onnx")
            found = [(int8, "ONNX, int8 weights and activations")]
            found += [(bundled.FP32, "ONNX, float32")] if path == bundled.CHECKPOINT else []
            manifests = [(file, what, Manifest.read(file)) for file, what in found]
            proofs = [(file, what, kept, kept.proof) for file, what, kept in manifests if kept and kept.proof]
            before = proofs[0][3].checkpoint_accuracy
            assert before
            size = path.stat().st_size
            yield [f"`{path.name}`", "the checkpoint", f"{size:,}", percent(before.top1)]
            for file, what, kept, proof in proofs:
                assert proof.accuracy
                yield [f"`{file.name}`", what, f"{kept.bytes:,}", percent(proof.accuracy.top1)]

    return table("file | what | >bytes | >top-1 on the 10,000 test images", rows())


def ladder_table(runs: Runs) -> str:
    """A row per width, and one for each network beside them."""

    def rows() -> Iterator[list[str]]:
        for row in reversed(runs["ladder"][0]["results"][: len(bundled.CHECKPOINTS)]):
            yield [
                f"`{row['network']}`",
                f"{row['parameters']:,}",
                f"{row['multiply_adds']:,}",
                f"{row['bytes']:,}",
                microseconds(row["p50"]),
                percent(row["checkpoint"]),
                percent(row["top1"]),
            ]
        for row in runs["ladder"][0]["results"][len(bundled.CHECKPOINTS) :]:
            latency = microseconds(row["p50"]) if row["p50"] else ""
            yield [
                row["network"],
                "",
                f"{row['multiply_adds']:,}",
                f"{row['bytes']:,}",
                latency,
                "",
                percent(row["top1"]),
            ]

    header = "network | >parameters | >multiply-adds | >bytes, int8 | >one picture, us | >top-1, float32 | >top-1, int8"
    return table(header, rows())


def gpu_table(runs: Runs) -> str:
    """A row per contestant on the card: p50 of one picture, images per second by batch size, and its parity."""
    run = runs["gpu"][0]
    rows: dict[str, dict[int, Run]] = {}
    for row in run["results"]:
        rows.setdefault(Path(row["artifact"]).name, {})[row["batch_size"]] = row
    sizes = sorted({row["batch_size"] for row in run["results"]})

    def cells(name: str) -> Iterator[str]:
        by_size = rows[name]
        yield f"`{name}`" + (", convolutions in TF32" if by_size[sizes[0]].get("tf32") else "")
        yield microseconds(1000 * by_size[1]["p50"])
        yield from (f"{by_size[size]['images_per_second']:,.0f}" for size in sizes)
        parity = run["parity"].get(name)
        yield f"{parity['max_logit_difference']:.1g}" if parity else ""

    header = " | ".join(["", ">one picture, us", *(f">images/s, {size:,}" for size in sizes), ">largest difference"])
    return table(header, [list(cells(name)) for name in rows])


def gpu_machine(runs: Runs) -> str:
    """The card, and the versions."""
    run = runs["gpu"][0]
    versions = run["machine"]["versions"]
    return f"{run['card']}, onnxruntime-gpu {versions['onnxruntime-gpu']}, torch {versions['torch']}, {run['date']}"


# ---- MLPerf


def loadgen_table(runs: Runs) -> str:
    """A row per engine and scenario: LoadGen's figure and its verdict."""

    def rows() -> Iterator[list[str]]:
        for row in runs["loadgen"][0]["results"]:
            latency = "(ns)" in row["metric"]
            figure = f"{row['value'] / 1e3:,.0f} µs" if latency else f"{row['value']:,.0f} pictures/s"
            verdict = "VALID" if row["valid"] else f"INVALID ({', '.join(row['unmet'])})"
            what = row["metric"].replace(" (ns)", "")
            yield [row["scenario"], f"`{row['artifact']}`", what, figure, verdict, percent(row["top1"])]

    return table("scenario | artifact | LoadGen's figure | > | LoadGen says | >top-1", rows())


def loadgen_rules(runs: Runs) -> str:
    """How long the runs were."""
    row = runs["loadgen"][0]["results"][0]
    short = "" if row["rules"] else ", shorter than MLPerf's rules ask for"
    return f"{float(row['seconds']):g} seconds{short}"


def tiny_table(runs: Runs) -> str:
    """Ours and MLPerf Tiny's reference."""
    rows = (
        [row["network"], f"{row['bytes']:,}", percent(row["few"]), percent(row["all"]), percent(row["required"])]
        for row in runs["tiny"][0]["results"]
    )
    return table("network | >bytes | >the 200 pictures | >all 10,000 | >required", rows)


# ---- The C


def sizes_rows(runs: Runs) -> list[Run]:
    """Of the networks of other sizes; none until they are measured."""
    return runs["sizes"][0]["results"] if "sizes" in runs else []


def sizes_table(runs: Runs) -> str:
    """A row per engine, two columns per size of the network; empty until it is measured."""
    rows = {(row["size"], row["width"], row["format"], row["threads"]): row for row in sizes_rows(runs)}
    networks = list(dict.fromkeys((size, width) for size, width, _, _ in rows))
    engines = list(dict.fromkeys((format_, threads) for *_, format_, threads in rows))

    def cells(engine: tuple[str, int]) -> Iterator[str]:
        format_, threads = engine
        yield ENGINES[format_][0] + (f", {threads} threads" if threads > 1 else "")
        for network in networks:
            row = rows.get((*network, *engine), {})
            yield f"{row['bytes']:,}" if "bytes" in row else ""
            yield microseconds(row.get("p50"))

    header = " | ".join(["int8, one thread", *(f">{s} x {s}, width {w}: bytes | >us" for s, w in networks)])
    return table(header, [list(cells(engine)) for engine in engines]) if rows else ""


def sizes_export(runs: Runs) -> str:
    """What the export to C of each takes; empty until it is measured."""
    said = {
        (row["size"], row["width"]): f"{row['export_seconds']:.0f} s of one processor and "
        f"{row['export_mebibytes']:,.0f} MiB at {row['size']} x {row['size']} pixels and width {row['width']}"
        for row in sizes_rows(runs)
    }
    return "; ".join(said.values())


def backends_table(runs: Runs) -> str:
    """A row per instruction set, a column per processor that was measured on."""
    columns = [{row["backend"]: row["p50"] for row in run["results"]} for run in runs["backends"]]
    header = " | ".join(["instruction set", *(f">{processor(run['machine'])}" for run in runs["backends"])])
    rows = (
        [f"`{name}`", *(microseconds(column.get(name)) for column in columns)]
        for name in backends.NAMES
        if any(name in column for column in columns)
    )
    return table(header, rows)


def profiles(runs: Runs) -> Iterator[tuple[str, dict[str, Run]]]:
    """The instruction sets that were profiled, each once, and the rows of each by layer."""
    seen = set()
    for run in runs["profile"]:
        for backend in dict.fromkeys(row["backend"] for row in run["results"]):
            if backend not in seen:
                seen.add(backend)
                rows = {row["layer"]: row for row in run["results"] if row["backend"] == backend}
                yield backend, rows


def profile_table(runs: Runs) -> str:
    """A row per layer, two columns per instruction set: microseconds, and how much of them is the bound."""
    found = list(profiles(runs))
    layers = list(dict.fromkeys(layer for _, rows in found for layer in rows if layer not in ("peak", "network")))

    def cells(row: Run | None) -> list[str]:
        if not row:
            return ["", ""]
        reached = f"{100 * row['bound'] / row['microseconds']:.0f} %" if row["bound"] else ""
        return [f"{row['microseconds']:.2f}", reached]

    rows = ([layer, *(cell for _, by in found for cell in cells(by.get(layer)))] for layer in [*layers, "network"])
    return table(" | ".join(["layer", *(f">`{backend}` | >of it" for backend, _ in found)]), rows)


def peaks(runs: Runs) -> str:
    """The rate of each instruction set's products alone."""
    return ", ".join(f"{rows['peak']['multiply_adds']:,.0f} with `{name}`" for name, rows in profiles(runs))


def emulation_table(runs: Runs) -> str:
    """A row per processor and options."""
    header = (
        "processor | options | >code | >constants | >whole flash | >whole RAM | >stack in use | >instructions | >cycles"
    )
    sizes = ("code", "constants", "flash", "ram", "stack")

    def cycles(row: Run) -> str:
        core = CORES.get(row["processor"])
        bound = "≥ " if core and core.is_bound else "≈ "
        return f"{bound}{row['instructions'] * core.per_instruction / 1e6:.1f} M" if core else ""

    rows = (
        [
            row["processor"],
            row["options"],
            *(f"{row[size]:,}" if row[size] else "" for size in sizes),
            f"{row['instructions'] / 1e6:.1f} M",
            cycles(row),
        ]
        for row in runs["emulation"][0]["results"]
    )
    return table(header, rows)


def plans_table(runs: Runs) -> str:
    """A row per plan, a column of instructions per processor."""
    rows = runs["plans"][0]["results"]
    names = list(dict.fromkeys(row["processor"] for row in rows))
    by_scratch: dict[int, dict[str, Run]] = {}
    for row in rows:
        by_scratch.setdefault(row["scratch"], {})[row["processor"]] = row
    header = " | ".join([">scratch", ">whole RAM", *(f">{name}" for name in names)])
    return table(
        header,
        (
            [
                f"{scratch:,}",
                f"{found[names[0]]['ram']:,}",
                *(f"{found[name]['instructions'] / 1e6:.1f} M" for name in names),
            ]
            for scratch, found in by_scratch.items()
        ),
    )


def layers_table(runs: Runs) -> str:
    """A row per layer: instructions for each of its multiply-adds, and their part of all."""
    rows = {(row["processor"], row["layer"]): row for row in runs["layers"][0]["results"]}
    processors, names = (list(dict.fromkeys(key)) for key in zip(*rows, strict=True))
    order = [layer.name for layer in CIFAR.layers()]
    whole = {p: sum(row["instructions"] for (of, _), row in rows.items() if of == p) for p in processors}

    def cells(layer: str, processor: str) -> Iterator[str]:
        row = rows.get((processor, layer))
        yield f"{row['instructions'] / 1e3:,.0f}" if row else ""
        yield f"{row['instructions'] / row['multiply_adds']:.2f}" if row and row["multiply_adds"] else ""
        yield f"{100 * row['instructions'] / whole[processor]:.0f} %" if row else ""

    header = " | ".join(["layer", *(f">{name}: thousands | >a multiply-add | >part" for name in processors)])
    listed = sorted(names, key=order.index)
    return table(header, [[f"`{name}`", *(cell for p in processors for cell in cells(name, p))] for name in listed])


def cameras_table(runs: Runs) -> str:
    """A row per kind of frame."""
    results = runs["cameras"][0]["results"]
    rows = [[f"`{row['camera']}`", f"{row['instructions'] / 1e6:.1f} M"] for row in results]
    return table("frame | >instructions", rows)


def cortex_m4(runs: Runs) -> Run:
    """What the C takes on it, compiled with -O2."""
    rows = runs["emulation"][0]["results"]
    return next(row for row in rows if (row["processor"], row["options"]) == ("Cortex-M4", "-O2"))


def compiled(runs: Runs) -> str:
    """The bytes of the C as a program has it; its source says nothing."""
    row = cortex_m4(runs)
    return f"{row['code'] + row['constants']:,} (Cortex-M4)"


def microcontroller(runs: Runs) -> str:
    """What a Cortex-M4 needs, in one clause."""
    row = cortex_m4(runs)
    flash, ram = (f"{row[part] / 1000:.0f} KB" for part in ("flash", "ram"))
    return f"{flash} of flash, {ram} of RAM and {row['instructions'] / 1e6:.0f} million instructions"


def plan_table(runs: Runs) -> str:
    """Where the bundled network's activations are in the C's scratch."""
    rows = (
        [
            fusion.name,
            "the picture" if fusion.input < 0 else f"{fusion.input:,} .. {fusion.input + fusion.input_bytes:,}",
            f"{fusion.output:,} .. {fusion.output + fusion.output_bytes:,}",
            str(fusion.rows),
            f"{fusion.rows_bytes:,}",
        ]
        for fusion in plan(CIFAR).fusions
    )
    return table("step | >reads | >writes | >rows at a time | >bytes of rows", rows)


# ---- Quantization and training


def schemes_table(runs: Runs) -> str:
    """A row per scheme, the smallest divergence and the default in bold."""
    results = runs["schemes"][0]["results"]
    least = min(row["divergence"] for row in results)

    def rows() -> Iterator[list[str]]:
        for row in results:
            divergence = f"{1000 * row['divergence']:.3f}"
            yield [
                f"**{row['ranges']}**" if row["default"] else row["ranges"],
                f"{row['equalization']:g}" if row["equalization"] else "",
                "compensated" if row["compensation"] else "nearest",
                "corrected" if row["bias_correction"] else "",
                f"**{divergence}**" if row["divergence"] == least else divergence,
                percent(row["agreement"]),
                f"{100 * row['accuracy_change']:+.2f}",
            ]

    return table("ranges | equalization | rounding | biases | >divergence | >agreement | >accuracy", rows())


def equalization_table(runs: Runs) -> str:
    """A row per network, the divergence of each strength in thousandths of a nat."""
    found: dict[tuple[str, str], dict[float, float]] = {}
    for row in runs["equalization"][0]["results"]:
        by_strength = found.setdefault((row["network"], row["activation"]), {})
        by_strength[row["equalization"]] = row["divergence"]
    strengths = sorted(set().union(*found.values()))
    names = {"relu": "ReLU", "relu6": "ReLU6"}
    rows = (
        [network, names[activation], *(f"{1000 * by_strength[strength]:.2f}" for strength in strengths)]
        for (network, activation), by_strength in found.items()
    )
    return table(" | ".join(["network", "activation", *(f">{strength:g}" for strength in strengths)]), rows)


def span(values: Sequence[float]) -> str:
    """From the least to the largest of some fractions, in whole percent."""
    return " to ".join(dict.fromkeys(f"{100 * end:.0f}" for end in (min(values), max(values)))) + " %"


def evidence_table(runs: Runs) -> str:
    """A row per kind of calibration pictures: means over the draws, and the noise of the best and worst of them."""

    def rows() -> Iterator[list[str]]:
        for row in runs["evidence"][0]["results"]:
            accuracy, agreement = (f"{100 * sum(row[k]) / len(row[k]):.1f} %" for k in ("accuracy", "agreement"))
            yield [row["pictures"], accuracy, agreement, span(row["noise"]), span(row["bundled_noise"])]

    header = "calibrated on | >accuracy | >agreement | >noise of the logits | >on bundled pictures"
    return table(header, rows())


def bundled_noise(choose: Callable[[list[float]], float], **wanted: str) -> Callable[[Runs], str]:
    """The least or the largest on bundled pictures of all draws of some kinds."""

    def text(runs: Runs) -> str:
        rows = (row for row in runs["evidence"][0]["results"] if wanted.items() <= row.items())
        return f"{100 * choose([noise for row in rows for noise in row['bundled_noise']]):.0f} %"

    return text


def limits_table(runs: Runs) -> str:
    """What a proof demands."""

    def rows() -> Iterator[list[str]]:
        for precision, limits in LIMITS.items():
            difference, agreement, loss, noise, bundled_noise = astuple(limits)
            yield [
                precision,
                "" if difference == float("inf") else f"{difference:.0e}".replace("e-0", "e-"),
                f"{100 * noise:g} %",
                f"{100 * bundled_noise:g} %",
                f"{100 * agreement:g} %",
                f"{100 * loss:g} points" if loss else "none",
            ]

    header = "precision | >largest logit difference | >noise of the logits | >on bundled pictures | >top-1 agreement"
    return table(f"{header} | >loss of accuracy", rows())


def startup(runs: Runs) -> str:
    """Of a whole process, and how many times a bare script's."""
    ours, bare = (row["seconds"] for row in runs["startup"][0]["results"])
    return f"{ours:.2f} s of processor time, {ours / bare:.2f} times"


def few_pictures_table(runs: Runs) -> str:
    """A row per data set and start."""
    rows = (
        [
            f"{row['pictures']:,} ({row['what']})",
            f"{row['test_pictures']:,}",
            str(row["classes"]),
            row["start"],
            f"{100 * row['before']:.1f} %",
            f"{100 * row['now']:.1f} %",
            f"{row['seconds']:.0f}",
            f"{100 * row['loop']:.1f} %",
        ]
        for row in runs["few_pictures"][0]["results"]
    )
    header = "pictures | >tested on | >classes | from | >0.1.0's settings | >`mnv1 train` | >seconds | >the usual loop"
    return table(header, rows)


def fine_tuning_table(runs: Runs) -> str:
    """A row per public network."""
    rows = (
        [
            f"{row['what']} (`{row['file']}`)",
            f"{row['pictures']:,}",
            str(row["epochs"]),
            f"{100 * row['nothing']:.1f} %",
            f"{100 * row['tuned']:.1f} %",
            f"{row['seconds']:.0f}",
        ]
        for row in runs["fine_tuning"][0]["results"]
    )
    return table("start | >pictures | >epochs | >from nothing | >fine-tuned | >seconds", rows)


def runs_table(runs: Runs) -> str:
    """A row per log in docs/training, and one for all seeds of ``best``."""
    found = runs["trained"][0]["results"]
    best = [row for row in found if row["options"].startswith("--recipe best --seed")]

    def rows() -> Iterator[list[str]]:
        for row in found:
            log = f"[{row['log']}](../docs/training/{row['log']})"
            accuracies = (percent(row[part]) for part in ("holdout", "test"))
            yield [f"`{row['options']}`", str(row["epochs"]), *accuracies, f"{row['minutes']:.1f}", log]
        deviations = (
            f"{100 * mean(values):.2f} ± {100 * stdev(values):.2f} %"
            for values in ([row[part] for row in best] for part in ("holdout", "test"))
        )
        yield [f"{len(best)} seeds of `best`, mean and standard deviation", "", *deviations, "", ""]

    return table("`mnv1 train` | >epochs | >held out | >test | >minutes | log", rows())


def ladder_span(runs: Runs) -> str:
    """Bytes and int8 top-1 of the narrowest and the widest."""
    ours = runs["ladder"][0]["results"][: len(bundled.CHECKPOINTS)]
    ends = (f"{round(row['bytes'] / 1000)} KB and {percent(row['top1'])} of CIFAR-10" for row in (ours[0], ours[-1]))
    return " to ".join(ends)


def trained_together(runs: Runs) -> str:
    """Images per second of all networks that were trained at the same time, each by its median epoch."""
    logs = [
        ROOT / "docs" / "training" / row["log"]
        for row in runs["trained"][0]["results"]
        if "--recipe best" in row["options"]
    ]
    epochs = [[json.loads(line) for line in log.read_text("utf-8").splitlines()] for log in logs]
    speed = sum(median(epoch["images_per_second"] for epoch in log) for log in epochs)
    return f"{round(speed, -3):,.0f} images/s"


def seeds_of_best(runs: Runs) -> str:
    """Mean and standard deviation of their test accuracy."""
    found = runs["trained"][0]["results"]
    values = [row["test"] for row in found if row["options"].startswith("--recipe best --seed")]
    return f"{100 * mean(values):.2f} ± {100 * stdev(values):.2f} % over {len(values)} seeds"


def tried_table(runs: Runs) -> str:
    """A row per thing that was tried, the accuracies of its runs beside each other."""

    def accuracies(row: Run, part: str) -> str:
        values = [one[part] for one in row["runs"] if one[part] is not None]
        return f"{', '.join(f'{100 * value:.1f}' for value in values)} %" if values else ""

    rows = (
        [row["what"], str(row["runs"][0]["epochs"]), *(accuracies(row, part) for part in ("train", "holdout", "test"))]
        for row in runs["tried"][0]["results"]
    )
    return table("run | >epochs | >training top-1 | >held-out top-1 | >test", rows)


def tested(options: str) -> Callable[[Runs], str]:
    """The test accuracy of a run that was tried."""

    def text(runs: Runs) -> str:
        tried = (run for row in runs["tried"][0]["results"] for run in row["runs"])
        return percent(next(run["test"] for run in tried if run["options"] == options))

    return text


def weak_spots(runs: Runs) -> str:
    """The three classes that are taken for others most often."""
    worst = sorted(runs["classes"][0]["results"][0].items(), key=lambda item: item[1])[:3]
    return ", ".join(f"{name} {100 * right:.1f} %" for name, right in worst)


def confidence_table(runs: Runs) -> str:
    """A row per part of the data: how far probabilities are off, before and after."""
    rows = runs["confidence"][0]["results"]
    header = f"expected calibration error | >pictures | >temperature 1 | >temperature {rows[0]['temperature']:g}"
    return table(
        header, ([row["on"], f"{row['images']:,}", percent(row["before"]), percent(row["after"])] for row in rows)
    )


def robustness_rows(runs: Runs, key: str) -> dict[str, dict[str, Run]]:
    """By the corruption, rule or average, and by what it was measured on: the rows that have such a key."""
    found: dict[str, dict[str, Run]] = {}
    for row in runs["robustness"][0]["results"]:
        if key in row:
            found.setdefault(row[key], {})[row["on"]] = row
    return found


def robustness_parts(runs: Runs, key: str) -> list[str]:
    """What it was measured on, in order."""
    return list(dict.fromkeys(on for row in robustness_rows(runs, key).values() for on in row))


def corruption_mean(runs: Runs, on: str, when: str) -> float:
    """Mean accuracy over all corruptions and strengths, "before" or after ("accuracy")."""
    rows = robustness_rows(runs, "corruption")
    return mean(mean(row[on][when]) for name, row in rows.items() if name)


def corruptions_table(runs: Runs) -> str:
    """A row per corruption, mild and strong, the pictures as they are before and the mean after them."""
    columns = [(on, when) for on in robustness_parts(runs, "corruption") for when in ("before", "accuracy")]

    def rows() -> Iterator[list[str]]:
        for name, row in robustness_rows(runs, "corruption").items():
            found = [" / ".join(f"{100 * value:.1f}" for value in row[on][when]) + " %" for on, when in columns]
            strengths = " / ".join(f"{value:g}" for value in row[columns[0][0]].get("strengths", []))
            yield [name or "as they are", strengths, *found]
        yield ["**mean corruption accuracy**", "", *(f"**{percent(corruption_mean(runs, *one))}**" for one in columns)]

    headers = (f">{on}, {'before' if when == 'before' else 'bundled'}" for on, when in columns)
    return table(" | ".join(["corruption", ">mild / strong", *headers]), rows())


def robustness_table(key: str, what: str) -> Callable[[Runs], str]:
    """A row per rule or average, a column for each of what it was measured on."""

    def text(runs: Runs) -> str:
        parts = robustness_parts(runs, key)
        found = robustness_rows(runs, key)
        counts = {on: row["pictures"] for rows in found.values() for on, row in rows.items()}
        header = " | ".join([what, *(f">{on}, {counts[on]:,}" for on in parts)])
        return table(header, ([name, *(percent(row[on]["accuracy"]) for on in parts)] for name, row in found.items()))

    return text


def shares_table(runs: Runs) -> str:
    """A row per share of the weights of the start."""
    parts = ("held_out", "enlarged", "corruptions", "photographs")
    header = ">of the start | >as they are | >enlarged | >mean corruption accuracy | >photographs"
    rows = runs["shares"][0]["results"]
    return table(header, ([f"{row['start_share']:g}", *(percent(row[part]) for part in parts)] for row in rows))


def imports_table(runs: Runs) -> str:
    """A row per public file that came in."""

    def rows() -> Iterator[list[str]]:
        for row in runs["imports"][0]["results"]:
            if "refused" in row:
                continue
            engine = row["proof"]
            name = {"ai-edge-litert": "LiteRT", "keras": "Keras"}.get(engine["engine"], engine["engine"])
            yield [
                f"{row['what']} (`{row['file']}`)",
                f"{row['input'].replace('x', ' x ')}, {row['classes']:,}",
                f"{name}{' in integers' if engine['quantized'] else ''}: {percent(engine['agreement'])}",
                f"{engine['largest']:.1e}",
                percent(row["int8"]["agreement"]),
                f"{100 * row['int8']['noise']:.1f} %" + (" (not proved)" if row["failures"] else ""),
                microseconds(row["p50"]),
            ]

    header = "source | input, classes | top-1 as its own engine | >largest difference | >int8: agreement | >noise"
    return table(f"{header} | >C, µs", rows())


def refusals_table(runs: Runs) -> str:
    """A row per public file that is refused, and the sentence."""
    rows = (
        [f"{row['what']} (`{row['file']}`)", row["refused"]]
        for row in runs["imports"][0]["results"]
        if "refused" in row
    )
    return table("source | what the import says", rows)


PRINTED = (
    (1.0, 224, 569, 4.2),
    (0.75, 224, 325, 2.6),
    (0.5, 224, 149, 1.3),
    (0.25, 224, 41, 0.5),
    (1.0, 192, 418, 4.2),
    (1.0, 160, 290, 4.2),
    (1.0, 128, 186, 4.2),
)
"""Tables 6 and 7 of the paper: width, resolution, millions of multiply-adds and of parameters."""


def paper_table(runs: Runs) -> str:
    """Multiply-adds and parameters of the paper's networks, beside what it prints in its tables 6 and 7."""

    def rows() -> Iterator[list[str]]:
        for width, size, multiply_adds, parameters in PRINTED:
            found = cost(replace(PAPER.scaled(width), input_size=size))
            yield [
                f"{width}",
                f"{size}",
                f"{found.multiply_adds:,}",
                f"{multiply_adds} M",
                f"{found.parameters:,}",
                f"{parameters} M",
            ]

    return table(">width | >resolution | >multiply-adds | >the paper | >parameters | >the paper", rows())


# ---- What commands print, and platforms


def printed(name: str) -> Callable[[Runs], str]:
    """A command and what it printed, as a console."""

    def text(runs: Runs) -> str:
        row = next(row for row in runs["commands"][0]["results"] if row["name"] == name)
        lines = re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in row["output"].splitlines()).strip("\n"))
        return f"\n```console\n$ {row['command']}\n{lines}\n```\n"

    return text


def platforms_table(runs: Runs) -> str:
    """A row per format, and per extra that README and Makefile install; a column per system."""
    results = runs["platforms"][0]["results"]
    systems = list(dict.fromkeys(row["system"] for row in results))

    def cell(rows: list[Run]) -> str:
        """One word for all Pythons, or one for each kind of them."""
        words: dict[str, list[str]] = {}
        for row in rows:
            does = [word for word in ("writes", "runs", "installs") if row.get(word)]
            word = {"writes runs": "✓", "installs": "✓", "": "no"}.get(" ".join(does), " ".join(does))
            words.setdefault(word, []).append(row["python"])
        if len(words) == 1:
            return next(iter(words))
        return ", ".join(f"{word} ({', '.join(pythons)})" for word, pythons in words.items())

    def rows() -> Iterator[list[str]]:
        titles = {"format": lambda name: ENGINES[name][0], "extra": lambda name: f"extra `{name}`"}
        for kind, title in titles.items():
            for name in dict.fromkeys(row[kind] for row in results if kind in row):
                mine = [row for row in results if row.get(kind) == name]
                yield [title(name), *(cell([row for row in mine if row["system"] == system]) for system in systems)]

    return table(" | ".join(["", *systems]), rows())


# ---- Many pictures


def many_table(runs: Runs) -> str:
    """A row per contestant, and how many times the first plain loop's pictures it answers."""
    found = runs["many"][0]["results"]
    plain = next(row for row in found if row["contestant"].startswith("a plain loop"))
    return rates_table(found, " | >pictures/s | >times the plain loop", "contestant", plain)


def jpegs_table(runs: Runs) -> str:
    """A row per kind of pictures and rule: how far JPEGs that are decoded scaled are from whole ones."""

    def rows() -> Iterator[list[str]]:
        for row in runs["jpegs"][0]["results"]:
            accuracy = (row[key] for key in ("accuracy_whole", "accuracy") if key in row)
            yield [
                f"{row['pictures']:,} {row['on']}",
                f"{row['rule']} times" + (", the rule" if row["rule"] == SCALED_SIDES else ""),
                f"{row['equal_values']:.1%}",
                str(row["largest_difference"]),
                f"{row['equal_classes']:.1%}",
                f"{row['largest_logit_difference']:.2f}",
                " -> ".join(f"{share:.1%}" for share in accuracy),
            ]

    header = "JPEGs of 500x375 | at least | >equal values | >largest difference | >equal classes"
    return table(f"{header} | >largest of a logit | >accuracy", rows())


def rates_table(found: list[Run], header: str, name: str, one: Run) -> str:
    """A row for each of ``found`` by its ``name``: pictures a second, how many times those of ``one``, and its work."""

    def rows() -> Iterator[list[str]]:
        for row in found:
            rate = row["images_per_second"]
            times = rate / one["images_per_second"]
            yield [str(row[name]), f"{rate:,.0f}", f"{times:.2f}", f"{row['milliseconds']:.2f}"]

    return table(f"{header} | >processor ms a picture", rows())


def answered_pictures(run: str) -> Callable[[Runs], str]:
    """What was answered in a run."""

    def text(runs: Runs) -> str:
        row = runs[run][0]["results"][0]
        return f"{row['pictures']:,} JPEGs of 500x375 and {row['bytes'] / 1000:.0f} KB"

    return text


def memory_table(runs: Runs) -> str:
    """A row per command and number of pictures: the most that its processes had."""

    def rows() -> Iterator[list[str]]:
        for row in runs["memory"][0]["results"]:
            had = row["mebibytes"]
            kinds = ("command", "worker", "gcs_server")
            yield [
                f"`{row['command']}`",
                f"{row['pictures']:,}",
                *(f"{had[kind]:,.0f}" if kind in had else "" for kind in kinds),
            ]

    return table(" | >pictures | >the command, MiB | >a worker | >Ray's `gcs_server`", rows())


def bytes_per_picture(runs: Runs) -> dict[str, float]:
    """By which the command's own process grows, by command."""
    found: dict[str, list[Run]] = {}
    for row in runs["memory"][0]["results"]:
        found.setdefault(row["command"], []).append(row)
    return {
        command: 2**20
        * (rows[-1]["mebibytes"]["command"] - rows[0]["mebibytes"]["command"])
        / (rows[-1]["pictures"] - rows[0]["pictures"])
        for command, rows in found.items()
    }


def memory_growth(runs: Runs) -> str:
    """Of every command, bytes a picture."""
    return " and ".join(f"{count:,.0f} bytes a picture (`{name}`)" for name, count in bytes_per_picture(runs).items())


def nodes_table(runs: Runs) -> str:
    """A row per number of nodes."""
    found = runs["nodes"][0]["results"]
    return rates_table(found, ">nodes | >pictures/s | >times one node", "nodes", found[0])


BILLION = 10**9
STORE = 12.5e9
"""Bytes a second: 100 Gbit/s."""


def billion(runs: Runs) -> str:
    """What a billion pictures take, by one node's figures, and what is at its end first as processors are added."""
    one = runs["nodes"][0]["results"][0]
    rate, size = one["images_per_second"], one["bytes"]
    per_part = PART * BATCH / rate  # seconds of one processor
    limits = {
        "storage": STORE / (rate * size),
        "the process of the command": per_part / one["command_per_part"] * 1000,
        "Ray itself": per_part / one["ray_per_part"] * 1000,
    }
    first = min(limits, key=lambda name: limits[name])
    paths = BILLION * max(bytes_per_picture(runs).values()) / 1e9
    command, ray = (f"{one[key]:.1f} ms" for key in ("command_per_part", "ray_per_part"))
    return (
        f"a billion pictures of {size / 1000:.0f} KB at {rate:,.0f} a second and processor are "
        f"{BILLION / rate / 3600:,.0f} hours of one processor. Storage that gives 100 Gbit/s feeds "
        f"{limits['storage']:,.0f} processors, which then take {BILLION * size / STORE / 3600:.1f} hours. For a part "
        f"of {PART * BATCH:,} pictures the process of the command takes {command} of a processor and Ray's own "
        f"processes {ray}, and so would be at their end with "
        f"{limits['the process of the command']:,.0f} and {limits['Ray itself']:,.0f} processors. The bottleneck is "
        f"{first}. Paths take {paths:,.0f} GB in one process"
    )


def stores_sentence(runs: Runs) -> str:
    """Which servers, and how many rows."""
    return " and ".join(
        f"{row['rows']} rows of `{row['store']}://` by {row['server']}" for row in runs["stores"][0]["results"]
    )


# ---- The web


def web_table(runs: Runs) -> str:
    """A row per network, place and engine."""

    def rows() -> Iterator[list[str]]:
        for row in runs["web"][0]["results"]:
            first, fetched = row.get("first"), row.get("fetched")
            yield [
                row["network"],
                row["place"],
                row["engine"],
                f"{row['p50']:.2f}",
                f"{first:,.0f}" if first else "",
                f"{fetched / 1000:,.0f}" if fetched else "",
            ]

    return table("network | in | engine | >p50, ms | >first answer, ms | >fetched, KB", rows())


def web_beside_others(runs: Runs) -> str:
    """Of the bundled network in a browser: what it takes, and the least that others take."""
    rows = [row for row in runs["web"][0]["results"] if row.get("first")]
    mine, *others = [row for row in rows if row["network"] == rows[0]["network"]]
    best = min(others, key=lambda row: row["p50"])
    first, fetched = (min(row[key] for row in others) for key in ("first", "fetched"))
    return (
        f"{mine['p50']:.2f} ms a picture, {best['engine']} {best['p50']:.2f} ms; the first answer comes after "
        f"{mine['first']:.0f} ms and {mine['fetched'] / 1000:,.0f} KB, those of others after {first:,.0f} ms and "
        f"{fetched / 1000:,.0f} KB or more"
    )


# ---- The server


def serve_parts(runs: Runs) -> dict[str, Run]:
    """What was measured by its name; of decoding alone, which came before and after the others, the mean."""
    rows = runs["serve"][0]["results"]
    found = {row["part"]: row for row in rows}
    alone = [row for row in rows if row["part"] == rows[0]["part"]]
    found[rows[0]["part"]] = {key: mean(row[key] for row in alone) for key in ("images_per_second", "processor")}
    return found


def serve_table(runs: Runs) -> str:
    """A row per server, after that of decoding alone."""
    found = serve_parts(runs)
    bound = next(iter(found.values()))["images_per_second"]

    def rows() -> Iterator[list[str]]:
        for part, row in found.items():
            if "images_per_second" not in row:
                continue
            yield [
                part,
                f"{row['images_per_second']:,.0f}",
                f"{row['images_per_second'] / bound:.2f}",
                *(f"{row[key]:,.1f}" if key in row else "" for key in ("p50", "p99")),
                f"{row['processor']:.2f}",
                *(f"{row[key]:,.0f}" if row.get(key) else "" for key in ("memory_start", "memory_end")),
            ]

    header = "server | >images/s | >of decoding | >p50, ms | >p99, ms | >processor, ms"
    return table(f"{header} | >MiB at the start | >MiB at the end", rows())


def serve_load(runs: Runs) -> str:
    """How the table was made."""
    row = serve_parts(runs)["mnv1 serve"]
    return f"{row['connections']} connections for {row['seconds']:.0f} seconds, {row['answers']:,} answers"


def serve_batches(runs: Runs) -> str:
    """Images per second with and without."""
    found = serve_parts(runs)
    rates = [found[part]["images_per_second"] for part in ("mnv1 serve", "mnv1 serve --batch 1")]
    return "{:,.0f} images a second with batches, {:,.0f} without".format(*rates)


def serve_trouble(runs: Runs) -> str:
    """What hostile clients and signals did."""
    found = serve_parts(runs)
    hostile, killed, stopped = (found[part] for part in ("hostile clients", "SIGKILL", "SIGTERM"))
    return (
        f"beside hostile clients {hostile['answers']:,} answers, {hostile['memory_end']:,.0f} MiB at the end; killed "
        f"and started again {killed['answers']:,} answers and {killed['cut']} requests cut; stopped by SIGTERM and "
        f"started again {stopped['answers']:,} answers and {stopped['cut']} cut"
    )


FIGURES: dict[str, Callable[[Runs], str]] = {
    "engines": engines_table,
    "latency.machine": machine("latency"),
    "latency.onnx": onnx_by_processor,
    "artifacts.checkpoint": checkpoint_accuracy,
    **{
        f"artifacts.{name}": format_table(name)
        for name in ENGINES
        if name not in ("c", "web", "triton") and not name.startswith("pytorch")
    },
    "shipped": shipped,
    "ladder": ladder_table,
    "ladder.span": ladder_span,
    "trained.together": trained_together,
    "ladder.machine": machine("ladder"),
    "imports": imports_table,
    "imports.refused": refusals_table,
    "imports.machine": machine("imports"),
    "old_onnxruntime": old_onnxruntime_table,
    "throughput": throughput,
    "gpu": gpu_table,
    "gpu.machine": gpu_machine,
    "instruction-sets": lambda runs: f"\n{backends.table()}\n",
    "sizes": sizes_table,
    "sizes.export": sizes_export,
    "backends": backends_table,
    "profile": profile_table,
    "profile.peaks": peaks,
    "emulation": emulation_table,
    "plans": plans_table,
    "loadgen": loadgen_table,
    "loadgen.rules": loadgen_rules,
    "loadgen.machine": machine("loadgen"),
    "tiny": tiny_table,
    "emulation.layers": layers_table,
    "cameras": cameras_table,
    "emulation.cortex-m4": microcontroller,
    "plan": plan_table,
    "schemes": schemes_table,
    "equalization": equalization_table,
    "evidence": evidence_table,
    "evidence.useless": bundled_noise(min, worth="useless"),
    "evidence.enough": bundled_noise(max, worth="enough"),
    "evidence.two": bundled_noise(min, pictures="2 real pictures"),
    "limits": limits_table,
    "startup": startup,
    "few_pictures": few_pictures_table,
    "fine_tuning": fine_tuning_table,
    "trained": runs_table,
    "trained.best": seeds_of_best,
    "tried": tried_table,
    "tried.quick": tested("--recipe quick"),
    "tried.quick-muon": tested("--recipe quick --muon 0.05 --muon-decay 0.02"),
    "classes": weak_spots,
    "confidence": confidence_table,
    "robustness": corruptions_table,
    "shares": shares_table,
    "robustness.rules": robustness_table("rule", "a photograph becomes 32 x 32 pixels by"),
    "robustness.tta": robustness_table("tta", "`--tta`"),
    "paper": paper_table,
    "many": many_table,
    "many.machine": machine("many"),
    "jpegs": jpegs_table,
    "many.pictures": answered_pictures("many"),
    "memory": memory_table,
    "memory.growth": memory_growth,
    "memory.machine": machine("memory"),
    "nodes": nodes_table,
    "nodes.pictures": answered_pictures("nodes"),
    "nodes.machine": machine("nodes"),
    "nodes.billion": billion,
    "stores": stores_sentence,
    "web": web_table,
    "web.beside": web_beside_others,
    "web.machine": machine("web"),
    "serve": serve_table,
    "serve.load": serve_load,
    "serve.batches": serve_batches,
    "serve.trouble": serve_trouble,
    "serve.machine": machine("serve"),
    "platforms": platforms_table,
    "platforms.date": lambda runs: str(runs["platforms"][0]["date"]),
    **{f"commands.{name}": printed(name) for name in ("export", "bench", "refusal", "predict")},
}
"""What stands between the markers of a name."""
