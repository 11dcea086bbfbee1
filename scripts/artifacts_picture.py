"""Draws README's picture: what a picture takes in every engine, and how accurate its int8 is.

SVG written out, so that the same measurements are the same bytes and a test can compare them. Accuracies stand in a
column: they differ by hundredths of a point, and as an axis would show chance alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from figures import ENGINES, ROOT, Run, Runs, artifacts, percent, top1

from mnv1deploy.report.tables import figure_text


@dataclass(frozen=True)
class Theme:
    """Colours of a page on which the picture lies, whose ground shows through but for a rim around numbers."""

    ground: str
    ink: str
    faint: str
    dots: dict[str, str]


THEMES = {
    ROOT / "docs" / "artifacts-light.svg": Theme(
        "#ffffff", "#1f2328", "#d1d9e0", {"fp32": "#0969da", "fp16": "#bf8700", "int8": "#1a7f37"}
    ),
    ROOT / "docs" / "artifacts-dark.svg": Theme(
        "#0d1117", "#e6edf3", "#3d444d", {"fp32": "#4493f8", "fp16": "#d29922", "int8": "#3fb950"}
    ),
}
"""By file. Within a row the dots are drawn in this order, so that int8's is on top."""

SLOWEST = 5000.0
"""Microseconds at which the axis ends; what takes longer has an arrow there."""

WIDTH, ROW, TOP, BOTTOM = 860, 30, 56, 54
NAMES, LEFT, RIGHT, ACCURACIES = 200, 250, 750, 850
"""Where the names end, the axis begins and ends, and the accuracies end."""


def pictures(runs: Runs) -> dict[str, str]:
    """SVG by path; none where nothing was measured."""
    if not {"artifacts", "latency"} <= set(runs):
        return {}
    rows = {name: rows for name, rows in artifacts(runs).items() if any(row["p50"] for row in rows.values())}
    return {str(path): "\n".join(_lines(rows, theme)) + "\n" for path, theme in THEMES.items()}


def _lines(rows: dict[str, dict[str, Run]], theme: Theme) -> Iterator[str]:
    height = TOP + ROW * len(rows) + BOTTOM
    everything = [row["p50"] for precisions in rows.values() for row in precisions.values() if row["p50"]]
    everything = [p50 for p50 in everything if p50 <= SLOWEST]
    ends = math.log10(min(everything)), math.log10(max(everything))

    def place(value: float) -> float:
        return LEFT + (RIGHT - LEFT) * (math.log10(value) - ends[0]) / (ends[1] - ends[0])

    def text(x: float, y: float, words: str, anchor: str = "end", style: str = "") -> str:
        return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{words}</text>'

    small = ' font-size="12" opacity="0.75"'
    number_style = f' font-size="12" stroke="{theme.ground}" stroke-width="4" paint-order="stroke"'
    bold = ' font-weight="600"'
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="-apple-system, Segoe UI, Helvetica, Arial, sans-serif" font-size="14" fill="{theme.ink}">'
    )
    yield "<title>Latency of one picture in every engine, and top-1 accuracy of int8</title>"
    x = LEFT
    for precision, colour in reversed(theme.dots.items()):
        yield f'<circle cx="{x}" cy="19" r="6" fill="{colour}"/>'
        yield text(x + 12, 24, precision, "start")
        x += 72
    yield text(ACCURACIES, 24, "top-1, int8")
    ticks = [mantissa * 10**power for power in range(1, 6) for mantissa in (1, 1.5, 2, 3, 5, 7)]
    bottom = TOP + ROW * len(rows)
    for tick in ticks:
        if ends[0] <= math.log10(tick) <= ends[1]:
            x_tick = place(tick)
            yield f'<path d="M{x_tick:.1f} {TOP - 14}V{bottom}" stroke="{theme.faint}"/>'
            yield text(x_tick, bottom + 18, f"{tick:,.0f}", "middle", small)
    yield text((LEFT + RIGHT) / 2, bottom + 40, "microseconds for one picture on one thread, p50", "middle", small)
    for number, (name, precisions) in enumerate(rows.items()):
        y = TOP + ROW * number + 5
        p50 = {precision: row["p50"] for precision, row in precisions.items() if row["p50"]}
        yield text(NAMES, y + 5, ENGINES[name][0].replace(", onnxruntime", ""), style=bold if number == 0 else "")
        accuracy = top1(precisions.get("int8"))
        if accuracy is not None:
            yield text(ACCURACIES, y + 5, percent(accuracy))
        beyond = [value for value in p50.values() if value > SLOWEST]
        if beyond:
            yield text(RIGHT + 6, y + 4, f"{figure_text(min(beyond))} →", style=number_style)
        p50 = {precision: value for precision, value in p50.items() if value <= SLOWEST}
        if not p50:
            continue
        first, last = place(min(p50.values())), place(max(p50.values()))
        if len(p50) > 1:
            yield f'<path d="M{first:.1f} {y}H{last:.1f}" stroke="{theme.ink}" stroke-width="2" opacity="0.3"/>'
        for precision, colour in theme.dots.items():
            if precision in p50:
                yield f'<circle cx="{place(p50[precision]):.1f}" cy="{y}" r="6" fill="{colour}"/>'
        yield text(first - 11, y + 4, figure_text(min(p50.values())), style=number_style)
    yield "</svg>"
