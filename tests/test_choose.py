"""Which network fits a device: wishes as people write them, figures and where they are from, the front, the command."""

import json
import subprocess
from pathlib import Path

import pytest
from commands import mnv1

from mnv1deploy import bundled, checkpoint, choosing
from mnv1deploy.artifact import Accuracy, Manifest
from mnv1deploy.c.counting import instructions
from mnv1deploy.c.cycles import CORES
from mnv1deploy.c.fitting import needs
from mnv1deploy.c.measured import Build, builds
from mnv1deploy.c.plan import plan
from mnv1deploy.choosing import Candidate, Clock, Wanted, candidates, choose, command, fraction, seconds
from mnv1deploy.cost import cost
from mnv1deploy.errors import MnvError
from mnv1deploy.report import plots, tables
from mnv1deploy.spec import CIFAR, PAPER, ModelSpec, Normalization


def mnv1_choose(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return mnv1("choose", *arguments, cwd=cwd)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cortex-m4@80MHz", Clock("Cortex-M4", 80)),
        ("Cortex-M4 @ 0.08 GHz", Clock("Cortex-M4", 80)),
        ("cortex-m33-no-dsp-no-fpu", Clock("Cortex-M33, no DSP, no FPU")),
        ("aarch64-dot-products@1.5GHz", Clock("AArch64, dot products", 1500)),
    ],
)
def test_processors_are_named_with_their_clock(text: str, expected: Clock) -> None:
    assert Clock.parse(text) == expected


@pytest.mark.parametrize("text", ["cortex-m99", "", "@80MHz", "cortex-m4@", "cortex-m4@80", "cortex-m4@0MHz"])
def test_what_is_no_processor_or_clock_is_refused(text: str) -> None:
    with pytest.raises(MnvError, match=r"was measured|is no clock"):
        Clock.parse(text)


def test_times_and_accuracies_are_read_as_people_write_them() -> None:
    assert [seconds(text) for text in ("5ms", "0.1 s", "200us", "200µs")] == pytest.approx([0.005, 0.1, 0.0002, 0.0002])
    assert [fraction(text) for text in ("90%", "0.9", "92.4 %", "1", "100%")] == pytest.approx([0.9, 0.9, 0.924, 1, 1])
    for text in ("5", "ms", "-5ms", "0ms", "5 min"):
        with pytest.raises(MnvError, match="is no time"):
            seconds(text)
    for text in ("90", "101%", "-1%", "much", ""):
        with pytest.raises(MnvError, match="is no accuracy"):
            fraction(text)


def test_the_shipped_checkpoint_has_its_proved_accuracy_and_widths_without_one_are_there_too() -> None:
    found = {candidate.name: candidate for candidate in candidates()}
    shipped = found[bundled.CHECKPOINT.stem]
    assert shipped.is_int8
    manifest = Manifest.read(bundled.INT8)
    assert manifest and manifest.proof
    assert shipped.accuracy == manifest.proof.accuracy
    assert shipped.accuracy.images == 10_000
    specs = [tuple(candidate.spec.layers()) for candidate in found.values()]
    assert len(specs) == len(set(specs))
    assert {tuple(CIFAR.scaled(width).layers()) for width in choosing.WIDTHS} <= set(specs)
    assert all((candidate.path is None) == candidate.name.endswith("untrained") for candidate in found.values())


def test_a_checkpoint_of_ones_own_is_there_and_what_is_none_is_refused(tmp_path: Path) -> None:
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(bundled.CHECKPOINT.read_bytes())
    found = candidates([mine])
    own = next(candidate for candidate in found if candidate.name == "mine")
    assert own.accuracy == checkpoint.load(bundled.CHECKPOINT).accuracy[0]
    assert not own.is_int8
    chosen = next(choice for choice in choose(Wanted(), found) if choice.candidate is own)
    assert f"--checkpoint {mine}" in command(Wanted(), chosen)
    (tmp_path / "none.safetensors").write_bytes(b"nothing")
    with pytest.raises(MnvError, match="is no safetensors file"):
        candidates([tmp_path / "none.safetensors"])


