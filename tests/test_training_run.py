"""Whole runs on real images: what they keep, what they refuse, and that a killed one goes on to the same bytes."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import together

from mnv1deploy import checkpoint
from mnv1deploy.datasets import Dataset, calibration
from mnv1deploy.errors import MnvError
from mnv1deploy.spec import CIFAR
from mnv1deploy.training import setup
from mnv1deploy.training.run import Run
from mnv1deploy.training.settings import Settings

SMALL = CIFAR.scaled(0.25)
QUICK = Settings.recipe("quick", epochs=2, batch_size=64, holdout=0.2, ema=0.9)


def test_devices_are_used_or_refused() -> None:
    assert setup.select_device("cpu").type == "cpu"
    assert setup.select_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("cuda:99", "warp", "meta"):
        with pytest.raises(MnvError):
            setup.select_device(name)
    if not torch.cuda.is_available():
        with pytest.raises(MnvError, match="sees 0 CUDA devices here, so not cuda"):
            setup.select_device("cuda")


def test_runs_that_cannot_be(tmp_path: Path) -> None:
    pictures = calibration()
    with pytest.raises(MnvError, match="other classes or another picture size"):
        Run(SMALL.replace(input_size=48), pictures, QUICK, tmp_path)
    with pytest.raises(MnvError, match="other classes or another picture size"):
        Run(SMALL.replace(classes=("a", "b")), pictures, QUICK, tmp_path)
    with pytest.raises(MnvError, match="fewer than one batch"):
        Run(SMALL, pictures, replace(QUICK, batch_size=500), tmp_path)
    with pytest.raises(MnvError, match="no run to resume"):
        Run(SMALL, pictures, QUICK, tmp_path, resume=True)
    Run(SMALL, pictures, replace(QUICK, epochs=1), tmp_path).fit()
    with pytest.raises(MnvError, match="has a run already"):
        Run(SMALL, pictures, QUICK, tmp_path)
    with pytest.raises(MnvError, match="other settings"):
        Run(SMALL, pictures, QUICK, tmp_path, resume=True)
    fewer = pictures.subset(np.arange(400), pictures.name)
    with pytest.raises(MnvError, match=r"was begun on .* 512 images, not on"):
        Run(SMALL, fewer, replace(QUICK, epochs=1), tmp_path, resume=True)


def test_a_run_that_diverges_says_so(tmp_path: Path) -> None:
    run = Run(SMALL, calibration(), replace(QUICK, learning_rate=1e30), tmp_path)
    with pytest.raises(MnvError, match="no longer a number in epoch"):
        run.fit()


@pytest.mark.slow
def test_it_learns(cifar10_train: Dataset, tmp_path: Path) -> None:
    part = cifar10_train.subset(np.arange(4000), "4,000 images")
    settings = Settings.recipe("quick", epochs=5, batch_size=64, ema=0.95, holdout=0.1)
    run = Run(CIFAR.scaled(0.25), part, settings, tmp_path)
    run.fit()
    assert run.log[-1].train_loss < run.log[0].train_loss - 0.3
    best = max(row.holdout_accuracy or 0 for row in run.log)
    assert best > 0.35
    kept = checkpoint.load(run.checkpoint)
    assert kept.accuracy[0].top1 == best
    assert kept.accuracy[0].images == len(run.parts.holdout) > 390
    assert run.log[kept.training["best_epoch"] - 1].holdout_accuracy == best
    evaluation = run.measure(part.subset(np.arange(100), "a test"))
    assert checkpoint.load(run.checkpoint).accuracy == (evaluation.accuracy, kept.accuracy[0])


@pytest.mark.slow
def test_without_a_held_out_part_the_last_epoch_is_kept(tmp_path: Path) -> None:
    run = Run(SMALL, calibration(), replace(QUICK, holdout=0.0, optimizer="adamw", learning_rate=0.002), tmp_path)
    run.fit()
    kept = checkpoint.load(run.checkpoint)
    assert kept.training["best_epoch"] == 2
    assert kept.accuracy == ()
    assert all(row.holdout_accuracy is None for row in run.log)
    assert torch.equal(kept.network.classifier.weight, run.average.network.classifier.weight)


RUN_SCRIPT = """
import sys
from mnv1deploy import datasets
from mnv1deploy.spec import CIFAR
from mnv1deploy.training.run import Run
from mnv1deploy.training.settings import Settings
settings = Settings.recipe("quick", epochs=4, batch_size=64, holdout=0.2, ema=0.9)
spec, resume = CIFAR.scaled(0.25), "resume" in sys.argv
run = Run(spec, datasets.calibration(), settings, sys.argv[1], resume=resume)
run.fit(on_epoch=lambda epoch: print(epoch.epoch, flush=True))
"""


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    script = tmp_path / "run.py"
    script.write_text(RUN_SCRIPT)
    together(script, whole, processes=1)
    process = subprocess.Popen([sys.executable, "-c", RUN_SCRIPT, killed], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    with process.stdout as lines:
        assert next(lines).strip() == "1"
        assert next(lines).strip() == "2"
        process.kill()
        process.wait()
    before = (killed / "log.jsonl").read_text().count("\n")
    assert 2 <= before < 4
    together(script, killed, "resume", processes=1)
    assert (killed / "checkpoint.safetensors").read_bytes() == (whole / "checkpoint.safetensors").read_bytes()
    logs = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in (whole, killed)]
    for row in (*logs[0], *logs[1]):
        del row["seconds"], row["images_per_second"]
    assert logs[0] == logs[1]
    assert not [path for path in killed.iterdir() if path.name.startswith(".state")], "nothing half-written is left"
