"""The trainer: its parts against what they should be, and whole runs on real images."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from mnv1deploy import checkpoint, training
from mnv1deploy.datasets import Dataset, calibration
from mnv1deploy.errors import MnvError
from mnv1deploy.network import MobileNetV1
from mnv1deploy.spec import CIFAR
from mnv1deploy.training import Run, Settings, augmented_batches

SMALL = CIFAR.replace(width=0.25)
QUICK = Settings(epochs=2, batch_size=64, holdout=0.2, ema=0.9)
PIXELS = calibration().images
GREY = (128.0, 128.0, 128.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0}, {"batch_size": 1}, {"optimizer": "adam"}, {"learning_rate": 0.0}, {"momentum": 1.0},
        {"weight_decay": -1.0}, {"schedule": "step"}, {"warmup": 1.0}, {"label_smoothing": 1.0}, {"ema": 1.0},
        {"crop": -1}, {"cutout": -1}, {"holdout": 1.0}, {"learning_rate": math.nan},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_cannot_be(wrong: dict[str, object]) -> None:
    with pytest.raises(MnvError, match=f"{next(iter(wrong))} cannot be"):
        Settings(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine"])
def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero(schedule: str) -> None:
    chosen = Settings(schedule=schedule, warmup=0.25, learning_rate=0.4)  # type: ignore[arg-type]
    rates = [chosen.learning_rate_at(step / 100) for step in range(101)]
    assert rates[0] == 0
    assert rates[10] == pytest.approx(0.4 * 10 / 25)
    assert max(rates) == rates[25] == pytest.approx(0.4)
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert rates[25:] == sorted(rates[25:], reverse=True)
    middle = chosen.learning_rate_at(0.25 + 0.75 / 4)
    assert middle == pytest.approx(0.3 if schedule == "one-cycle" else 0.2 * (1 + math.cos(math.pi / 4)))
    assert Settings(warmup=0.0).learning_rate_at(0.0) == 0.2


# Augmentation ------------------------------------------------------------------------------------------------------


def batches(chosen: Settings, epoch: int = 1, count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """All pictures of an epoch; the labels are the pictures' numbers."""
    images = torch.from_numpy(PIXELS[:count])
    parts = list(augmented_batches(images, torch.arange(count), chosen, epoch, fill=GREY))
    return np.concatenate([p.numpy() for p, _ in parts]), np.concatenate([n.numpy() for _, n in parts])


PLAIN = Settings(batch_size=32, crop=0, flip=False, cutout=0)


def test_without_augmentation_every_picture_comes_once_and_untouched() -> None:
    pixels, numbers = batches(PLAIN)
    assert len(set(numbers)) == len(numbers) == 200 // 32 * 32
    np.testing.assert_array_equal(pixels, PIXELS[numbers])
    assert pixels.dtype == np.uint8


def test_order_and_augmentation_depend_on_seed_and_epoch_alone() -> None:
    chosen = Settings(batch_size=32)
    torch.manual_seed(1)
    first = batches(chosen, 3)
    torch.manual_seed(2)
    np.testing.assert_array_equal(first[0], batches(chosen, 3)[0])
    assert not np.array_equal(first[1], batches(chosen, 4)[1])
    assert not np.array_equal(first[1], batches(replace(chosen, seed=1), 3)[1])


def test_crops_are_windows_of_the_padded_picture_and_flips_mirror_it() -> None:
    pixels, numbers = batches(replace(PLAIN, crop=3, flip=True))
    seen = set()
    for found, number in zip(pixels, numbers, strict=True):
        padded = np.full((38, 38, 3), 128, np.uint8)
        padded[3:35, 3:35] = PIXELS[number]
        candidates = {
            (dy, dx, flip)
            for dy in range(7)
            for dx in range(7)
            for flip in (False, True)
            if np.array_equal(found, padded[dy : dy + 32, dx : dx + 32][:, :: -1 if flip else 1])
        }
        assert candidates
        seen |= candidates
    assert {flip for _, _, flip in seen} == {False, True}
    assert {dy for dy, _, _ in seen} == {dx for _, dx, _ in seen} == set(range(7))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 20))
