"""What the generated C of the bundled network takes of processors, as scripts/emulate_c.py measured it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

TABLE = Path(__file__).parents[1] / "data" / "instructions.json"
"""By processor, then by the compiler's options; scripts/emulate_c.py --write writes it."""


@dataclass(frozen=True)
class Build:
    """The bundled network, compiled for a processor.

    Attributes:
        processor: by the names of scripts/emulate_c.py.
        options: the compiler's.
        compiler: its name and version.
        kernels: the instruction set that it runs on.
        code, constants: bytes of the network alone: instructions; weights and tables.
        instructions: for one picture.
        flash, ram: bytes of the whole program of examples/cortex-m; 0 on a processor that runs Linux.
        stack: bytes of it in use at most; 0 there, too.
        widths: instructions of the same network at other widths, where they were counted.
    """

    processor: str
    options: str
    compiler: str
    kernels: str
    code: int
    constants: int
    instructions: int
    flash: int = 0
    ram: int = 0
    stack: int = 0
    widths: dict[str, int] = field(default_factory=dict, hash=False)

    @property
    def is_microcontroller(self) -> bool:
        """Whether flash and RAM are what it has."""
        return self.flash > 0

    def __str__(self) -> str:
        return f"{self.processor} {self.options}"


@cache
def builds() -> tuple[Build, ...]:
    """All that were measured, in the table's order."""
    return tuple(_builds())


def _builds() -> Iterator[Build]:
    for processor, rows in json.loads(TABLE.read_text("utf-8")).items():
        for options, facts in rows.items():
            if "kernels" in facts:  # others are of what is around the network
                yield Build(processor, options, **facts)
