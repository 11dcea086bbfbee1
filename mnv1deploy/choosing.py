"""Which network for which device: what each takes, what it is worth, and the command that writes it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mnv1deploy import bundled
from mnv1deploy.artifact import Accuracy, Manifest, read_checkpoint_metadata, require_mobilenetv1
from mnv1deploy.c.counting import instructions
from mnv1deploy.c.cycles import CORES, Core
from mnv1deploy.c.fitting import needs
from mnv1deploy.c.measured import Build, builds
from mnv1deploy.c.plan import footprint, plans
from mnv1deploy.cost import cost
from mnv1deploy.device import Device
from mnv1deploy.errors import MnvError
from mnv1deploy.spec import CIFAR, ModelSpec

WIDTHS = (0.125, 0.25, 0.375, 0.5, 0.75, 1.0)
"""Of the bundled network: those without a checkpoint are shown with what they cost."""


@dataclass(frozen=True)
class Target:
    """What people call the place where a network is to run.

    Attributes:
        format: what is exported for it.
        processor: whose measurements are taken where none is named; "" where there are none.
        note: what is not known of it.
    """

    format: str
    processor: str = ""
    note: str = ""


_XTENSA = "Instructions and code are a Cortex-M3's with the same plain C: an ESP32's own were not measured."

TARGETS = {
    "microcontroller": Target("c", "Cortex-M4"),
    "esp32": Target("c", "Cortex-M3", _XTENSA),
    "raspberry-pi": Target("c", "AArch64"),
    "phone": Target("litert"),
    "web": Target("web"),
    "server": Target("onnx"),
}


@dataclass(frozen=True)
class Clock:
    """A processor that was measured, and its clock in MHz, if that is told."""

    processor: str
    megahertz: float | None = None

    @classmethod
    def parse(cls, text: str) -> Clock:
        """From ``cortex-m4`` or ``cortex-m4@80MHz``. Raises MnvError for a processor that was not measured."""
        name, at, clock = text.strip().partition("@")
        known = {_slug(build.processor): build.processor for build in builds()}
        processor = known.get(_slug(name))
        if processor is None:
            raise MnvError(f"No processor {name} was measured.", f"There are {', '.join(known)}.")
        if not at:
            return cls(processor)
        found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([MG])Hz", clock.strip(), re.ASCII | re.IGNORECASE)
        if not found or not float(found[1]):
            raise MnvError(f"{clock!r} is no clock.", "Write it in MHz or GHz: cortex-m4@80MHz.")
        return cls(processor, float(found[1]) * (1000 if found[2].upper() == "G" else 1))


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9+]+", "-", name.lower()).strip("-")


def seconds(text: str) -> float:
    """A time: ``5ms``, ``200us``, ``0.1s``. Raises MnvError for any other text."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+) ?(s|ms|us|µs)", text.strip(), re.ASCII if "µ" not in text else 0)
    if not found or not float(found[1]):
        raise MnvError(f"{text!r} is no time.", "Write it in s, ms or us: 5ms.")
    return float(found[1]) * {"s": 1.0, "ms": 1e-3}.get(found[2], 1e-6)


def fraction(text: str) -> float:
    """An accuracy: ``90%`` or ``0.9``. Raises MnvError for any other text."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+) ?(%?)", text.strip(), re.ASCII)
    value = float(found[1]) / (100 if found[2] else 1) if found else math.nan
    if not 0 <= value <= 1:
        raise MnvError(f"{text!r} is no accuracy.", "Write percent, or a fraction: 90%, 0.9.")
    return value


@dataclass(frozen=True)
class Wanted:
    """What the network has to keep.

    Attributes:
        target: a name of TARGETS.
        flash, ram: bytes, of a whole program; see :class:`mnv1deploy.c.fitting.Needs`. None for any number.
        latency: seconds for a picture; None for any.
        clock: the processor; None for the target's.
        cycles: for each instruction, in place of what is known of the processor.
        top1: least accuracy, as a fraction.

    Raises:
        MnvError: for wishes that contradict each other or that nothing known can answer.
    """

    target: str = "microcontroller"
    flash: int | None = None
    ram: int | None = None
    latency: float | None = None
    clock: Clock | None = None
    cycles: float | None = None
    top1: float | None = None

    def __post_init__(self) -> None:
        place = TARGETS.get(self.target)
        if place is None:
            raise MnvError(f"There is no target {self.target}.", f"There are {', '.join(TARGETS)}.")
        if self.clock and not place.processor:
            raise MnvError(
                f"Of a {self.target} no processor was measured.", "mnv1 bench measures on the machine itself."
            )
        if not self.build_of_target and (self.flash is not None or self.ram is not None):
            raise MnvError(f"Flash and RAM are a microcontroller's, not a {self.target}'s.", "Leave them out.")
        if self.latency is not None:
            if not (self.clock and self.clock.megahertz):
                raise MnvError("A latency needs the processor and its clock.", "Name them: --on cortex-m4@80MHz.")
            if self.core is None:
                raise MnvError(
                    f"Of {self.clock.processor} it is not known how many cycles an instruction takes.",
                    "Name a number you have measured: --cycles-per-instruction 0.8.",
                )

    @property
    def build_of_target(self) -> bool:
        """Whether the processor is a microcontroller's."""
        return any(build.processor == self.processor and build.is_microcontroller for build in builds())

    @property
    def note(self) -> str:
        """What is not known of the target; "" if a processor is named."""
        return "" if self.clock else TARGETS[self.target].note

    @property
    def processor(self) -> str:
        """The one whose measurements are taken; "" where there are none."""
        return self.clock.processor if self.clock else TARGETS[self.target].processor

    @property
    def core(self) -> Core | None:
        """What is known of its cycles; None of a target, whose processor is measured on another one's."""
        if self.cycles is not None:
            return Core(self.cycles, False, "the number that was given")
        return CORES.get(self.processor) if self.clock else None