def test_cutout_blanks_one_square_at_most(side: int) -> None:
    pixels, numbers = batches(replace(PLAIN, cutout=side, batch_size=50), count=50)
    for found, number in zip(pixels, numbers, strict=True):
        rows, columns = np.where((found != PIXELS[number]).any(-1))
        if len(rows):
            top, left = rows.min(), columns.min()
            assert rows.max() - top < side
            assert columns.max() - left < side
            assert (found[rows, columns] == 128).all()


# The optimiser and the average -------------------------------------------------------------------------------------


def test_weight_decay_is_on_dense_weights_alone(tmp_path: Path) -> None:
    run = Run(SMALL, calibration(), QUICK, tmp_path / "run")
    decayed, others = run.optimizer.param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (QUICK.weight_decay, 0.0)
    dense = [
        module.weight
        for module in run.network.modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
    ]
    assert {id(p) for p in decayed["params"]} == {id(p) for p in dense}
    assert len(decayed["params"]) + len(others["params"]) == len(list(run.network.parameters()))
    adamw = Run(SMALL, calibration(), replace(QUICK, optimizer="adamw"), tmp_path / "adamw").optimizer
    assert isinstance(adamw, torch.optim.AdamW)


def test_the_average_is_the_bias_corrected_one(tmp_path: Path) -> None:
    """Against the sum over all steps: weights (1 - d) d^(n - k) for step k, divided by 1 - d^n."""
    decay, steps = 0.8, 7
    run = Run(SMALL, calibration(), replace(QUICK, ema=decay), tmp_path)
    torch.manual_seed(0)
    history = []
    for step in range(1, steps + 1):
        with torch.no_grad():
            run.network.classifier.weight.normal_()
            run.network.stem.norm.running_mean.normal_()
        history.append((run.network.classifier.weight.detach().clone(), run.network.stem.norm.running_mean.clone()))
        run._update_average(step)
    factors = [(1 - decay) * decay ** (steps - k) / (1 - decay**steps) for k in range(1, steps + 1)]
    assert sum(factors) == pytest.approx(1)
    for found, part in ((run.average.classifier.weight.detach(), 0), (run.average.stem.norm.running_mean, 1)):
        expected = sum(factor * values[part] for factor, values in zip(factors, history, strict=True))
        np.testing.assert_allclose(found, expected, atol=1e-5)


# Runs --------------------------------------------------------------------------------------------------------------


def test_devices_are_used_or_refused() -> None:
    assert training.select_device("cpu").type == "cpu"
    assert training.select_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("cuda:99", "warp", "meta"):
        with pytest.raises(MnvError):
            training.select_device(name)
    if not torch.cuda.is_available():
        with pytest.raises(MnvError, match="sees 0 CUDA devices here, so not cuda"):
            training.select_device("cuda")


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
    run = Run(CIFAR, part, Settings(epochs=8, batch_size=64, ema=0.95, holdout=0.1), tmp_path)
    run.fit()
    assert run.log[-1].train_loss < run.log[0].train_loss - 0.3
    best = max(row.holdout_accuracy or 0 for row in run.log)
    assert best > 0.4
    kept = checkpoint.load(run.checkpoint)
    assert kept.accuracy[0].top1 == best
    assert kept.accuracy[0].images == len(run.holdout_part) > 390
    assert run.log[kept.training["best_epoch"] - 1].holdout_accuracy == best
    evaluation = run.measure(part.subset(np.arange(100), "a test"))
    assert checkpoint.load(run.checkpoint).accuracy == (evaluation.accuracy, kept.accuracy[0])


def test_without_a_held_out_part_the_last_epoch_is_kept(tmp_path: Path) -> None:
    run = Run(SMALL, calibration(), replace(QUICK, holdout=0.0, optimizer="adamw", learning_rate=0.002), tmp_path)
    run.fit()
    kept = checkpoint.load(run.checkpoint)
    assert kept.training["best_epoch"] == 2
    assert kept.accuracy == ()
    assert all(row.holdout_accuracy is None for row in run.log)
    assert torch.equal(kept.network.classifier.weight, run.average.classifier.weight)


