"""mnv1 train: from what a user names to a run, new, interrupted or fine-tuned."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import mnv1
from conftest import write_class_folders
from PIL import Image
from torch import nn

from mnv1deploy import bundled, checkpoint
from mnv1deploy.datasets import Dataset, calibration
from mnv1deploy.errors import MnvError
from mnv1deploy.network import MobileNetV1
from mnv1deploy.spec import CIFAR, PAPER, ModelSpec, Normalization, Preprocessing
from mnv1deploy.training import start
from mnv1deploy.training.ranges import RANGES
from mnv1deploy.training.run import Run
from mnv1deploy.training.settings import Settings
from mnv1deploy.training.setup import base_spec, spec_for

pytestmark = pytest.mark.slow


def test_the_command_on_an_own_folder(class_folders: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    options = ["--epochs", 3, "--batch-size", 16, "--width", 0.25, "--ema", 0.9, "--holdout", 0.2]
    command = ("train", "--data", class_folders, "--output", output, "--json", *options)
    done = mnv1(*command)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("epoch ") == 3
    assert "64 pictures of 2 classes (cat, dog)" in done.stderr
    assert "left over in each" in done.stderr and "far behind the trained ones" in done.stderr
    found = json.loads(done.stdout)
    assert (found["images"], set(found["classes"])) == (16, {"cat", "dog"})
    assert {path.name for path in output.iterdir()} == {
        "checkpoint.safetensors", "log.jsonl", "state.pt", "curves.png", "confusion.png",
    }  # fmt: skip
    with Image.open(output / "curves.png") as curves:
        assert curves.width > 800
    kept = checkpoint.load(output / "checkpoint.safetensors")
    expected = CIFAR.scaled(0.25).replace(name="mobilenetv1_pets_w0.25", classes=("cat", "dog"))
    assert kept.spec.replace(temperature=1.0) == expected
    assert kept.accuracy[0].top1 == found["top1"]
    again = mnv1(*command)
    assert again.returncode == 1
    assert "has a run already" in again.stderr
    refused = mnv1("train", "--data", class_folders, "--output", output, "--resume", "--epochs", 5)
    assert refused.returncode == 1
    assert "leave out --epochs" in refused.stderr


def test_the_parts_and_what_was_left_out_are_said(class_folders: Path, tmp_path: Path) -> None:
    (class_folders / "Train").mkdir()
    for name in ("cat", "dog"):
        shutil.copytree(class_folders / name, class_folders / "Test" / name)
        (class_folders / name).rename(class_folders / "Train" / name)
    (class_folders / "Train" / "cat" / "broken.png").write_bytes(b"no picture")
    options = ["--epochs", 1, "--width", 0.25, "--output", tmp_path / "run"]
    assert "broken.png" in refusal("--data", class_folders, *options)
    done = mnv1("train", "--data", class_folders, "--skip-unreadable", *options)
    assert done.returncode == 0, done.stderr
    said = "trains on pets Train, 1 unreadable left out, training part; tested at the end on pets Test"
    assert said in done.stderr


def test_ctrl_c_keeps_the_run_and_names_the_command_that_goes_on(class_folders: Path, tmp_path: Path) -> None:
    """From another folder, too: where the pictures are is in the state."""
    output = tmp_path / "my run"
    command = [sys.executable, "-W", "error", "-m", "mnv1deploy.cli", "train", "--data", class_folders.name]
    command += ["--output", str(output), "--threads", "1", "--device", "cpu"]
    command += ["--epochs", "12", "--batch-size", "16", "--width", "0.25"]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        cwd=class_folders.parent,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    while not (output / "log.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in errors
    (named,) = re.findall("Go on with: mnv1 train (.*)", errors)
    assert shlex.split(named) == ["--resume", "--output", str(output), "--threads", "1", "--device", "cpu"]
    done = mnv1("train", *shlex.split(named), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (output / "log.jsonl").read_text().count("\n") == 12


def refusal(*arguments: object) -> str:
    """What the command says when it refuses."""
    done = mnv1("train", *arguments)
    assert done.returncode == 1, done.stderr
    assert "bug" not in done.stderr
    return done.stderr


def test_wrong_settings_are_one_sentence(class_folders: Path, tmp_path: Path) -> None:
    for options, message in (
        (["--optimizer", "lion"], "optimizer cannot be lion"),
        (["--seed", 99999999999999999999], "seed cannot be 99999999999999999999: it is 0 to 4,294,967,295"),
        (["--device", "warp"], "no device called warp"),
        (["--init", tmp_path / "weights.pth"], "There is no checkpoint"),
    ):
        assert message in refusal("--data", class_folders, "--output", tmp_path / "run", *options)
        assert not (tmp_path / "run").exists()


def test_help_names_every_range() -> None:
    done = mnv1("train", "--help", env={**os.environ, "COLUMNS": "200"})
    words = " ".join(done.stdout.split())
    for name, allowed in RANGES.items():
        if name not in ("network", "pictures"):
            assert re.search(rf"--{name.replace('_', '-')} .{{,120}}: {re.escape(allowed.words)}\.", words), name


# From what is named to a run that is ready; nothing is trained ----------------------------------------------------


def test_one_picture_a_class_leaves_nothing_behind(tmp_path: Path) -> None:
    pictures = calibration()
    for label in (3, 5):
        (tmp_path / "pets" / str(label)).mkdir(parents=True)
        first = pictures.images[np.flatnonzero(pictures.labels == label)[0]]
        Image.fromarray(first).save(tmp_path / "pets" / str(label) / "one.png")
    with pytest.raises(MnvError, match="one picture of every class"):
        start.begin(tmp_path / "run", tmp_path / "pets")
    assert not (tmp_path / "run").exists()


def test_a_teachers_recipe_that_is_none_leaves_nothing_behind(class_folders: Path, tmp_path: Path) -> None:
    best = (resources.files("mnv1deploy.training") / "recipes" / "best.toml").read_text()
    own = tmp_path / "own.toml"
    for teacher, message in (("professor", "no recipe professor"), ("quick", "quick is no teacher's")):
        own.write_text(best.replace('teacher = "teacher"', f'teacher = "{teacher}"'))
        with pytest.raises(MnvError, match=message):
            start.begin(tmp_path / "run", class_folders, recipe=str(own))
        with pytest.raises(MnvError, match=message):
            Run(CIFAR, calibration(), Settings.recipe(own), tmp_path / "run")
    with pytest.raises(MnvError, match="These settings have no teacher to train"):
        start.begin(tmp_path / "run", class_folders, teacher=tmp_path)
    assert not (tmp_path / "run").exists()


def saved(path: Path, spec: ModelSpec) -> Path:
    checkpoint.save(path, MobileNetV1(spec), training={})
    return path


def test_sizes_colours_and_width_come_from_the_checkpoint(class_folders: Path, tmp_path: Path) -> None:
    """Also those of an imported one: its normalisation, padding, activation and how a picture becomes pixels."""
    spec = PAPER.scaled(0.25).replace(
        input_size=48, colours=1, normalization=Normalization((3.0,), (7.0,)), padding="same", activation="relu6",
        preprocessing=Preprocessing("bilinear", 0.875), classes=("hen", "cock"),
    )  # fmt: skip
    init = saved(tmp_path / "grey.safetensors", spec)
    ready = start.begin(tmp_path / "run", class_folders, init=str(init))
    assert ready.run.spec == spec.replace(name="mobilenetv1_pets_w0.25_48px_grey", classes=("cat", "dog"))
    assert ready.test.images.shape[1:] == (48, 48, 1)
    same = start.begin(
        tmp_path / "run", class_folders, init=str(init), preset="paper", width=0.25, input_size=48, colours=1
    )
    assert same.run.spec == ready.run.spec
    for name, value in {"width": 0.5, "input_size": 32, "colours": 3, "preset": "cifar"}.items():
        with pytest.raises(MnvError, match=f"contradicts --{name.replace('_', '-')} {value}") as refused:
            start.begin(tmp_path / "run", class_folders, init=str(init), **{name: value})
        assert "48 pixels with 8 to 256 channels" in refused.value.message
        assert "grey" in refused.value.message


def test_any_network_is_trained_at_any_size(class_folders: Path, tmp_path: Path) -> None:
    run = start.begin(
        tmp_path / "run", class_folders, preset="paper", width=0.25, input_size=96, colours=1,
        changes={"epochs": 1, "batch_size": 16},
    ).run  # fmt: skip
    assert (run.spec.pixels.shape, len(run.spec.blocks), run.init) == ((96, 96, 1), 13, "")
    run.fit()
    assert checkpoint.load(run.checkpoint).spec.replace(temperature=1.0) == run.spec
    with pytest.raises(MnvError, match="no preset tiny; there are cifar, paper"):
        start.begin(tmp_path / "other", class_folders, preset="tiny")


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_classifier_is_kept_by_the_names_of_the_classes(order: tuple[int, int], tmp_path: Path) -> None:
    """In another order its rows are too; ten classes of other names are not CIFAR-10's."""
    names = tuple(("cat", "dog")[i] for i in order)
    trained = MobileNetV1(CIFAR.scaled(0.25).replace(classes=("cat", "dog")))
    nn.init.normal_(trained.classifier.bias)
    path = tmp_path / "two.safetensors"
    checkpoint.save(path, trained, training={})
    pictures = calibration()
    own = Dataset("own", pictures.images, pictures.labels % 2, names)
    settings = Settings.recipe("quick", batch_size=64)
    network = Run(spec_for(own, trained.spec), own, settings, tmp_path / "run", init=path).network
    assert torch.equal(network.classifier.weight, trained.classifier.weight[list(order)])
    assert torch.equal(network.classifier.bias, trained.classifier.bias[list(order)])
    others = Dataset("own", pictures.images, pictures.labels % 2, ("cat", "cow"))
    network = Run(spec_for(others, trained.spec), others, settings, tmp_path / "run", init=path).network
    assert torch.equal(network.classifier.bias, torch.zeros(2))
    assert network.classifier.weight.std() < 0.02
    assert torch.equal(network.stem.conv.weight, trained.stem.conv.weight)


