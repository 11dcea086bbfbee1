"""Whether a network fits a microcontroller, before anything is compiled: what was measured of another one, and a spec.

A program is examples/cortex-m's: start-up code, what it needs of the compiler's library, the network, one picture, its
logits and STACK. What is not the network's own is the same for every network, so that the program with the bundled one
tells it; code differs by some hundred bytes between networks.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from mnv1deploy.c.measured import Build, builds
from mnv1deploy.c.plan import Plan, footprint, fused, plan, plans
from mnv1deploy.device import Device
from mnv1deploy.errors import MnvError
from mnv1deploy.spec import CIFAR, ModelSpec

STACK = 2048
"""Bytes that examples/cortex-m keeps for it: three times what the network takes."""

_POINTER = 4
_LAYER = 3 * _POINTER + 7 * 4 + _POINTER
_FUSION = 2 * _POINTER + 3 * 4
"""Bytes of the structures of kernels/shared.c and templates/network.c where an address has 32 bits."""


@dataclass(frozen=True)
class Needs:
    """What a program with a network takes of a microcontroller.

    Attributes:
        build: which processor and compiler.
        flash: bytes, the whole program's; some hundred more or fewer.
        ram: bytes, with the picture, the logits and STACK.
    """

    build: Build
    flash: int
    ram: int

    def fit(self, device: Device) -> bool:
        """Whether the device has as much."""
        return self.flash <= _limit(device.flash) and self.ram <= _limit(device.ram)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        told = ("processor", "options", "compiler", "kernels", "code")
        facts = asdict(self.build)
        return {**{name: facts[name] for name in told}, "flash": self.flash, "ram": self.ram}


def needs(spec: ModelSpec, buffers: Plan) -> list[Needs]:
    """Of a spec's network with one of its plans, for every microcontroller that was measured."""
    constants = _constants(spec) - _constants(CIFAR)
    variables = _variables(spec, buffers) - _variables(CIFAR, plan(CIFAR))
    return [
        Needs(build, build.flash + constants, build.ram + variables) for build in builds() if build.is_microcontroller
    ]


def fitting_plan(spec: ModelSpec, device: Device) -> Plan:
    """The fastest plan with which a spec's network fits a device, on one of the processors that were measured.

    Raises:
        MnvError: if there is none, saying what the smallest would take.
    """
    found = [(buffers, needs(spec, buffers)) for buffers in plans(spec)]
    for buffers, rows in found:
        if any(row.fit(device) for row in rows):
            return buffers
    raise _refusal(spec, device, found[-1][1])


def _refusal(spec: ModelSpec, device: Device, least: list[Needs]) -> MnvError:
    called = {"flash": "flash", "ram": "RAM"}
    asked = [f"{limit:,} bytes of {called[name]}" for name, limit in _limits(device).items()]
    kernels = dict.fromkeys(row.build.kernels for row in least)
    flash = []
    for name in kernels:
        mine = [row for row in least if row.build.kernels == name]
        ends = [f"{row.flash:,} ({row.build})" for row in (min(mine, key=_flash), max(mine, key=_flash))]
        flash.append(f"{' to '.join(dict.fromkeys(ends))} with {name}")
    rows = plan(spec).scratch - list(plans(spec))[-1].scratch
    saved = f", {rows:,} less than without a limit" if rows else ""
    over = [
        f"--{name} {-(-least_of // 1024)}K"
        for name, least_of in (("flash", min(map(_flash, least))), ("ram", min(row.ram for row in least)))
        if name in _limits(device) and least_of > _limits(device)[name]
    ]
    return MnvError(
        f"{spec.name} does not fit {' and '.join(asked)}: a program with it takes {min(row.ram for row in least):,} "
        f"bytes of RAM{saved}, and of flash {'; '.join(flash)} ({least[0].build.compiler}).",
        f"It would fit {' '.join(over)}; what fits: mnv1 choose "
        f"{' '.join(f'--{name} {limit}' for name, limit in _limits(device).items())}",
    )


def _limits(device: Device) -> dict[str, int]:
    limits = {"flash": device.flash, "ram": device.ram}
    return {name: limit for name, limit in limits.items() if limit is not None}


def _limit(given: int | None) -> float:
    return float("inf") if given is None else given


def _flash(row: Needs) -> int:
    return row.flash


def _constants(spec: ModelSpec) -> int:
    """Bytes of weights and tables, which a linker puts into flash; strings begin at multiples of four."""
    layers = [layer for layer in spec.layers() if layer.kind != "pool"]
    names = [*(layer.name for layer in layers), *spec.classes]
    strings = sum(-(-(len(name.encode()) + 1) // 4) * 4 for name in names)
    tables = _LAYER * len(layers) + _FUSION * len(list(fused(spec))) + _POINTER * len(spec.classes)
    return footprint(spec).flash + tables + strings


def _variables(spec: ModelSpec, buffers: Plan) -> int:
    """Bytes of scratch, picture and logits, each at a multiple of four."""
    height, width, colours = spec.pixels.shape
    return sum(-(-size // 4) * 4 for size in (buffers.scratch, height * width * colours, 4 * len(spec.classes)))
