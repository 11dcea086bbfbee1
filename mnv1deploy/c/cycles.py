"""From instructions, which are counted, to cycles, which are not: what is published of each core, and no more.

A core waits for flash and RAM besides, which no table knows: measure on the part.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Core:
    """What is known of a processor's cycles.

    Attributes:
        per_instruction: cycles, of memory without wait states.
        is_bound: whether it is the least that is possible, and no estimate.
        source: where that is from.
    """

    per_instruction: float
    is_bound: bool
    source: str


_DUAL = Core(0.5, True, "two instructions a cycle are the most that it issues")

CORES = {
    "Cortex-M0": Core(
        68 / 48, False, "the innermost loop's 48 instructions take 68 cycles by table 3-1 of Arm DDI 0432, of MULS one"
    ),
    "Cortex-M3": Core(
        64 / 37, False, "the innermost loop's 37 instructions take about 64 cycles by table 3-1 of Arm DDI 0337"
    ),
    "Cortex-M4": Core(
        144 / 93, False, "the innermost loop's 93 instructions take about 144 cycles by table 3-1 of Arm 100166"
    ),
    "Cortex-M4, no FPU": Core(144 / 93, False, "as with FPU, whose innermost loop is the same"),
    "Cortex-M7": _DUAL,
    "Cortex-M33": _DUAL,
    "Cortex-M33, no FPU": _DUAL,
    "Cortex-M33, no DSP, no FPU": _DUAL,
    "Cortex-M55": _DUAL,
    "Cortex-M55, no FPU": _DUAL,
}
"""By the names of :func:`mnv1deploy.c.measured.builds`. Of processors that run Linux nothing can be said so simply."""