def test_few_pictures_start_from_the_bundled_checkpoint_unless_told_otherwise(
    class_folders: Path, tmp_path: Path
) -> None:
    stem = checkpoint.load(bundled.CHECKPOINT).network.stem.conv.weight
    ready = start.begin(tmp_path / "run", class_folders)
    assert ready.run.init == bundled.CHECKPOINT.name
    assert torch.equal(ready.run.network.stem.conv.weight, stem)
    assert ready.run.settings == Settings.recipe("quick", pictures=len(ready.run.parts.train))
    for options in ({"init": "none"}, {"width": 0.4}, {"input_size": 48}, {"colours": 1}, {"recipe": "teacher"}):
        assert start.begin(tmp_path / "run", class_folders, **options).run.init == "", options
    with pytest.raises(MnvError, match="A run of a teacher starts from random weights"):
        start.begin(tmp_path / "run", class_folders, recipe="teacher", init=str(bundled.CHECKPOINT))


def test_cifar10_is_trained_from_nothing_as_ever(cifar10: Path, tmp_path: Path) -> None:
    run = start.begin(tmp_path / "run").run
    assert (run.init, run.spec, run.settings) == ("", CIFAR, Settings.recipe("quick"))
    assert (run.steps, len(run.parts.train)) == (371, 47_500)