RUN_SCRIPT = """
import sys
from mnv1deploy import datasets, training
from mnv1deploy.spec import CIFAR
settings = training.Settings(epochs=4, batch_size=64, holdout=0.2, ema=0.9)
spec, resume = CIFAR.replace(width=0.25), "resume" in sys.argv
run = training.Run(spec, datasets.calibration(), settings, sys.argv[1], resume=resume)
run.fit(on_epoch=lambda epoch: print(epoch.epoch, flush=True))
"""


def test_a_killed_run_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([sys.executable, "-c", RUN_SCRIPT, whole], check=True, capture_output=True)
    process = subprocess.Popen([sys.executable, "-c", RUN_SCRIPT, killed], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    with process.stdout as lines:
        assert next(lines).strip() == "1"
        assert next(lines).strip() == "2"
        process.kill()
        process.wait()
    before = (killed / "log.jsonl").read_text().count("\n")
    assert 2 <= before < 4
    subprocess.run([sys.executable, "-c", RUN_SCRIPT, killed, "resume"], check=True, capture_output=True)
    assert (killed / "checkpoint.safetensors").read_bytes() == (whole / "checkpoint.safetensors").read_bytes()
    logs = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in (whole, killed)]
    for row in (*logs[0], *logs[1]):
        del row["seconds"], row["images_per_second"]
    assert logs[0] == logs[1]
    assert not [path for path in killed.iterdir() if path.name.startswith(".state")], "nothing half-written is left"


# The command -------------------------------------------------------------------------------------------------------


def mnv1_train(*arguments: object) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "mnv1deploy.cli", "train", *map(str, arguments)]


def test_the_command_on_an_own_folder(class_folders: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    options = ["--epochs", 3, "--batch-size", 16, "--width", 0.25, "--ema", 0.9, "--holdout", 0.2]
    command = mnv1_train("--data", class_folders, "--output", output, "--json", *options)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("epoch ") == 3
    found = json.loads(done.stdout)
    assert (found["images"], set(found["classes"])) == (16, {"cat", "dog"})
    assert {path.name for path in output.iterdir()} == {
        "checkpoint.safetensors", "log.jsonl", "state.pt", "curves.png", "confusion.png",
    }  # fmt: skip
    with Image.open(output / "curves.png") as curves:
        assert curves.width > 800
    kept = checkpoint.load(output / "checkpoint.safetensors")
    assert kept.spec == CIFAR.replace(name="mobilenetv1_pets_w0.25", classes=("cat", "dog"), width=0.25)
    assert kept.accuracy[0].top1 == found["top1"]
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 1
    assert "has a run already" in again.stderr
    other = mnv1_train("--data", class_folders, "--output", output, "--resume", "--epochs", 5)
    refused = subprocess.run(other, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "leave out --epochs" in refused.stderr


def test_ctrl_c_keeps_the_run(class_folders: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    options = ["--data", class_folders, "--output", output]
    command = mnv1_train(*options, "--epochs", 12, "--batch-size", 16, "--width", 0.25)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    while not (output / "state.pt").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert f"Go on with: mnv1 train --resume --output {output}" in errors
    assert "Traceback" not in errors
    done = subprocess.run(mnv1_train(*options, "--resume"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (output / "log.jsonl").read_text().count("\n") == 12


def test_wrong_settings_are_one_sentence(class_folders: Path, tmp_path: Path) -> None:
    for options, message in (
        (["--optimizer", "lion"], "optimizer cannot be lion"),
        (["--input-size", 40], "multiple of 16"),
        (["--device", "warp"], "no device called warp"),
        (["--data", tmp_path / "none"], "CIFAR-10 is not in"),
    ):
        arguments = ["--data", class_folders, "--output", tmp_path / "run", *options]
        done = subprocess.run(mnv1_train(*arguments), capture_output=True, text=True)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "run").exists()


def test_names_of_specs() -> None:
    pictures = calibration()
    assert training.spec_for(pictures) == CIFAR
    assert training.spec_for(pictures, 0.5).name == "mobilenetv1_cifar10_w0.5"
    own = Dataset("My pets! train", np.zeros((2, 64, 64, 3), np.uint8), np.array([0, 1]), ("a", "b"))
    assert training.spec_for(own).name == "mobilenetv1_my_64px"
    assert isinstance(MobileNetV1(training.spec_for(own)), nn.Module)
