"""Whether a network fits a microcontroller: sizes as people write them, plans that take less, refusals that say all."""

import copy
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import mnv1
from conftest import quantized

from mnv1deploy import datasets, exporting, formats
from mnv1deploy.artifact import Provenance
from mnv1deploy.c import generate
from mnv1deploy.c.fitting import STACK, fitting_plan, needs
from mnv1deploy.c.measured import builds
from mnv1deploy.c.plan import Footprint, footprint, plan, plans
from mnv1deploy.device import Device, size
from mnv1deploy.errors import MnvError
from mnv1deploy.exporting import Exported
from mnv1deploy.formats.c import BACKEND_VARIABLE
from mnv1deploy.network import MobileNetV1
from mnv1deploy.report import as_json, tables
from mnv1deploy.spec import CIFAR, PAPER, ModelSpec

SPEC = CIFAR.scaled(0.3).replace(name="network")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *(("49152", 49152), ("48K", 49152), ("48k", 49152), ("48KB", 49152), ("48KiB", 49152), ("48 kB", 49152)),
        *(("0.5M", 524288), (".5m", 524288), ("1.5K", 1536), ("1", 1), ("7B", 7), ("2MiB", 2097152)),
    ],
)
def test_a_size_is_bytes_and_k_is_1024(text: str, expected: int) -> None:
    assert size(text) == expected


