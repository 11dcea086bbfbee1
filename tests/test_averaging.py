"""Averaging over several looks at a picture: which they are, what they cost, and every way to ask for them."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from test_cli import mnv1, succeed

import mnv1deploy
from mnv1deploy import bundled, datasets, formats
from mnv1deploy.averaging import Averaged, averaged, looks
from mnv1deploy.errors import MnvError
from mnv1deploy.formats.base import CPU, Images, Logits
from mnv1deploy.spec import CIFAR

CAT = Path(__file__).parents[1] / "examples" / "cat.png"
PICTURES = datasets.sample().images[:8]


class Counting:
    """A session whose logits are the mean of ten columns, and which counts the pictures that it was shown."""

    concurrent, forks, provider, spec = True, True, CPU, CIFAR
    shown = 0

    def __call__(self, images: Images) -> Logits:
        self.shown += len(images)
        return images[:, :, :10].mean((1, 3), dtype=np.float32)

    def runner(self, images: Images, *, include_copies: bool) -> object:
        raise AssertionError


@pytest.mark.parametrize(("tta", "times"), [("none", 1), ("mirror", 2), ("crops", 10)])
def test_the_logits_are_the_mean_over_the_looks_and_cost_what_is_said(tta: str, times: int) -> None:
    session = Counting()
    found = averaged(session, tta)(PICTURES)
    assert session.shown == times * len(PICTURES)
    assert found.dtype == np.float32
    expected = np.mean([session(look) for look in looks(PICTURES, tta)], 0)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_first_look_is_the_picture_and_the_last_half_are_mirror_images() -> None:
    for tta in ("mirror", "crops"):
        found = looks(PICTURES, tta)
        np.testing.assert_array_equal(found[0], PICTURES)
        for look, mirrored in zip(found[: len(found) // 2], found[len(found) // 2 :], strict=True):
            np.testing.assert_array_equal(look[:, :, ::-1], mirrored)
            assert look.shape == PICTURES.shape
    moved = looks(PICTURES, "crops")
    np.testing.assert_array_equal(moved[1][:, 1:, 1:], PICTURES[:, :-1, :-1])
    np.testing.assert_array_equal(moved[4][:, :-1, :-1], PICTURES[:, 1:, 1:])


def test_a_picture_and_its_mirror_image_get_the_same_answer() -> None:
    session = Averaged(formats.open_session(bundled.INT8), "mirror")
    turned = np.ascontiguousarray(PICTURES[:, :, ::-1])
    np.testing.assert_allclose(session(PICTURES), session(turned), atol=1e-5)
    assert not np.allclose(formats.open_session(bundled.INT8)(PICTURES), session(PICTURES), atol=1e-3)


def test_other_arrays_and_other_ways_are_refused() -> None:
    with pytest.raises(MnvError, match="tta cannot be twice: it is none, mirror, crops"):
        mnv1deploy.load(tta="twice")
    with pytest.raises(MnvError, match="takes raw pixels"):
        Averaged(Counting(), "crops")(PICTURES[:, :16])


def test_a_classifier_averages_and_pickles() -> None:
    classifier = mnv1deploy.load(tta="mirror")
    expected = Averaged(formats.open_session(bundled.INT8), "mirror")(PICTURES)
    np.testing.assert_array_equal(classifier(PICTURES), expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(classifier))(PICTURES), expected)
    assert "tta mirror" in repr(classifier)
    assert mnv1deploy.Classifier(formats.open_session(bundled.INT8), tta="mirror").predict(CAT).label == "cat"


@pytest.mark.slow
def test_predict_and_evaluate_take_it(tmp_path: Path) -> None:
    (found,) = json.loads(succeed("predict", CAT, "--tta", "crops", "--json"))
    assert found["probability"] == pytest.approx(mnv1deploy.load(tta="crops").predict(CAT).probability)
    for label in ("cat", "dog"):
        for part in ("train", "test"):
            (tmp_path / part / label).mkdir(parents=True)
            (tmp_path / part / label / f"{part}.png").symlink_to(CAT)
    done = mnv1("evaluate", "--data", tmp_path, "--tta", "twice")
    assert done.returncode == 2
