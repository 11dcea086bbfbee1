"""The teacher, its answers kept on disk, and a network that learns from them."""

import gc
import json
import re
import shutil
import weakref
from dataclasses import replace
from importlib import resources
from pathlib import Path

import commands
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import mnv1deploy as mnv1
from mnv1deploy import bundled, checkpoint
from mnv1deploy.artifact import read_checkpoint_metadata
from mnv1deploy.cost import cost
from mnv1deploy.datasets import Dataset, calibration
from mnv1deploy.errors import MnvError
from mnv1deploy.report import as_json, tables
from mnv1deploy.spec import CIFAR, ModelSpec
from mnv1deploy.training.augmentation import View
from mnv1deploy.training.distillation import TeacherAnswers
from mnv1deploy.training.progress import Epoch
from mnv1deploy.training.run import Run
from mnv1deploy.training.settings import Settings
from mnv1deploy.training.setup import base_spec
from mnv1deploy.training.teacher import Teacher

PICTURES = calibration().subset(np.arange(160), calibration().name)
TEACHER = Settings.recipe("teacher", epochs=2, batch_size=32, holdout=0.2, learning_rate=0.05, muon=0.0)
SMALL = CIFAR.scaled(0.25)
STUDENT = Settings.recipe("best", teachers=1, epochs=3, batch_size=16, holdout=0.2, ema=0.9, views=2)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher that saw some pictures twice, in its run's folder."""
    return Run(CIFAR, PICTURES, TEACHER, tmp_path_factory.mktemp("teacher")).fit()


def view(seed: int = 1) -> View:
    return View(torch.from_numpy(PICTURES.images), seed, crop=2, flip=True, cutout=4, fill=(128.0, 128.0, 128.0))