@dataclass(frozen=True)
class Candidate:
    """A network to choose.

    Attributes:
        name: of the checkpoint, or of a spec that has none.
        spec: of the network.
        path: of the checkpoint; None where there is none.
        accuracy: as int8 where that was proved, else the checkpoint's; None where neither is known.
        is_int8: whether the accuracy is that of int8.
    """

    name: str
    spec: ModelSpec
    path: Path | None = None
    accuracy: Accuracy | None = None
    is_int8: bool = False


@dataclass(frozen=True)
class Choice:
    """A candidate and what it takes.

    Attributes:
        candidate: which.
        multiply_adds, weights: of a picture; bytes of weights and tables in int8.
        build: compiled how; None where nothing was measured for the target.
        flash, ram: bytes of a whole program; None where they are not what decides.
        is_planned: whether it takes fewer rows at a time to fit; then instructions are up to a tenth more.
        instructions, is_measured: for a picture, and whether counted for this network; None where nothing is known.
        seconds: estimated; None where no clock was told.
        missing: what it does not keep, in words; empty if it fits.
        is_best: whether no other that fits is as accurate with less of everything.
    """

    candidate: Candidate
    multiply_adds: int
    weights: int
    build: Build | None = None
    flash: int | None = None
    ram: int | None = None
    is_planned: bool = False
    instructions: int | None = None
    is_measured: bool = False
    seconds: float | None = None
    missing: tuple[str, ...] = ()
    is_best: bool = False

    @property
    def fits(self) -> bool:
        """Whether it keeps everything."""
        return not self.missing

    @property
    def top1(self) -> float:
        """Its accuracy, below every other if it is not known."""
        return self.candidate.accuracy.top1 if self.candidate.accuracy else -1.0

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        facts = asdict(self)
        candidate = facts.pop("candidate")
        facts["build"] = str(self.build) if self.build else None
        facts["compiler"] = self.build.compiler if self.build else None
        path = self.candidate.path
        own = {"name": candidate["name"], "checkpoint": str(path) if path else None, "accuracy": candidate["accuracy"]}
        return {**own, "is_int8": self.candidate.is_int8, **facts, "fits": self.fits}


def candidates(checkpoints: Sequence[Path] = ()) -> list[Candidate]:
    """The shipped checkpoints, those named, and other widths, which have none.

    Raises:
        MnvError: for a file that is no checkpoint.
    """
    found = [_candidate(path) for path in (*bundled.CHECKPOINTS.values(), *checkpoints)]
    there = {_layers(candidate.spec) for candidate in found}
    for width in WIDTHS:
        spec = CIFAR.scaled(width)
        if _layers(spec) not in there:
            found.append(Candidate(f"width {width:g}, untrained", spec))
    return found


def _layers(spec: ModelSpec) -> tuple[object, ...]:
    return tuple(spec.layers())


def _candidate(path: Path) -> Candidate:
    facts = read_checkpoint_metadata(path)
    require_mobilenetv1(facts, path)
    spec = ModelSpec.from_dict(facts["spec"])
    manifest = Manifest.load(path.with_name(f"{path.stem}_int8.onnx"))
    proof = manifest.proof if manifest else None
    if proof and proof.accuracy:
        return Candidate(path.stem, spec, path, proof.accuracy, True)
    accuracies = [Accuracy(**accuracy) for accuracy in facts["accuracy"]]
    return Candidate(path.stem, spec, path, accuracies[0] if accuracies else None)