def test_what_fits_is_by_the_sizes_that_an_export_keeps_to() -> None:
    row = next(row for row in needs(CIFAR, plan(CIFAR)) if str(row.build) == "Cortex-M4 -Os")
    full = Candidate("full", CIFAR, None, Accuracy(0.9, 10, "x"))
    (exact,) = choose(Wanted(flash=row.flash, ram=row.ram), [full])
    assert exact.fits
    assert exact.build == row.build
    (less,) = choose(Wanted(flash=row.flash - 1, ram=row.ram), [full])
    assert less.missing == ("flash",)
    (planned,) = choose(Wanted(ram=row.ram - 1), [full])
    assert planned.fits
    assert planned.is_planned
    assert planned.ram is not None
    assert planned.ram < row.ram
    (over,) = choose(Wanted(ram=1024, top1=0.95), [full])
    assert over.missing == ("RAM", "accuracy")


def test_a_latency_is_instructions_times_cycles_over_the_clock() -> None:
    full = Candidate("full", CIFAR, None, Accuracy(0.9, 10, "x"))
    for name, text in (("Cortex-M4", "cortex-m4@80MHz"), ("Cortex-M3", "cortex-m3@100MHz")):
        clock = Clock.parse(text)
        (choice,) = choose(Wanted(clock=clock), [full])
        least = min(build.instructions for build in builds() if build.processor == name)
        assert choice.instructions == least
        assert choice.is_measured
        assert clock.megahertz
        assert choice.seconds == pytest.approx(least * CORES[name].per_instruction / clock.megahertz / 1e6)
        (late,) = choose(Wanted(clock=clock, latency=0.99 * choice.seconds), [full])
        assert late.missing == ("latency",)
        assert choose(Wanted(clock=clock, latency=1.01 * choice.seconds), [full])[0].fits
    (own,) = choose(Wanted(clock=Clock("AArch64", 1000), cycles=0.5, target="raspberry-pi"), [full])
    assert own.instructions
    assert own.seconds == pytest.approx(own.instructions * 0.5 / 1e9)


def build(name: str) -> Build:
    return next(build for build in builds() if str(build) == f"{name} -O2")


GREY = CIFAR.scaled(0.3).replace(
    colours=1, normalization=Normalization.default(1), padding="same", activation="relu6", input_size=21
)
PERSON = PAPER.scaled(0.25).replace(input_size=96, classes=("nobody", "a person"))


@pytest.mark.parametrize(
    ("name", "spec", "counted"),
    [
        *(
            ("Cortex-M0", CIFAR.scaled(0.3), 15_246_600),
            ("Cortex-M0", GREY, 7_209_840),
            ("Cortex-M0", PERSON, 71_200_400),
        ),
        *(
            ("Cortex-M4", CIFAR.scaled(0.3), 2_582_440),
            ("Cortex-M4", GREY, 1_267_560),
            ("Cortex-M4", PERSON, 11_794_720),
        ),
        *(("Cortex-M55", CIFAR.scaled(0.3), 954_343), ("Cortex-M55", GREY, 477_656), ("Cortex-M55", PERSON, 3_559_000)),
    ],
)
def test_other_networks_are_estimated_within_15_percent(name: str, spec: ModelSpec, counted: int) -> None:
    """Of what scripts/emulate_c.py counted of them once."""
    found = instructions(spec, build(name))
    assert found
    assert not found.is_measured
    assert found.instructions == pytest.approx(counted, rel=0.15)


def test_what_was_counted_is_taken_as_it_is_and_other_processors_follow() -> None:
    for width, number in build("Cortex-M4").widths.items():
        spec = CIFAR.scaled(float(width))
        found, other = instructions(spec, build("Cortex-M4")), instructions(spec, build("Cortex-M7"))
        assert found
        assert other
        assert (found.instructions, found.is_measured) == (number, True)
        assert not other.is_measured
        assert other.instructions == pytest.approx(number, rel=0.05)
    assert len(build("Cortex-M4").widths) == 3


