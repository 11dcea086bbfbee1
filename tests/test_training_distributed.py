"""Two processes that train one network, started by torchrun or told what it tells."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import together

from mnv1deploy import checkpoint
from mnv1deploy.datasets import calibration
from mnv1deploy.errors import MnvError
from mnv1deploy.spec import CIFAR
from mnv1deploy.training import distributed
from mnv1deploy.training.run import Run
from mnv1deploy.training.settings import Settings

SCRIPT = """
import sys
from pathlib import Path
from mnv1deploy import datasets
from mnv1deploy.spec import CIFAR
from mnv1deploy.training import distributed
from mnv1deploy.training.run import Run
from mnv1deploy.training.settings import Settings
settings = Settings.recipe("quick", epochs=int(sys.argv[2]), batch_size=64, holdout=0.2, ema=0.9, learning_rate=0.1)
with distributed.joined():
    run = Run(
        CIFAR.scaled(0.25), datasets.calibration(), settings, sys.argv[1], device="cpu"
    )
    run.fit()
    weights = b"".join(parameter.detach().numpy().tobytes() for parameter in run.network.parameters())
    Path(f"{sys.argv[1]}.{distributed.rank()}").write_bytes(weights)
"""
EPOCHS = 6

FEW = calibration().subset(range(160), "160 pictures")
"""For what a teacher sees and answers, which takes ten times as long as a student."""


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["train_loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_follow_the_curve_of_one(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    for name, processes in (("two", 2), ("again", 2), ("one", 1)):
        together(script, tmp_path / name, EPOCHS, processes=processes)
    assert losses(tmp_path / "two") == losses(tmp_path / "again")
    assert (tmp_path / "two" / "checkpoint.safetensors").read_bytes() == (
        tmp_path / "again" / "checkpoint.safetensors"
    ).read_bytes()
    assert (tmp_path / "two.0").read_bytes() == (tmp_path / "two.1").read_bytes()
    # the same pictures in the same batches; each process normalises over its own half of them
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=0.05)
    assert losses(tmp_path / "two") != losses(tmp_path / "one")
    assert losses(tmp_path / "two")[-1] < losses(tmp_path / "two")[0] - 0.1
    assert checkpoint.load(tmp_path / "two" / "checkpoint.safetensors").training["batch_size"] == 64


@pytest.mark.slow
def test_the_command_under_torchrun(class_folders: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    options = ["--epochs", 2, "--batch-size", 16, "--width", 0.25, "--ema", 0.9, "--holdout", 0.2]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    command += ["-m", "mnv1deploy.cli", "train", "--data", class_folders, "--output", output, *options]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(losses(output)) == 2
    assert checkpoint.load(output / "checkpoint.safetensors").accuracy[0].images == 16
    assert (output / "curves.png").exists()


@pytest.mark.slow
def test_a_teacher_answers_the_same_in_two_processes(tmp_path: Path) -> None:
    """They share the pictures of a view, and the first writes the answers to all of them."""
    teacher = Run(
        CIFAR, FEW, Settings.recipe("teacher", epochs=1, batch_size=64, holdout=0.2, muon=0.0), tmp_path / "t"
    )
    teacher.fit()
    script = tmp_path / "run.py"
    options = 'epochs=1, batch_size=64, holdout=0.2, ema=0.9, teacher="teacher", teachers=1, views=1'
    content = SCRIPT.replace("datasets.calibration()", 'datasets.calibration().subset(range(160), "160 pictures")')
    content = content.replace("epochs=int(sys.argv[2]), batch_size=64, holdout=0.2, ema=0.9", options)
    script.write_text(content.replace("run.fit()", "run.fit(teachers=[sys.argv[2]])"))
    answers = []
    for processes in (2, 1):
        folder = shutil.copytree(teacher.folder, tmp_path / f"teacher{processes}")
        together(script, tmp_path / f"run{processes}", folder / "checkpoint.safetensors", processes=processes)
        (kept,) = folder.glob("logits-*/0001.npy")
        answers.append(np.load(kept))
    assert answers[0].shape == (len(teacher.parts.train), 10)
    # in bfloat16, whose last digit may depend on how many pictures are answered at once
    np.testing.assert_allclose(answers[0], answers[1], atol=0.02)


APART = """
import sys
from pathlib import Path
from mnv1deploy import bundled, datasets
from mnv1deploy.spec import CIFAR
from mnv1deploy.training import distributed
from mnv1deploy.training.run import Run
from mnv1deploy.training.settings import Settings
settings = Settings.recipe(sys.argv[3], teachers=1, epochs=2, batch_size=64, holdout=0.2, ema=0.9, views=2)
init, teachers = None, ["teacher/checkpoint.safetensors"]
if sys.argv[3] == "robust":
    init, teachers = bundled.CHECKPOINTS["w0.25"], []
