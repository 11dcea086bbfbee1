"""The trainer: its parts against what they should be, and whole runs on real images."""

import json
import math
import os
import platform
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_class_folders
from PIL import Image
from torch import nn

from mnv1deploy import bundled, checkpoint, training
from mnv1deploy.datasets import Dataset, calibration
from mnv1deploy.distillation import Teacher
from mnv1deploy.errors import MnvError
from mnv1deploy.network import MobileNetV1, PixelNetwork
from mnv1deploy.optimizers import Optimizers
from mnv1deploy.settings import Settings, recipes
from mnv1deploy.spec import CIFAR
from mnv1deploy.training import Run

SMALL = CIFAR.scaled(0.25)
QUICK = Settings.recipe("quick", epochs=2, batch_size=64, holdout=0.2, ema=0.9)


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
        Settings.recipe("quick", **wrong)


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine"])
def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero(schedule: str) -> None:
    chosen = Settings.recipe("quick", schedule=schedule, warmup=0.25, learning_rate=0.4)
    rates = [chosen.learning_rate_at(step / 100) for step in range(101)]
    assert rates[0] == 0
    assert rates[10] == pytest.approx(0.4 * 10 / 25)
    assert max(rates) == rates[25] == pytest.approx(0.4)
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert rates[25:] == sorted(rates[25:], reverse=True)
    middle = chosen.learning_rate_at(0.25 + 0.75 / 4)
    assert middle == pytest.approx(0.3 if schedule == "one-cycle" else 0.2 * (1 + math.cos(math.pi / 4)))
    assert Settings.recipe("quick", warmup=0.0).learning_rate_at(0.0) == 0.2


@pytest.mark.parametrize("name", recipes())
def test_recipes_are_whole(name: str) -> None:
    found = Settings.recipe(name)
    assert found.teacher == "" or Settings.recipe(found.teacher).network == "teacher"
    assert Settings.recipe(name, epochs=3) == replace(found, epochs=3)