@pytest.mark.parametrize(
    "text", ["", "K", "48X", "48G", "-48K", "0", "0.3", "1.5", "1e3", "48K K", "inf", "nan", "٤٨K"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(MnvError, match="is no size of a memory"):
        size(text)


def test_plans_take_less_and_less_ram_with_fewer_rows_at_a_time() -> None:
    found = list(plans(CIFAR))
    assert found[0] == plan(CIFAR)
    sizes = [buffers.scratch for buffers in found]
    assert sizes == sorted(set(sizes), reverse=True)
    assert len(sizes) >= 3
    assert sizes[0] - sizes[-1] > 4096
    assert {fusion.rows for fusion in found[-1].fusions} <= {1, 2}


def test_the_fastest_plan_that_fits_is_taken() -> None:
    for buffers in plans(CIFAR):
        ram = min(row.ram for row in needs(CIFAR, buffers))
        assert fitting_plan(CIFAR, Device(ram=ram)) == buffers
        if buffers != plan(CIFAR):
            assert fitting_plan(CIFAR, Device(ram=ram + 100)) == buffers
    assert fitting_plan(CIFAR, Device()) == fitting_plan(CIFAR, Device(flash=2**20)) == plan(CIFAR)


def test_the_bundled_network_takes_what_was_measured() -> None:
    rows = needs(CIFAR, plan(CIFAR))
    assert [row.build for row in rows] == [build for build in builds() if build.is_microcontroller]
    assert all((row.flash, row.ram) == (row.build.flash, row.build.ram) for row in rows)
    assert {row.build.kernels for row in rows} == {"portable", "cortex_m_dsp", "helium"}
    for row in rows:
        assert row.flash > footprint(CIFAR).flash + row.build.code
        assert 0 < row.ram - (plan(CIFAR).scratch + 3 * 32 * 32 + 4 * 10 + STACK) < 16
        assert row.build.stack < STACK


@pytest.mark.parametrize(
    ("device", "said", "remedy"),
    [
        (Device(ram=40 * 1024), "40,960 bytes of RAM", "--ram 45K"),
        (Device(flash=200 * 1024), "204,800 bytes of flash", "--flash 302K"),
        (Device(ram=100, flash=100), "100 bytes of flash and 100 bytes of RAM", "--flash 302K --ram 45K"),
        (Device(ram=2**20, flash=1), "1 bytes of flash and 1,048,576 bytes of RAM", "--flash 302K;"),
    ],
)
def test_a_refusal_says_what_every_instruction_set_takes(device: Device, said: str, remedy: str) -> None:
    with pytest.raises(MnvError) as refused:
        fitting_plan(CIFAR, device)
    assert said in refused.value.message
    assert remedy in refused.value.hint
    least = needs(CIFAR, list(plans(CIFAR))[-1])
    for row in least:
        assert row.build.kernels in refused.value.message
    for pick in (min, max):
        assert f"{pick(row.flash for row in least):,}" in refused.value.message
    # what the remedy names is enough, and a KiB less is not
    limits = {name: size(text) for name, text in re.findall(r"--(\w+) (\w+)", refused.value.hint.partition(";")[0])}
    assert fitting_plan(CIFAR, Device(**limits))
    for name, limit in limits.items():
        with pytest.raises(MnvError):
            fitting_plan(CIFAR, Device(**{**limits, name: limit - 1024}))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A network of random weights with each of its plans, the fastest first."""
    torch.manual_seed(0)
    images = datasets.calibration().images[:16]
    integers = copy.deepcopy(quantized(MobileNetV1(SPEC).eval().folded(), images))
    provenance = Provenance("c", "int8", SPEC, "0" * 64, (), integers.facts, {})
    made = []
    for number, buffers in enumerate(plans(SPEC)):
        made.append(tmp_path_factory.mktemp("plans") / f"{number}.c")
        device = Device(ram=min(row.ram for row in needs(SPEC, buffers)))
        generate.write(made[-1], integers, provenance, device)
    return made


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_once")
def test_every_plan_gives_the_same_bits_on_every_instruction_set(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = datasets.calibration().images[:5]
    first, *others = (formats.open_session(folder, threads=1) for folder in folders)
    expected = first(images)
    backends = formats.get("c").open(folders[0], provider=first.provider, threads=1).backends  # type: ignore[attr-defined]
    assert others
    for backend in backends:
        monkeypatch.setenv(BACKEND_VARIABLE, backend)
        for folder in folders:
            np.testing.assert_array_equal(formats.open_session(folder, threads=2)(images), expected)


def test_info_says_what_the_folder_plans_with(folders: list[Path]) -> None:
    for folder, buffers in zip(folders, plans(SPEC), strict=True):
        assert as_json.info_as_dict(folder)["ram"] == buffers.scratch
    (folders[-1] / "network.h").rename(folders[-1] / "elsewhere.h")
    try:
        with pytest.raises(MnvError, match="is not complete"):
            as_json.info_as_dict(folders[-1])
    finally:
        (folders[-1] / "elsewhere.h").rename(folders[-1] / "network.h")


def test_what_does_not_fit_is_refused_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting.evidence, "gather", lambda *_, **__: pytest.fail("pictures are read"))
    with pytest.raises(MnvError, match="does not fit 1,024 bytes of RAM"):
        exporting.export("c", "int8", output=tmp_path / "new", device=Device(ram=1024))
    assert not (tmp_path / "new").exists()
    with pytest.raises(MnvError, match="Only C is written for a device"):
        exporting.export("onnx", "int8", output=tmp_path / "new", device=Device(ram=2**20))


@pytest.mark.slow
def test_an_export_tells_what_programs_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ram = min(row.ram for row in needs(CIFAR, list(plans(CIFAR))[-1]))
    device = Device(ram=ram, flash=312_000)
    (done,) = exporting.export("c", "int8", untrained=CIFAR, output=tmp_path, device=device)
    assert done.device == device
    least = list(plans(done.spec))[-1].scratch
    (facts,) = as_json.exported_as_dicts([done], {})
    assert (facts["flash"], facts["ram"]) == (footprint(CIFAR).flash, least)
    counts = {(row["processor"], row["options"]): row["instructions"] for row in facts["programs"]}
    assert counts["Cortex-M4", "-O2"]["is_measured"]
    assert all(row["code"] > 1000 and row["instructions"] for row in facts["programs"])
    fits = {(row["processor"], row["options"]): row["fits"] for row in facts["programs"]}
    assert fits["Cortex-M3", "-O2"]
    assert not fits["Cortex-M4", "-O3"]
    assert as_json.info_as_dict(done.path)["ram"] == least
    json.dumps(facts)
    tables.show_exported([done], {}, {})
    shown = capsys.readouterr().out
    assert f"{least:,} of RAM" in shown
    assert f"saves {plan(CIFAR).scratch - least:,} bytes of RAM" in shown
    columns = {"Cortex-M3": r"-O2 +portable.* 28\.5 M +yes", "Cortex-M4": r"-O3 +cortex_m_dsp.* 10\.5 M +no"}
    for processor, columns_of in columns.items():
        assert re.search(rf"{processor} +{columns_of}", shown)
    tables.show_exported([Exported(done.path, done.manifest, ())], {}, {})
    assert "Cortex-M3" not in capsys.readouterr().out


@pytest.mark.parametrize("spec", [SPEC, PAPER, CIFAR.replace(blocks=())], ids=["narrow", "paper", "no block"])
def test_another_plan_changes_no_byte_of_flash(spec: ModelSpec) -> None:
    first, *_ = found = list(plans(spec))
    assert len({row.flash for buffers in found for row in needs(spec, buffers) if row.build == builds()[0]}) == 1
    assert footprint(spec) == footprint(spec, first.scratch)
    assert footprint(spec, 7) == Footprint(footprint(spec).flash, 7)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--ram", "48X"], ["--flash", "-1"], ["--ram", "0.3K"]])
def test_a_size_that_is_none_is_wrong_usage(arguments: list[str], tmp_path: Path) -> None:
    done = mnv1("export", "--format", "c", "--quantize", "int8", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "is no size of a memory" in re.sub(r"\s+", " ", done.stderr)
    assert not list(tmp_path.iterdir())