with distributed.joined():
    folder = Path(sys.argv[1]) / str(distributed.rank())  # each process has a disk of its own
    resume = sys.argv[2] == "resume"
    pictures = datasets.calibration().subset(range(160), "160 pictures")
    init = None if resume else init
    run = Run(CIFAR.scaled(0.25), pictures, settings, folder / "run", device="cpu", resume=resume, init=init)
    def stop(epoch):
        if not resume: sys.exit(0)
    run.fit(on_epoch=stop, teachers=[folder / teacher for teacher in teachers])
    assert len(run.log) == 2
"""


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["best", "robust"])
def test_machines_without_a_disk_in_common_train_with_teachers_and_resume(recipe: str, tmp_path: Path) -> None:
    """State, teacher (or start) and answers are the first process's, which sends the other what it needs."""
    settings = Settings.recipe("teacher", epochs=1, batch_size=64, holdout=0.2, muon=0.0)
    if recipe == "best":
        Run(CIFAR.scaled(0.25), FEW, settings, tmp_path / "0" / "teacher").fit()
    script = tmp_path / "run.py"
    script.write_text(APART)
    together(script, tmp_path, "begin", recipe, processes=2)
    assert len(losses(tmp_path / "0" / "run")) == 1
    together(script, tmp_path, "resume", recipe, processes=2)
    assert len(losses(tmp_path / "0" / "run")) == 2
    assert not (tmp_path / "1").exists()


FETCHING = """
import sys, time
from pathlib import Path
from mnv1deploy.datasets import Cifar
from mnv1deploy.errors import MnvError
from mnv1deploy.training import distributed, start
folder = Path(sys.argv[1])
def download(self, target):
    with (folder / "downloads").open("a") as file:
        file.write(f"{distributed.rank()}\\n")
    time.sleep(0.5)  # as long as the others have to do so too
    (target / self.folder).mkdir(parents=True)  # not whole, as a full disk leaves it
    return target / self.folder
Cifar.download = download
with distributed.joined():
    try:
        start.begin(folder / "run", None, download=folder / "data")
    except MnvError as error:
        (folder / f"told.{distributed.rank()}").write_text(error.message)
"""


@pytest.mark.slow
def test_one_process_of_a_machine_downloads_and_what_fails_is_said_by_each(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(FETCHING)
    together(script, tmp_path, processes=2)
    assert (tmp_path / "downloads").read_text() == "0\n"
    told = [(tmp_path / f"told.{rank}").read_text() for rank in range(2)]
    assert told[0] == told[1]
    assert "CIFAR-10" in told[0] and "is not whole" in told[0]


def test_a_share_of_one_picture_cannot_be_normalised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(MnvError, match="2 processes cannot share a batch of 2") as refused:
        Run(CIFAR, calibration(), Settings.recipe("quick", batch_size=2), tmp_path)
    assert "4 or more" in refused.value.hint
    assert Settings.recipe("quick", pictures=333).batch_size % 2 == 0, "batches that follow are ones to share"


def test_a_batch_is_shared_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert distributed.processes() == 3
    settings = Settings.recipe("quick", batch_size=64, holdout=0.2)
    with pytest.raises(MnvError, match="3 processes cannot share a batch of 64"):
        Run(CIFAR, calibration(), settings, tmp_path)


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert (distributed.processes(), distributed.rank(), distributed.local_rank()) == (1, 0, 0)
    with distributed.joined():
        distributed.wait()


def test_synchronised_batch_normalisation_is_for_gpus(tmp_path: Path) -> None:
    with pytest.raises(MnvError, match="on GPUs only"):
        Run(CIFAR, calibration(), Settings.recipe("quick"), tmp_path, device="cpu", sync_batchnorm=True)
