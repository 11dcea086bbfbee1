"""Measures what README and docs say, and writes it there.

    python scripts/measure.py artifacts        # runs the commands, keeps their answers in docs/measurements.json
    python scripts/measure.py throughput backends rounding emulation
    python scripts/measure.py                  # measures nothing: writes the tables and pictures from that file again

A page has a figure between ``<!-- measured: NAME -->`` and ``<!-- /measured -->``; NAME is one of TABLES. The runs of
one name are kept by processor, and a newer one replaces the older. tests/test_docs.py compares pages and file.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FILE = ROOT / "docs" / "measurements.json"
PICTURE = ROOT / "docs" / "artifacts"
PAGES = (ROOT / "README.md", ROOT / "models" / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
MARKED = re.compile(r"(<!-- measured: ([\w.-]+) -->)(.*?)(<!-- /measured -->)", re.DOTALL)
PRECISIONS = ("int8", "fp16", "fp32")

Run = dict[str, Any]
Runs = dict[str, list[Run]]

ENGINES = {
    "c": "C",
    "onnx": "ONNX, onnxruntime",
    "openvino": "OpenVINO",
    "litert": "LiteRT",
    "executorch": "ExecuTorch",
    "torchscript": "TorchScript",
    "ncnn": "ncnn",
    "mnn": "MNN",
    "aoti": "AOTInductor",
    "tflm": "LiteRT for Microcontrollers",
    "tensorrt": "TensorRT's ONNX, onnxruntime",
    "coreml": "Core ML",
    "pytorch": "PyTorch, eager",
    "pytorch-compiled": "PyTorch, compiled",
}
"""What tables call the formats and the two references of ``mnv1 bench``."""


# ---- Measuring: each gives the results of a run and the commands that made them


def mnv1(*arguments: str, **environment: str) -> Any:
    """What a command answers as JSON."""
    command = [sys.executable, "-m", "mnv1deploy.cli", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)
    if not done.stdout:
        raise SystemExit(f"mnv1 {' '.join(arguments)} failed:\n{done.stderr}")
    return json.loads(done.stdout)


def exported(folder: str) -> dict[str, dict[str, Any]]:
    """Every format in every precision, proved: facts by artifact name."""
    found = {}
    for precision in ("none", "fp16", "int8"):
        for item in mnv1("export", "--format", "all", "--quantize", precision, "--output", folder):
            provenance, proof = item["provenance"], item["proof"]
            if item["failures"]:
                raise SystemExit(f"{provenance['format']} {precision}: {'; '.join(item['failures'])}")
            found[Path(item["path"]).name] = {
                "format": provenance["format"],
                "precision": provenance["precision"],
                "bytes": sum(file["bytes"] for file in item["files"].values()),
                "proof": proof,
            }
    return found


def artifacts() -> tuple[Any, list[str]]:
    """Bytes, proof and the latency of one picture on one thread of all artifacts, taking turns in one run."""
    with tempfile.TemporaryDirectory() as folder:
        facts = exported(folder)
        bench = mnv1("bench", "--all", folder, "--threads", "1")
    for result in bench["results"]:
        fresh = {"format": result["artifact"], "precision": "fp32", "bytes": None, "proof": None}
        facts.setdefault(result["artifact"], fresh)["p50"] = 1000 * result["p50"]
    commands = [
        *(f"mnv1 export --format all --quantize {precision}" for precision in ("none", "fp16", "int8")),
        "mnv1 bench --all --threads 1",
    ]
    return list(facts.values()), commands


def throughput() -> tuple[Any, list[str]]:
    """Images per second of the int8 artifacts in batches of 1,024 on two threads."""
    with tempfile.TemporaryDirectory() as folder:
        mnv1("export", "--format", "onnx,c,openvino,litert,executorch", "--quantize", "int8", "--output", folder)
        bench = mnv1("bench", *map(str, Path(folder).glob("*_int8*[!n]")), "--threads", "2", "--batch-size", "1024")
    rows = [{"artifact": row["artifact"], "images_per_second": row["images_per_second"]} for row in bench["results"]]
    return rows, ["mnv1 bench --threads 2 --batch-size 1024"]


MEASUREMENTS: dict[str, Callable[[], tuple[Any, list[str]]]] = {"artifacts": artifacts, "throughput": throughput}


def measure(name: str, runs: Runs) -> None:
    """Adds a run, in place of an older one on the same processor."""
    results, commands = MEASUREMENTS[name]()
    machine = mnv1("providers")["machine"]
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    run = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "commit": commit.stdout.strip(),
        "machine": machine,
        "commands": commands,
        "results": results,
    }
    others = [other for other in runs.get(name, []) if _processor(other) != _processor(run)]
    runs[name] = [run, *others]


# ---- Tables


def _processor(run: Run) -> str:
    machine = run["machine"]
    sets = f" ({', '.join(machine['instructions'])})" if machine["instructions"] else ""
    return f"{machine['cpu']}{sets}"


def _table(header: str, rows: Iterator[list[str]]) -> str:
    """Columns whose header begins with ">" are aligned to the right."""
    names = header.split(" | ")
    lines = [
        f"| {' | '.join(name.lstrip('>') for name in names)} |",
        f"| {' | '.join('---:' if name.startswith('>') else '---' for name in names)} |",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n".join(lines).replace("  ", " ")


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f} %"


def _top1(row: Run | None) -> float | None:
    return row["proof"]["accuracy"]["top1"] if row and row["proof"] and row["proof"]["accuracy"] else None


def _by_format(run: Run) -> dict[str, dict[str, Run]]:
    """Results by format and precision, the fastest int8 first, then the fastest fp32."""
    found: dict[str, dict[str, Run]] = {}
    for row in run["results"]:
        found.setdefault(row["format"], {})[row["precision"]] = row
    far = float("inf")

    def latency(name: str) -> tuple[float, float]:
        int8, fp32 = (found[name].get(precision, {}).get("p50", far) for precision in ("int8", "fp32"))
        return int8, fp32

    return {name: found[name] for name in sorted(found, key=latency)}


def artifacts_table(runs: Runs) -> str:
    """README's: a row per engine."""
    run = runs["artifacts"][0]

    def rows() -> Iterator[list[str]]:
        formats = _by_format(run)
        fastest = {
            precision: min(f[precision]["p50"] for f in formats.values() if f.get(precision, {}).get("p50"))
            for precision in ("int8", "fp32")
        }
        for name, rows in formats.items():
            int8, fp32 = rows.get("int8"), rows.get("fp32")
            p50 = {}
            for precision, row in (("int8", int8), ("fp32", fp32)):
                value = row.get("p50") if row else None
                text = _figure(value)
                p50[precision] = f"**{text}**" if value == fastest[precision] else text
            if not any(p50.values()):
                continue  # runs elsewhere
            agreement = int8["proof"]["agreement"] if int8 and int8["proof"] else None
            size = f"{int8['bytes']:,}" if int8 else ""
            yield [ENGINES[name], p50["int8"], _percent(_top1(int8)), _percent(agreement), size, p50["fp32"]]

    return "\n" + _table("format, engine | >int8: p50 | >top-1 | >agreement | >bytes | >fp32: p50", rows()) + "\n"


