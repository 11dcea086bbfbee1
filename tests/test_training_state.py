"""The state file: what this version and 0.1.0 wrote is gone on from; anything else is refused by name."""

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mnv1deploy import checkpoint
from mnv1deploy.datasets import calibration
from mnv1deploy.errors import MnvError
from mnv1deploy.spec import CIFAR
from mnv1deploy.training.run import Run
from mnv1deploy.training.settings import Settings
from mnv1deploy.training.state import FILE, VERSION, State

OLDER = Path(__file__).parent / "fixtures" / "run_0.1.0"
"""Two of three epochs of ``quick`` on the 512 calibration pictures at width 0.1, batch 64, holdout 0.2, ema 0.9."""

SMALL = CIFAR.scaled(0.1)
QUICK = Settings.recipe("quick", epochs=2, batch_size=64, holdout=0.2, ema=0.9)


def test_a_run_of_0_1_0_goes_on(tmp_path: Path) -> None:
    folder = shutil.copytree(OLDER, tmp_path / "run")
    state = State.read(folder)
    assert state.spec == SMALL
    assert state.settings == replace(QUICK, epochs=3, pictures=0)
    assert [epoch.epoch for epoch in state.log] == [1, 2]
    run = Run(state.spec, calibration(), state.settings, folder, resume=True)
    run.fit()
    assert [epoch.epoch for epoch in run.log] == [1, 2, 3]
    assert run.log[-1].train_loss < run.log[0].train_loss
    assert checkpoint.load(run.checkpoint).spec.replace(temperature=1.0) == SMALL
    assert torch.load(folder / FILE, weights_only=True)["version"] == VERSION == 2


def altered(folder: Path, **changes: Any) -> Path:
    """A copy of the older run with other content."""
    shutil.copytree(OLDER, folder)
    content = torch.load(folder / FILE, weights_only=True)
    torch.save({**content, **changes}, folder / FILE)
    return folder


@pytest.mark.parametrize("name", ["mixup", "small"])
def test_a_run_of_0_1_0_with_a_setting_that_is_gone_is_refused_by_name(name: str, tmp_path: Path) -> None:
    settings = torch.load(OLDER / FILE, weights_only=True)["settings"]
    folder = altered(tmp_path / "run", settings={**settings, name: 0.25})
    with pytest.raises(MnvError, match=f"uses {name} = 0.25, which mnv1deploy has no longer"):
        State.read(folder)


@pytest.mark.parametrize(
    "changes",
    [{"version": 3}, {"version": "x"}, {"settings": {}}, {"settings": None}, {"log": [1]}, {"spec": "{}"}, {"spec": 1}],
    ids=str,
)
def test_a_state_that_is_not_understood_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    folder = altered(tmp_path / "run", **changes)
    with pytest.raises(MnvError):
        State.read(folder)
    with pytest.raises(MnvError, match="has a run already"):
        Run(SMALL, calibration(), QUICK, folder)


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "list"])
def test_a_damaged_state_is_one_sentence(damage: str, tmp_path: Path) -> None:
    whole = (OLDER / FILE).read_bytes()
    content = {"cut": whole[: len(whole) // 2], "text": b"<html>", "empty": b""}
    if damage == "list":
        torch.save([1, 2], tmp_path / FILE)
    else:
        (tmp_path / FILE).write_bytes(content[damage])
    with pytest.raises(MnvError, match="is no state of a run, or is damaged"):
        State.read(tmp_path)


def test_a_state_without_an_epoch_does_not_block_a_new_start(tmp_path: Path) -> None:
    """Whatever stopped a run before its first epoch was done, there is nothing to lose yet."""
    begun = Run(SMALL, calibration(), QUICK, tmp_path)
    begun._begin()
    assert (tmp_path / FILE).exists()
    Run(SMALL, calibration(), QUICK, tmp_path, resume=True)
    Run(SMALL, calibration(), replace(QUICK, epochs=1), tmp_path).fit()
    with pytest.raises(MnvError, match="has a run already"):
        Run(SMALL, calibration(), QUICK, tmp_path)


@pytest.mark.slow
def test_what_is_written_is_read(tmp_path: Path) -> None:
    run = Run(SMALL, calibration(), QUICK, tmp_path, source=tmp_path / "pictures")
    run.fit()
    state = State.read(tmp_path)
    assert (state.spec, state.settings, list(state.log)) == (run.spec, run.settings, run.log)
    assert (state.source, state.teacher, state.init) == (str(tmp_path / "pictures"), "", "")
    assert asdict(state)["best_accuracy"] == run.best_accuracy
