"""The study of robustness: corruptions do what they say, and rules make the network's pictures."""

import numpy as np
import pytest
import robustness
from PIL import Image

from mnv1deploy import bundled, datasets, formats, images
from mnv1deploy.datasets import Dataset

PICTURES = datasets.calibration().images[:40]
DATA = Dataset("forty", PICTURES, datasets.calibration().labels[:40], datasets.calibration().classes)


@pytest.mark.parametrize("name", robustness.CORRUPTIONS)
def test_a_corruption_changes_pictures_the_more_the_stronger_it_is(name: str) -> None:
    corrupt, strengths = robustness.CORRUPTIONS[name]
    distances = []
    for strength in strengths:
        found = corrupt(PICTURES, strength, np.random.default_rng(0))
        assert found.shape == PICTURES.shape
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, corrupt(PICTURES, strength, np.random.default_rng(0)))
        distances.append(np.sqrt(np.square(found.astype(float) - PICTURES).mean()))
    assert 1 < distances[0] < distances[1]


def test_a_scale_of_one_and_a_shift_by_nothing_change_nothing() -> None:
    chance = np.random.default_rng(0)
    for corrupt, strength in ((robustness.scale, 1.0), (robustness.shift, 0.0), (robustness.rotation, 0.0)):
        np.testing.assert_array_equal(corrupt(PICTURES, strength, chance), PICTURES)


def test_a_shift_moves_every_pixel() -> None:
    moved = robustness.shift(PICTURES, 3, np.random.default_rng(0))
    for found, picture in zip(moved, PICTURES, strict=True):
        around = np.pad(picture, ((3, 3), (3, 3), (0, 0)), "symmetric")
        windows = [around[y : y + 32, x : x + 32] for y in (0, 3, 6) for x in (0, 3, 6)]
        assert any(np.array_equal(found, window) for window in windows)


@pytest.mark.parametrize("name", robustness.RULES)
def test_a_rule_makes_pictures_for_the_network(name: str) -> None:
    photo = Image.open(bundled.FOLDER.parent / "examples" / "cat.png").convert("RGB")
    found = robustness.RULES[name](photo, 32)
    assert {(look.shape, look.dtype.name) for look in found} == {((32, 32, 3), "uint8")}
    if name == next(iter(robustness.RULES)):
        np.testing.assert_array_equal(found[0], images.read(photo, formats.open_session(bundled.INT8).spec.pixels))


def test_enlarged_pictures_are_the_same_things_at_other_sizes_and_places() -> None:
    photos = robustness.enlarged(DATA)
    assert {photo.size for photo in photos.pictures} == {(160, 120)}
    session = formats.open_session(bundled.INT8)
    reduced = photos.reduced(session.spec.pixels, DATA.classes)
    assert 0.6 < robustness.accuracy(session, reduced.images, reduced.labels) <= 1
    (shipped, *others) = robustness.ruled(session, photos)
    assert shipped["accuracy"] == robustness.accuracy(session, reduced.images, reduced.labels)
    assert len(others) == len(robustness.RULES) - 1


def test_the_rows_of_corruptions_start_with_the_pictures_as_they_are() -> None:
    session = formats.open_session(bundled.INT8)
    few = DATA.subset(np.arange(8), "eight")
    clean, *rows = robustness.corrupted(session, few)
    assert clean["accuracy"] == [robustness.accuracy(session, few.images, few.labels)]
    assert [row["corruption"] for row in rows] == list(robustness.CORRUPTIONS)