def test_the_teacher_is_as_large_as_it_says() -> None:
    network = Teacher(CIFAR)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(1.97e6, rel=0.01)
    flops: list[int] = []

    def count(module: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        assert isinstance(module, (torch.nn.Conv2d, torch.nn.Linear))
        flops.append(output[0].numel() * module.weight[0].numel())

    for module in network.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            module.register_forward_hook(count)
    with torch.inference_mode():
        logits = network.eval()(torch.zeros(3, 32, 32, 3, dtype=torch.uint8))
    assert logits.shape == (3, 10)
    assert sum(flops) == pytest.approx(118e6, rel=0.01)
    assert sum(flops) > 10 * cost(CIFAR).multiply_adds


def test_whitened_patches_are_uncorrelated_and_of_unit_variance() -> None:
    network = Teacher(CIFAR)
    pixels = torch.from_numpy(PICTURES.images)
    network.prepare(pixels)
    with torch.inference_mode():
        found = network.stem(network.normalize(pixels))
    covariance = found.permute(1, 0, 2, 3).flatten(1).double().T[:, :12].T.cov()
    assert torch.equal(found[:, :12], -found[:, 12:])
    off_diagonal = covariance - covariance.diag().diag()
    assert off_diagonal.abs().max() < 0.05
    # directions with less variance than the regularisation stay below one
    assert covariance.diag().max() < 1.05
    assert covariance.diag().median() > 0.5


@pytest.mark.slow
def test_a_teacher_is_measured_as_any_network_is(teacher: Path, tmp_path: Path) -> None:
    run = Run(CIFAR, PICTURES, TEACHER, shutil.copytree(teacher.parent, tmp_path / "run"), resume=True)
    evaluation = run.measure(PICTURES.subset(np.arange(100), "a test"))
    measured, held_out = read_checkpoint_metadata(run.checkpoint)["accuracy"]
    assert (measured["on"], measured["images"], measured["top1"]) == ("a test", 100, evaluation.accuracy.top1)
    assert held_out["top1"] == run.best_accuracy


@pytest.mark.slow
def test_a_teachers_checkpoint_says_it_is_no_mobilenetv1(teacher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """To info, and to whoever takes it for one: cost, predict, export, a run that is to start from it."""
    tables.show_info(as_json.info_as_dict(teacher))
    assert "a teacher for mobilenetv1_cifar10, no MobileNetV1 itself" in capsys.readouterr().out
    for use in (as_json.spec_of, checkpoint.load, mnv1.load, lambda path: base_spec(path)):
        with pytest.raises(MnvError, match="holds a teacher, not the MobileNetV1 it teaches"):
            use(teacher)


@pytest.mark.slow
def test_answers_are_computed_once_and_kept(teacher: Path, tmp_path: Path) -> None:
    network = checkpoint.load_network(teacher, Teacher)
    answers = TeacherAnswers(network, tmp_path, {"teacher": "a"}, flip=False)
    device = torch.device("cpu")
    first = answers.of(1, view(), len(PICTURES), device)
    assert first.dtype == torch.float32
    with torch.inference_mode():
        exact = network(view()(torch.arange(len(PICTURES))))
    np.testing.assert_allclose(first, exact, atol=0.05)  # answered in bfloat16, kept in float16
    (folder,) = tmp_path.iterdir()
    (kept,) = folder.iterdir()
    np.save(kept, np.load(kept) + np.float16(1))
    assert torch.allclose(answers.of(1, view(), len(PICTURES), device), first + 1, atol=0.01), (
        "read, not computed again"
    )
    TeacherAnswers(network, tmp_path, {"teacher": "b"}, flip=False).of(1, view(), len(PICTURES), device)
    assert len(list(tmp_path.iterdir())) == 2, "other facts, other files"


@pytest.mark.slow
def test_a_student_learns_the_teachers_answers(teacher: Path, tmp_path: Path) -> None:
    """Its loss is the cross-entropy with them, which is least, their entropy, where it answers the same."""
    run = Run(SMALL, PICTURES, replace(STUDENT, epochs=12, learning_rate=0.1), tmp_path)
    run.fit(teachers=[teacher])
    assert run.log[-1].train_loss < run.log[0].train_loss
    pixels, soft = run._view(1, torch.from_numpy(run.parts.train.images), run._answers([teacher]))
    assert soft is not None
    chosen = torch.arange(len(run.parts.train))
    with torch.inference_mode():
        answers = run.average.network(pixels(chosen))
    heat = STUDENT.temperature
    wanted = (soft / heat).softmax(1)

    def divergence(logits: torch.Tensor) -> float:
        return F.kl_div((logits / heat).log_softmax(1), wanted, reduction="batchmean").item()

    assert divergence(answers) < 0.7 * divergence(torch.zeros_like(answers))


@pytest.mark.slow
def test_views_come_round_again_each_followed_by_its_mirror_image(teacher: Path, tmp_path: Path) -> None:
    run = Run(SMALL, PICTURES, replace(STUDENT, views=4), tmp_path)
    run.fit(teachers=[teacher])
    images, answers = torch.from_numpy(run.parts.train.images), run._answers([teacher])
    chosen = torch.arange(50)
    views = [run._view(epoch, images, answers) for epoch in range(1, 6)]
    first, mirrored, second, _, again = (view(chosen) for view, _ in views)
    assert torch.equal(first, again)
    assert torch.equal(mirrored, first.flip(2))
    assert not torch.equal(first, second)
    soft = views[0][1]
    assert soft is not None and torch.equal(soft, views[1][1])
    network = checkpoint.load_network(teacher, Teacher)
    with torch.inference_mode():
        mean = (network(first) + network(mirrored)) / 2
    np.testing.assert_allclose(soft[:50], mean, atol=0.05)
    run.settings = replace(run.settings, flip=False)
    views = [run._view(epoch, images, answers) for epoch in (1, 2)]
    assert not torch.equal(views[0][0](chosen).flip(2), views[1][0](chosen)), "where left and right matter"


@pytest.mark.slow
def test_answers_of_several_teachers_are_averaged(teacher: Path, tmp_path: Path) -> None:
    other = checkpoint.load_network(teacher, Teacher)
    with torch.no_grad():
        other.classifier.weight.mul_(3)
    second = tmp_path / "other" / "checkpoint.safetensors"
    checkpoint.save(second, other, training={"network": "teacher"})
    answers = []
    for number, teachers in enumerate(([teacher], [teacher, second])):
        settings = replace(STUDENT, epochs=1, teachers=len(teachers))
        run = Run(SMALL, PICTURES, settings, tmp_path / str(number))
        run.fit(teachers=teachers)
        soft = run._view(1, torch.from_numpy(run.parts.train.images), run._answers(teachers))[1]
        assert soft is not None
        answers.append(soft)
    torch.testing.assert_close(answers[1], 2 * answers[0], rtol=0.02, atol=0.05)


@pytest.mark.slow
def test_teachers_that_cannot_be(teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(MnvError, match="name 1 for the number of teachers; given are 0"):
        Run(SMALL, PICTURES, STUDENT, tmp_path / "a").fit()
    two = Dataset("two", PICTURES.images, PICTURES.labels % 2, ("even", "odd"))
    with pytest.raises(MnvError, match="other classes"):
        Run(SMALL.replace(classes=two.classes), two, STUDENT, tmp_path / "b").fit(teachers=[teacher])


@pytest.mark.slow
def test_teachers_share_the_pictures_with_their_student_and_come_one_at_a_time(tmp_path: Path) -> None:
    run = Run(SMALL, PICTURES, replace(STUDENT, teachers=2), tmp_path)
    teachers = run.teachers()
    first = next(teachers)
    assert first.parts is run.parts
    assert sum(len(part) for part in (run.parts.train, run.parts.holdout)) == len(PICTURES)
    gone = weakref.ref(first.network)
    del first
    second = next(teachers)
    gc.collect()
    assert gone() is None
    assert (second.settings.seed, second.folder.name) == (1, "teacher-1")


ROBUST = Settings.recipe("robust", epochs=3, batch_size=16, holdout=0.2, ema=0.9, views=2, altered=1.0)


@pytest.mark.slow
def test_a_network_that_teaches_itself_learns_its_own_answers_to_what_is_not_altered(tmp_path: Path) -> None:
    start = bundled.CHECKPOINTS["w0.25"]
    run = Run(SMALL, PICTURES, ROBUST, tmp_path, init=start)
    run.fit()
    images = torch.from_numpy(run.parts.train.images)
    altered, soft = run._view(1, images, run._answers([]))
    plain = View(images, 1, crop=4, flip=True, cutout=8, fill=SMALL.normalization.mean)
    chosen = torch.arange(len(images))
    assert soft is not None and not torch.equal(altered(chosen), plain(chosen))
    network = checkpoint.load(start).network
    with torch.inference_mode():
        mean = (network(plain(chosen)) + network(plain(chosen).flip(2))) / 2
    np.testing.assert_allclose(soft, mean, atol=0.02)  # kept in float16
    assert run.log[-1].train_loss < run.log[0].train_loss


def test_the_checkpoint_lies_between_the_start_and_the_average(tmp_path: Path) -> None:
    start = checkpoint.load(bundled.CHECKPOINTS["w0.25"]).network.state_dict()
    run = Run(SMALL, PICTURES, replace(ROBUST, epochs=1, start_share=0.25), tmp_path, init=bundled.CHECKPOINTS["w0.25"])
    kept = checkpoint.load(run.fit()).network.state_dict()
    for name, value in run.average.network.state_dict().items():
        expected = 0.25 * start[name] + 0.75 * value if value.is_floating_point() else value
        torch.testing.assert_close(kept[name], expected)


@pytest.mark.slow
def test_a_network_that_teaches_itself_is_gone_on_with_where_its_start_is_no_more(tmp_path: Path) -> None:
    start = Path(shutil.copy(bundled.CHECKPOINTS["w0.25"], tmp_path / "start.safetensors"))
    settings = replace(ROBUST, epochs=2, views=4)
    whole = Run(SMALL, PICTURES, settings, tmp_path / "whole", init=start).fit()

    def stop(epoch: Epoch) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Run(SMALL, PICTURES, settings, tmp_path / "stopped", init=start).fit(on_epoch=stop)
    start.unlink()
    resumed = Run(SMALL, PICTURES, settings, tmp_path / "stopped", resume=True).fit()
    assert resumed.read_bytes() == whole.read_bytes()


def test_what_cannot_teach_itself(tmp_path: Path) -> None:
    with pytest.raises(MnvError, match=r"has to be a trained one\.\s+Name it with --init"):
        Run(SMALL, PICTURES, ROBUST, tmp_path / "a")
    two = Dataset("two", PICTURES.images, PICTURES.labels % 2, ("even", "odd"))
    with pytest.raises(MnvError, match="has other classes than the data, so that it cannot teach them"):
        Run(SMALL.replace(classes=two.classes), two, ROBUST, tmp_path / "b", init=bundled.CHECKPOINTS["w0.25"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("spec", [CIFAR.replace(input_size=9), base_spec(input_size=40, colours=1)], ids=["9", "grey"])
def test_a_teacher_of_other_pictures(spec: ModelSpec) -> None:
    network = Teacher(spec)
    pixels = torch.randint(256, (20, *spec.pixels.shape), dtype=torch.uint8)
    network.prepare(pixels)
    assert network(pixels).shape == (20, 10)
    with pytest.raises(MnvError, match="9 pixels or more"):
        Teacher(spec.replace(input_size=8))


def write_recipe(folder: Path, name: str, **changes: object) -> Path:
    """One of the package's with other settings, as users write their own."""
    text = (resources.files("mnv1deploy.training") / "recipes" / f"{name}.toml").read_text("utf-8")
    for key, value in changes.items():
        text = re.sub(rf"(?m)^{key} = .*$", f"{key} = {json.dumps(value)}", text)
    path = folder / f"my {name}.toml"
    path.write_text(text, "utf-8")
    return path


@pytest.mark.slow
def test_the_command_makes_the_teacher_first_and_uses_it_again(class_folders: Path, tmp_path: Path) -> None:
    """With recipes of the user's own: the package's teacher takes an hour here, however few the pictures."""
    small = {"pictures": 0, "batch_size": 16, "holdout": 0.2}
    teacher_recipe = write_recipe(tmp_path, "teacher", **small, epochs=2, muon=0.0)
    recipe = write_recipe(tmp_path, "best", **small, ema=0.9, epochs=2, views=2, teacher=str(teacher_recipe))
    command = ("train", "--data", class_folders, "--recipe", recipe, "--width", 0.25)
    done = commands.mnv1(*command, "--output", tmp_path / "a", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == 16
    for number in (1, 2):
        assert len(re.findall(rf"(?m)^teacher {number}, epoch ", done.stderr)) == 2
    teacher = tmp_path / "a" / "teacher"
    assert len(list(teacher.glob("logits-*/*.npy"))) == 1
    assert len(list((tmp_path / "a" / "teacher-1").glob("logits-*/*.npy"))) == 1
    done = commands.mnv1(*command, "--output", tmp_path / "b", "--teacher", teacher)
    assert done.returncode == 0, done.stderr
    assert "teacher 1, epoch" not in done.stderr, "they are trained already"
    assert "teacher 2, epoch" not in done.stderr
    assert (tmp_path / "b" / "checkpoint.safetensors").exists()
    assert len(list(teacher.glob("logits-*/*.npy"))) == 1