def choose(wanted: Wanted, among: Sequence[Candidate]) -> list[Choice]:
    """What every candidate takes, those that fit first, the most accurate first; see :func:`_order`."""
    found = [_choice(wanted, candidate) for candidate in among]
    fitting = [choice for choice in found if choice.fits]
    found = [replace(choice, is_best=choice in fitting and _is_best(choice, fitting)) for choice in found]
    return sorted(found, key=_order)


def _order(choice: Choice) -> tuple[object, ...]:
    """Of those whose accuracy is not known the largest comes first: with width it grows."""
    effort = _effort(choice)
    return not choice.fits, -choice.top1, effort if choice.candidate.accuracy else tuple(-part for part in effort)


def command(wanted: Wanted, choice: Choice) -> str:
    """What exports it."""
    place = TARGETS[wanted.target]
    parts = ["mnv1 export", f"--format {place.format}", "--quantize int8"]
    path = choice.candidate.path
    if path is None:
        return f"mnv1 train --width {_width(choice.candidate.spec):g}, then {' '.join(parts)} --checkpoint ..."
    if path != bundled.CHECKPOINT:
        names = {shipped: name for name, shipped in bundled.CHECKPOINTS.items()}
        parts.append(f"--checkpoint {names.get(path, path)}")
    parts += [f"--{name} {value}" for name in ("flash", "ram") if (value := getattr(wanted, name)) is not None]
    return " ".join(parts)


def nothing_fits(choices: Sequence[Choice]) -> MnvError:
    """What to say where no candidate fits: what the one that lacks least does not keep."""

    def lack(choice: Choice) -> tuple[object, ...]:
        wanting = -choice.top1 if "accuracy" in choice.missing else 0.0
        return len(choice.missing), wanting, _effort(choice)

    closest = min(choices, key=lack)
    return MnvError(
        f"Nothing fits; {closest.candidate.name} lacks least: {' and '.join(closest.missing)}.",
        "Ask for less, or train a narrower network (mnv1 train --width) and name it with --checkpoint.",
    )


def _width(spec: ModelSpec) -> float:
    return next(width for width in WIDTHS if _layers(CIFAR.scaled(width)) == _layers(spec))


def _choice(wanted: Wanted, candidate: Candidate) -> Choice:
    spec = candidate.spec
    bare = Choice(candidate, cost(spec).multiply_adds, footprint(spec).flash)
    options = list(_builds(wanted, bare))
    chosen = min(options, key=lambda choice: (len(choice.missing), choice.instructions or 0)) if options else bare
    missing = list(chosen.missing)
    if wanted.top1 is not None:
        if candidate.accuracy is None:
            missing.append("accuracy unknown")
        elif candidate.accuracy.top1 < wanted.top1:
            missing.append("accuracy")
    return replace(chosen, missing=tuple(missing))


def _builds(wanted: Wanted, bare: Choice) -> Iterator[Choice]:
    """With every option of the compiler and every plan, the fastest plan first."""
    spec, device = bare.candidate.spec, Device(ram=wanted.ram, flash=wanted.flash)
    for build in builds():
        if build.processor != wanted.processor:
            continue
        counted = instructions(spec, build)
        number = counted.instructions if counted else None
        time = None
        if number and wanted.core and wanted.clock and wanted.clock.megahertz:
            time = number * wanted.core.per_instruction / (wanted.clock.megahertz * 1e6)
        late = ["latency"] if wanted.latency is not None and (time is None or time > wanted.latency) else []
        timed = replace(
            bare, build=build, instructions=number, is_measured=bool(counted and counted.is_measured), seconds=time
        )
        if not build.is_microcontroller:
            yield replace(timed, missing=tuple(late))
            continue
        for position, buffers in enumerate(plans(spec)):
            row = next(row for row in needs(spec, buffers) if row.build == build)
            over = [name for name in ("flash", "ram") if getattr(row, name) > (getattr(device, name) or math.inf)]
            sizes = replace(timed, flash=row.flash, ram=row.ram, is_planned=position > 0)
            yield replace(sizes, missing=(*(name.replace("ram", "RAM") for name in over), *late))
            if not over:
                break


def _effort(choice: Choice) -> tuple[float, ...]:
    """What it takes, the instructions first where they are known."""
    return (choice.instructions or choice.multiply_adds, choice.flash or choice.weights, choice.ram or 0)


def _is_best(choice: Choice, others: Sequence[Choice]) -> bool:
    """Whether none of the others is as accurate and takes no more of anything; one of unknown accuracy is never."""
    if choice.candidate.accuracy is None:
        return False
    mine = (-choice.top1, *_effort(choice))
    return not any(
        theirs != mine and all(a <= b for a, b in zip(theirs, mine, strict=True))
        for theirs in ((-other.top1, *_effort(other)) for other in others if other.candidate.accuracy)
    )