def machine_sentence(name: str) -> Callable[[Runs], str]:
    """On what the first run of that name was made."""

    def sentence(runs: Runs) -> str:
        run = runs[name][0]
        return f"{_processor(run)}, {run['machine']['cores']} cores, {run['date']}"

    return sentence


def format_table(name: str) -> Callable[[Runs], str]:
    """A format's own page: a row per precision, with onnxruntime's latency of the same run."""

    def table(runs: Runs) -> str:
        formats = _by_format(runs["artifacts"][0])

        def rows() -> Iterator[list[str]]:
            for precision in PRECISIONS:
                row, onnx = formats[name].get(precision), formats["onnx"].get(precision, {})
                if not row:
                    continue
                proof = row["proof"]
                change = ""
                if proof and proof["accuracy"]:
                    change = f"{100 * (proof['accuracy']['top1'] - proof['checkpoint_accuracy']['top1']):+.2f}"
                difference = f"{proof['max_logit_difference']:.1e}" if proof else ""
                agreement = _percent(proof["agreement"] if proof else None)
                figures = [f"{row['bytes']:,}", difference, agreement, change, _figure(row.get("p50"))]
                yield [precision, *figures, *([] if name == "onnx" else [_figure(onnx.get("p50"))])]

        header = "precision | >bytes | >largest logit difference | >agreement | >change in points | >p50 (us)"
        return "\n" + _table(header + ("" if name == "onnx" else " | >onnxruntime (us)"), rows()) + "\n"

    return table


def checkpoint_accuracy(runs: Runs) -> str:
    """What every artifact was compared with."""
    proofs = (row["proof"] for row in runs["artifacts"][0]["results"] if row["proof"])
    return _percent(next(proof["checkpoint_accuracy"]["top1"] for proof in proofs))