def test_the_front_has_what_nothing_else_is_as_good_as() -> None:
    def candidate(width: float, top1: float | None) -> Candidate:
        return Candidate(f"{width}", CIFAR.scaled(width), None, None if top1 is None else Accuracy(top1, 10, "x"))

    among = [
        candidate(1.0, 0.9),
        candidate(0.75, 0.91),
        candidate(0.5, 0.8),
        candidate(0.25, 0.7),
        candidate(0.3, None),
    ]
    found = choose(Wanted(), among)
    assert [choice.candidate.name for choice in found] == ["0.75", "1.0", "0.5", "0.25", "0.3"]
    assert {choice.candidate.name for choice in found if choice.is_best} == {"0.75", "0.5", "0.25"}
    limited = choose(Wanted(flash=150 * 1024), among)
    assert [choice.candidate.name for choice in limited if choice.is_best] == ["0.5", "0.25"]
    assert not limited[-1].fits


@pytest.mark.slow
@pytest.mark.parametrize("target", choosing.TARGETS)
def test_every_target_has_a_table_a_plot_and_a_command(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = Wanted(target=target)
    choices = choose(wanted, candidates())
    tables.show_choices(wanted, choices)
    shown = capsys.readouterr().out
    assert all(f"{choice.candidate.accuracy.top1:.2%}" in shown for choice in choices if choice.candidate.accuracy)
    assert shown.splitlines()[-1] == f"mnv1 export --format {choosing.TARGETS[target].format} --quantize int8"
    assert f"{cost(CIFAR).multiply_adds / 1e6:.1f} M" in shown
    plots.plot_choices(choices, tmp_path / "choice.svg")
    assert (tmp_path / "choice.svg").stat().st_size > 5000


def test_the_command_prints_json_and_says_what_is_estimated(tmp_path: Path) -> None:
    done = mnv1_choose("--flash", "320K", "--ram", "48K", "--on", "cortex-m7@216MHz", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["cycles"]["is_bound"]
    first = facts["choices"][0]
    assert (first["name"], first["fits"], first["is_measured"]) == ("mobilenetv1_cifar10", True, True)
    assert first["is_planned"]
    assert facts["command"] == "mnv1 export --format c --quantize int8 --flash 327680 --ram 49152"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--flash", "10K"], 1, "Nothing fits; width 0.125, untrained lacks least: flash."),
        (["--latency", "1ms", "--on", "cortex-m4@80MHz"], 1, "width 0.125, untrained lacks least: latency."),
        (["--top1", "99%"], 1, "Nothing fits; mobilenetv1_cifar10 lacks least: accuracy."),
        (["--latency", "5ms"], 1, "--on cortex-m4@80MHz"),
        (["--latency", "5ms", "--on", "cortex-m4"], 1, "needs the processor and its clock"),
        (["--latency", "5ms", "--on", "aarch64@1GHz"], 1, "--cycles-per-instruction"),
        (["--target", "web", "--ram", "1M"], 1, "are a microcontroller's, not a web's"),
        (["--target", "server", "--on", "cortex-m4"], 1, "no processor was measured"),
        (["--target", "toaster"], 1, "There are microcontroller, esp32"),
        (["--on", "z80@4MHz"], 2, "No processor z80 was measured"),
        (["--checkpoint", "none.safetensors"], 1, "There is no checkpoint none.safetensors"),
    ],
)
def test_wishes_that_cannot_be_kept_are_a_sentence(
    arguments: list[str], status: int, said: str, tmp_path: Path
) -> None:
    done = mnv1_choose(*arguments, cwd=tmp_path)
    assert done.returncode == status
    assert said in " ".join(done.stderr.split())