def test_recipes_of_ones_own(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    text = (resources.files("mnv1deploy") / "recipes" / "quick.toml").read_text()
    own.write_text(text.replace("epochs = 30", "epochs = 7"))
    assert Settings.recipe(own) == Settings.recipe("quick", epochs=7)
    for change, message in (
        (("epochs = 30", ""), "lacks epochs"),
        (("epochs = 30", "epochs = 30\nepoch = 1"), "has an unknown epoch"),
        (("epochs = 30", 'epochs = "many"'), "epochs = 'many', which is no int"),
        (("epochs = 30", "epochs = "), "is not TOML"),
        (("epochs = 30", "epochs = 0"), "epochs cannot be 0"),
    ):
        own.write_text(text.replace(*change))
        with pytest.raises(MnvError, match=message):
            Settings.recipe(own)
    with pytest.raises(MnvError, match="There is no recipe fastest") as missing:
        Settings.recipe("fastest")
    assert "best, quick, teacher" in missing.value.hint


# The optimiser and the average -------------------------------------------------------------------------------------


def groups_of(network: PixelNetwork, settings: Settings) -> dict[int, dict[str, Any]]:
    """Optimizer and its parameter group by parameter, after one step at rate 1 on a loss that has a gradient."""
    optimizers = Optimizers(network, settings)
    optimizers.set_rate(1.0)
    found = {}
    for optimizer in optimizers._all:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                found[parameter.data_ptr()] = {"optimizer": type(optimizer).__name__, **group}
    assert {parameter.data_ptr() for parameter in network.parameters() if parameter.requires_grad} <= set(found)
    return found


def dense_weights(network: nn.Module) -> set[int]:
    modules = [m for m in network.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    return {m.weight.data_ptr() for m in modules if isinstance(m, nn.Linear) or m.groups == 1}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("muon", [0.0, 0.03])
def test_weight_decay_is_on_dense_weights_alone(optimizer: str, muon: float) -> None:
    network = MobileNetV1(SMALL).to(memory_format=torch.channels_last)
    settings = Settings.recipe("quick", optimizer=optimizer, muon=muon, muon_decay=0.01)
    dense = dense_weights(network)
    convolutions = dense - {network.classifier.weight.data_ptr()}
    for pointer, group in groups_of(network, settings).items():
        if muon and pointer in convolutions:
            assert (group["optimizer"], group["weight_decay"]) == ("Muon", 0.01)
            assert group["lr"] == pytest.approx(muon / settings.learning_rate)
        else:
            assert group["optimizer"] == {"sgd": "SGD", "adamw": "AdamW"}[optimizer]
            assert group["weight_decay"] == (settings.weight_decay if pointer in dense else 0)
            assert group["lr"] == 1


@pytest.mark.parametrize("kind", [MobileNetV1, Teacher])
def test_muon_moves_the_weights_of_the_network_itself(kind: type[PixelNetwork]) -> None:
    network = kind(SMALL).to(memory_format=torch.channels_last)
    learning = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    before = {name: weight.clone() for name, weight in learning.items()}
    optimizers = Optimizers(network, Settings.recipe("quick", muon=0.03, momentum=0.0))
    optimizers.set_rate(0.2)
    pixels, labels = (torch.from_numpy(part[:32]) for part in (calibration().images, calibration().labels))
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    optimizers.step(nn.functional.cross_entropy(network(pixels), labels), scaler)
    for name, weight in learning.items():
        change = (weight - before[name]).detach()
        assert change.any(), name
        if weight.ndim == 4 and "depthwise" not in name:
            # an orthogonalised step: all its singular values are about the learning rate
            values = torch.linalg.svdvals(change.flatten(1)) / 0.03
            assert 0.3 < values.median() < 2, name


def test_the_teachers_biases_learn_faster() -> None:
    network = Teacher(CIFAR).to(memory_format=torch.channels_last)
    settings = Settings.recipe("teacher")
    fast = {m.bias.data_ptr() for m in network.modules() if isinstance(m, nn.BatchNorm2d)}
    for pointer, group in groups_of(network, settings).items():
        usual = settings.muon / settings.learning_rate if group["optimizer"] == "Muon" else 1
        assert group["lr"] == (Teacher.bias_rate if pointer in fast else usual)
        if pointer in fast:
            assert group["lr"] * group["weight_decay"] == pytest.approx(settings.weight_decay)


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
    run = Run(CIFAR, part, Settings.recipe("quick", epochs=8, batch_size=64, ema=0.95, holdout=0.1), tmp_path)
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
from mnv1deploy.settings import Settings
from mnv1deploy.spec import CIFAR
settings = Settings.recipe("quick", epochs=4, batch_size=64, holdout=0.2, ema=0.9)
spec, resume = CIFAR.scaled(0.25), "resume" in sys.argv
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
    assert kept.spec == CIFAR.scaled(0.25).replace(name="mobilenetv1_pets_w0.25", classes=("cat", "dog"))
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
    command = mnv1_train(*options, "--epochs", 200, "--batch-size", 16, "--width", 0.25)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    while not (output / "log.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert f"Go on with: mnv1 train --resume --output {output}" in errors
    assert "Traceback" not in errors
    done = subprocess.run(mnv1_train(*options, "--resume"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (output / "log.jsonl").read_text().count("\n") == 200


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


def test_tensorboard_has_every_epoch(class_folders: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    options = ["--epochs", 2, "--batch-size", 16, "--width", 0.25, "--ema", 0.9, "--holdout", 0.2, "--tensorboard"]
    done = subprocess.run(
        mnv1_train("--data", class_folders, "--output", output, *options), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    read = (
        "import sys\n"
        "from tensorboard.backend.event_processing.event_accumulator import EventAccumulator\n"
        "log = EventAccumulator(sys.argv[1])\n"
        "log.Reload()\n"
        "print(*(event.value for event in log.Scalars('train_loss')))\n"
    )
    found = subprocess.run([sys.executable, "-c", read, output], capture_output=True, text=True, check=True).stdout
    logged = [json.loads(line)["train_loss"] for line in (output / "log.jsonl").read_text().splitlines()]
    assert [float(value) for value in found.split()] == pytest.approx(logged)


def test_fine_tuning_starts_from_the_checkpoint_with_a_new_head(tmp_path: Path) -> None:
    """Two of CIFAR-10's classes, 32 pictures of each: far better than chance after a few passes at a low rate."""
    output = tmp_path / "run"
    options = ["--epochs", 4, "--batch-size", 8, "--learning-rate", 0.02, "--ema", 0.5, "--holdout", 0]
    pictures = write_class_folders(tmp_path / "things", (0, 6))
    start = ["--init", bundled.CHECKPOINT, "--data", pictures, "--output", output]
    done = subprocess.run(mnv1_train(*start, *options, "--json"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kept = checkpoint.load(output / "checkpoint.safetensors")
    assert kept.spec.classes == ("airplane", "frog")
    assert kept.network.classifier.weight.shape == (2, 512)
    assert json.loads(done.stdout)["top1"] >= 0.9
    began = checkpoint.load(bundled.CHECKPOINT).network.get_parameter("stem.conv.weight")
    change = (kept.network.get_parameter("stem.conv.weight") - began).norm() / began.norm()
    assert 0 < change < 0.3


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc")
def test_memory_freed_in_one_step_serves_the_next() -> None:
    """In a process of its own: what is asked of the allocator stays so. The first few may each need new memory."""
    script = (
        "import resource, torch\n"
        "from mnv1deploy import training\n"
        "def faults():\n"
        "    for _ in range(20): torch.ones(8 << 20)\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(5): torch.ones(8 << 20)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "given_back = faults()\n"
        "training._keep_freed_memory()\n"
        "kept = faults()\n"
        "assert kept < given_back / 10, (kept, given_back)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
