"""Settings: the values they may have, recipes, and what follows the number of pictures."""

import math
from dataclasses import asdict, replace
from importlib import resources
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mnv1deploy.errors import MnvError
from mnv1deploy.training.ranges import RANGES
from mnv1deploy.training.settings import ITSELF, LEAST_STEPS, Settings, recipes


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0}, {"batch_size": 1}, {"optimizer": "adam"}, {"learning_rate": 0.0}, {"momentum": 1.0},
        {"weight_decay": -1.0}, {"schedule": "step"}, {"warmup": 1.0}, {"label_smoothing": 1.0}, {"ema": 1.0},
        {"crop": -1}, {"cutout": -1}, {"holdout": 1.0}, {"learning_rate": math.nan}, {"learning_rate": math.inf},
        {"views": -1}, {"temperature": 0.0}, {"muon": -0.1}, {"muon_decay": math.nan}, {"network": "resnet"},
        {"zoom": -0.1}, {"zoom": math.inf}, {"sharpness": -1.0}, {"sharpness": math.nan}, {"noise": 256.0},
        {"altered": 1.1}, {"seed": -1}, {"seed": 2**32}, {"seed": 99999999999999999999}, {"pictures": -1},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_cannot_be_are_told_what_they_can_be(wrong: dict[str, object]) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(MnvError) as refused:
        Settings.recipe("quick", **wrong)
    assert refused.value.message == f"{name} cannot be {value}: it is {RANGES[name].words}."


def test_every_seed_that_is_allowed_can_be_trained_with() -> None:
    for seed in (0, 2**32 - 1):
        torch.manual_seed(Settings.recipe("quick", seed=seed).seed)
        torch.Generator().manual_seed(seed * 1_000_003 + 10_000)


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_is_used_as_it_stands_for_the_pictures_it_was_tuned_on(name: str) -> None:
    assert Settings.recipe(name, pictures=47_500) == Settings.recipe(name)


def test_settings_follow_the_number_of_pictures() -> None:
    """A few thousand pictures and a few hundred: an epoch keeps some sixty steps, and the average about an epoch."""
    thousands = Settings.recipe("quick", pictures=1920)
    assert (thousands.batch_size, thousands.pictures) == (32, 1920)
    assert thousands.learning_rate == pytest.approx(0.2 * 32 / 128)
    hundreds = Settings.recipe("quick", pictures=185)
    assert hundreds.batch_size == 15  # 12 batches, which leave 5 pictures over where 16 would leave 9
    for settings in (thousands, hundreds):
        steps = settings.pictures // settings.batch_size
        assert settings.epochs * steps >= LEAST_STEPS
        assert (settings.epochs - 1) * steps < LEAST_STEPS or settings.epochs == 30
        assert 1 / (1 - settings.ema) / steps == pytest.approx(500 / 371)
    unchanged = {"pictures", "batch_size", "learning_rate", "epochs", "ema"}
    quick = asdict(Settings.recipe("quick"))
    assert {name for name, value in asdict(hundreds).items() if value != quick[name]} == unchanged


def test_what_is_asked_for_follows_nothing() -> None:
    wanted = {"batch_size": 10, "learning_rate": 0.03, "epochs": 4, "ema": 0.5}
    found = asdict(Settings.recipe("quick", pictures=185, **wanted))
    assert {name: found[name] for name in wanted} == wanted
    larger = Settings.recipe("quick", pictures=47_500, batch_size=256)
    assert (larger.batch_size, larger.learning_rate) == (256, 0.4)
    assert 1 / (1 - larger.ema) == pytest.approx(500 * 185 / 371), "as many epochs, in larger steps"


@given(st.integers(2, 200_000), st.sampled_from(["quick", "best", "teacher"]))
def test_any_number_of_pictures_can_be_trained_on(pictures: int, name: str) -> None:
    found = Settings.recipe(name, pictures=pictures)
    assert 2 <= found.batch_size <= max(2, pictures)
    if pictures < found.pictures:
        assert pictures % found.batch_size < max(2, pictures // found.batch_size), "no more than one of each batch"
    assert found.epochs * (pictures // found.batch_size) >= LEAST_STEPS


def test_teachers_follow_the_pictures_too_and_hold_out_the_same_ones() -> None:
    found = Settings.recipe("best", pictures=600, holdout=0.2).of_teacher()
    assert found == Settings.recipe("teacher", pictures=600, holdout=0.2)


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
    assert found.teacher in ("", ITSELF) or Settings.recipe(found.teacher).network == "teacher"
    assert Settings.recipe(name, epochs=3) == replace(found, epochs=3)


def test_recipes_of_ones_own(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    text = (resources.files("mnv1deploy.training") / "recipes" / "quick.toml").read_text()
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
    own.write_text(text.replace("pictures = 47500", "pictures = 0"))
    assert Settings.recipe(own, pictures=185) == Settings.recipe("quick", pictures=0), "it suits what it was made for"
    with pytest.raises(MnvError, match="There is no recipe fastest") as missing:
        Settings.recipe("fastest")
    assert "best, quick, robust, teacher" in missing.value.hint


def test_recipes_of_0_1_0_are_read_unless_they_use_what_is_gone(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    text = (resources.files("mnv1deploy.training") / "recipes" / "quick.toml").read_text()
    older = text.replace("pictures = 47500\n", "mixup = 0.0\nsmall = 0.0\n")
    own.write_text(older)
    assert Settings.recipe(own) == Settings.recipe("quick", pictures=0)
    for name in ("mixup", "small"):
        own.write_text(older.replace(f"{name} = 0.0", f"{name} = 0.5"))
        with pytest.raises(MnvError, match=f"own.toml uses {name} = 0.5, which mnv1deploy has no longer"):
            Settings.recipe(own)


def test_a_network_that_teaches_itself_has_no_other_teacher() -> None:
    assert Settings.recipe("robust").of_teacher() is None
    for changes in ({"teachers": 2}, {"network": "teacher"}):
        with pytest.raises(MnvError, match="A mobilenetv1 that teaches itself is one teacher"):
            Settings.recipe("robust", **changes)
    with pytest.raises(MnvError, match="start_share is for a network that teaches itself"):
        Settings.recipe("best", start_share=0.2)


def test_a_teachers_recipe_is_one(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    best = (resources.files("mnv1deploy.training") / "recipes" / "best.toml").read_text()
    for teacher, message in (
        ("quick", "quick is no teacher's: it is one of a mobilenetv1"),
        ("best", "best is no teacher's: it has a teacher of its own"),
        ("professor", "There is no recipe professor"),
    ):
        own.write_text(best.replace('teacher = "teacher"', f'teacher = "{teacher}"'))
        with pytest.raises(MnvError, match=message):
            Settings.recipe(own).of_teacher()