def test_weights_from_elsewhere_are_sent_to_the_import(class_folders: Path, tmp_path: Path) -> None:
    weights = tmp_path / "w.pth"
    torch.save(MobileNetV1(CIFAR).state_dict(), weights)
    with pytest.raises(MnvError) as refused:
        start.begin(tmp_path / "run", class_folders, init=str(weights))
    assert f"mnv1 import {weights}" in refused.value.hint


def test_a_run_is_resumed_with_its_own_pictures(class_folders: Path, tmp_path: Path) -> None:
    begun = start.begin(tmp_path / "run", class_folders, changes={"epochs": 2}, width=0.25).run
    begun.fit(on_epoch=lambda epoch: None)
    ready = start.resumed(tmp_path / "run")
    assert (ready.run.done, ready.run.source) == (True, str(class_folders))
    moved = class_folders.rename(tmp_path / "elsewhere")
    others = write_class_folders(tmp_path / "others", (0, 1))
    with pytest.raises(MnvError, match=r"was begun on pets train .*, which .*others is not") as refused:
        start.resumed(tmp_path / "run", others)
    assert "--data" in refused.value.hint
    (tmp_path / "again").mkdir()
    assert start.resumed(tmp_path / "run", moved.rename(tmp_path / "again" / "pets")).run.done


def test_names_of_specs() -> None:
    pictures = calibration()
    assert spec_for(pictures) == CIFAR
    assert spec_for(pictures, CIFAR.scaled(0.5)).name == "mobilenetv1_cifar10_w0.5"
    own = Dataset("My pets! train", np.zeros((2, 64, 64, 3), np.uint8), np.array([0, 1]), ("a", "b"))
    assert spec_for(own, CIFAR.replace(input_size=64)).name == "mobilenetv1_my_64px"
    grey = base_spec(preset="paper", width=0.25, input_size=96, colours=1)
    assert spec_for(own, grey).name == "mobilenetv1_my_w0.25_96px_grey"


def test_tensorboard_has_every_epoch(class_folders: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    options = ["--epochs", 2, "--batch-size", 16, "--width", 0.25, "--ema", 0.9, "--holdout", 0.2, "--tensorboard"]
    done = mnv1("train", "--data", class_folders, "--output", output, *options)
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
    done = mnv1("train", *start, *options, "--json")
    assert done.returncode == 0, done.stderr
    kept = checkpoint.load(output / "checkpoint.safetensors")
    assert kept.spec.classes == ("airplane", "frog")
    assert kept.network.classifier.weight.shape == (2, 512)
    assert json.loads(done.stdout)["top1"] >= 0.9
    began = checkpoint.load(bundled.CHECKPOINT).network.get_parameter("stem.conv.weight")
    change = (kept.network.get_parameter("stem.conv.weight") - began).norm() / began.norm()
    assert 0 < change < 0.3


def test_the_command_to_go_on_with_has_what_the_state_does_not(tmp_path: Path) -> None:
    asked = {"output": tmp_path, "data": tmp_path, "epochs": 3, "device": "cpu", "threads": 2, "json": True}
    command = start.command_to_resume(tmp_path / "a run", asked)
    assert shlex.split(command)[5:] == ["--device", "cpu", "--threads", "2", "--json"]
    assert shlex.split(command)[:5] == ["mnv1", "train", "--resume", "--output", str(tmp_path / "a run")]


def test_a_resumed_run_takes_no_settings(tmp_path: Path) -> None:
    with pytest.raises(MnvError, match="leave out --batch-size, --width, --recipe"):
        start.ready(tmp_path, None, {"batch_size": 3, "width": 0.5, "recipe": "best", "device": "cpu"}, resume=True)