def throughput_sentence(runs: Runs) -> str:
    """Images per second, the fastest first."""
    rows = sorted(runs["throughput"][0]["results"], key=lambda row: -row["images_per_second"])
    names = {".c": "the C", ".onnx": "onnxruntime", ".xml": "OpenVINO", ".tflite": "LiteRT", ".pte": "ExecuTorch"}
    parts = [f"{names[Path(row['artifact']).suffix]} {round(row['images_per_second'], -2):,.0f}" for row in rows]
    return ", ".join(parts)


TABLES: dict[str, Callable[[Runs], str]] = {
    "artifacts": artifacts_table,
    "artifacts.checkpoint": checkpoint_accuracy,
    "artifacts.machine": machine_sentence("artifacts"),
    **{f"artifacts.{name}": format_table(name) for name in ENGINES if not name.startswith("pytorch")},
    "throughput": throughput_sentence,
    "throughput.machine": machine_sentence("throughput"),
}
"""What stands between the markers of a name."""


def measured() -> Runs:
    """Every run that is kept, by name, the newest first."""
    return json.loads(FILE.read_text("utf-8"))["runs"] if FILE.exists() else {}


def written(text: str, runs: Runs) -> str:
    """A page's text with every marked figure as it was measured."""
    return MARKED.sub(lambda found: f"{found[1]}{TABLES[found[2]](runs)}{found[4]}", text)


# ---- The picture


def draw(run: Run, path: Path, *, dark: bool) -> None:
    """Latency against accuracy of every artifact, to an SVG on a transparent ground."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    ink = "#e6edf3" if dark else "#1f2328"
    colours = {"int8": "#3fb950" if dark else "#1a7f37", "fp16": "#d29922" if dark else "#9a6700"}
    colours["fp32"] = "#58a6ff" if dark else "#0969da"
    with rc_context({"svg.hashsalt": "mnv1deploy", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure = Figure(figsize=(9, 4.6), layout="constrained")
        axes = figure.subplots()
        points = [row for row in run["results"] if row.get("p50") and _top1(row)]
        for precision, colour in colours.items():
            mine = [row for row in points if row["precision"] == precision]
            sizes = [row["bytes"] / 4000 for row in mine]
            axes.scatter(
                [row["p50"] for row in mine],
                [100 * (_top1(row) or 0) for row in mine],
                s=sizes,
                color=colour,
                alpha=0.55,
                linewidths=0,
                label=precision,
            )
        for row, offset in _labelled(points):
            axes.annotate(
                ENGINES[row["format"]].rpartition(", ")[2],
                (row["p50"], 100 * (_top1(row) or 0)),
                xytext=(0, offset),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=colours[row["precision"]],
                arrowprops={"arrowstyle": "-", "color": colours[row["precision"]], "alpha": 0.4, "lw": 0.6},
            )
        axes.set_xscale("log")
        axes.set_xlabel("microseconds per picture, one thread, p50 (area: bytes of the artifact)", color=ink)
        axes.set_ylabel("top-1 on CIFAR-10's 10,000 test images (%)", color=ink)
        legend = axes.legend(frameon=False, labelcolor=ink, loc="lower left", markerscale=0.6)
        for handle in legend.legend_handles:
            handle.set_alpha(0.9)
        axes.margins(x=0.08, y=0.3)
        axes.tick_params(colors=ink, which="both")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_color(ink)
        axes.grid(alpha=0.15, color=ink)
        figure.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})


def _labelled(points: list[Run]) -> Iterator[tuple[Run, int]]:
    """Where to write each name, in points above or below its mark, so that neighbours do not meet."""
    for position, row in enumerate(sorted(points, key=lambda row: float(row["p50"]))):
        yield row, (14, -22, 30, -38, 46, -54)[position % 6]


def main(names: list[str]) -> None:
    """Measures, then writes."""
    runs = measured()
    for name in names:
        measure(name, runs)
        FILE.write_text(json.dumps({"version": 1, "runs": runs}, indent=1) + "\n", "utf-8")
    for page in PAGES:
        page.write_text(written(page.read_text("utf-8"), runs), "utf-8")
    for dark in (False, True) if "artifacts" in runs else ():
        draw(runs["artifacts"][0], PICTURE.with_name(f"artifacts-{'dark' if dark else 'light'}.svg"), dark=dark)


if __name__ == "__main__":
    main(sys.argv[1:])
