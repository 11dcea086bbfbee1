"""Views: every picture once, its crop, mirror image and blanked square as they are described."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mnv1deploy.datasets import calibration
from mnv1deploy.training.augmentation import View

PIXELS = calibration().images[:200]
NOTHING: dict[str, Any] = {"crop": 0, "flip": False, "cutout": 0}


def seen(seed: int = 0, count: int = len(PIXELS), **changes: Any) -> NDArray[np.uint8]:
    """The first ``count`` pictures in one view."""
    view = View(torch.from_numpy(PIXELS), seed, fill=(128.4, 0.0, 300.0), **{**NOTHING, **changes})
    pixels: NDArray[np.uint8] = view(torch.arange(count)).numpy()
    return pixels


def test_without_augmentation_pictures_are_untouched() -> None:
    np.testing.assert_array_equal(seen(), PIXELS)
    assert seen().dtype == np.uint8


def test_a_view_depends_on_its_seed_alone_and_not_on_how_it_is_asked() -> None:
    everything = {"crop": 4, "flip": True, "cutout": 8}
    torch.manual_seed(1)
    first = seen(3, **everything)
    torch.manual_seed(2)
    view = View(torch.from_numpy(PIXELS), 3, fill=(128.4, 0.0, 300.0), **everything)
    order = torch.randperm(len(PIXELS))
    parts = torch.cat([view(part) for part in order.split(48)])
    np.testing.assert_array_equal(parts.numpy(), first[order.numpy()])
    assert not np.array_equal(first, seen(4, **everything))


def test_the_global_random_state_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    seen(9, crop=4, flip=True, cutout=8)
    assert torch.equal(torch.rand(3), expected)


def test_crops_are_windows_of_the_padded_picture_and_flips_mirror_it() -> None:
    pixels = seen(crop=3, flip=True)
    met = set()
    for found, picture in zip(pixels, PIXELS, strict=True):
        padded = np.full((38, 38, 3), (128, 0, 255), np.uint8)
        padded[3:35, 3:35] = picture
        candidates = {
            (dy, dx, flip)
            for dy in range(7)
            for dx in range(7)
            for flip in (False, True)
            if np.array_equal(found, padded[dy : dy + 32, dx : dx + 32][:, :: -1 if flip else 1])
        }
        assert candidates
        met |= candidates
    assert {flip for _, _, flip in met} == {False, True}
    assert {dy for dy, _, _ in met} == {dx for _, dx, _ in met} == set(range(7))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 20), st.integers(0, 2**31))
def test_cutout_blanks_one_square_at_most(side: int, seed: int) -> None:
    for found, picture in zip(seen(seed, 50, cutout=side), PIXELS, strict=False):
        rows, columns = np.where((found != picture).any(-1))
        if len(rows):
            top, left = rows.min(), columns.min()
            assert rows.max() - top < side
            assert columns.max() - left < side
            assert (found[rows, columns] == (128, 0, 255)).all()


def test_what_came_later_draws_nothing_where_it_is_not_asked_for() -> None:
    """So recipes without it keep their views, and their teachers' answers."""
    usual = {"crop": 4, "flip": True, "cutout": 8}
    np.testing.assert_array_equal(seen(3, **usual), seen(3, **usual, zoom=0.0, sharpness=0.0, noise=0.0))
    plain = seen(3, **usual)
    disturbed = seen(3, **usual, noise=1e-6)
    np.testing.assert_array_equal(plain, disturbed)  # nor does it change what was drawn before it


@pytest.mark.parametrize("changes", [{"zoom": 0.5}, {"sharpness": 1.0}, {"noise": 20.0}], ids=str)
def test_a_disturbed_view_is_the_same_however_it_is_asked(changes: dict[str, float]) -> None:
    whole = seen(5, crop=4, flip=True, **changes)
    view = View(torch.from_numpy(PIXELS), 5, fill=(128.4, 0.0, 300.0), crop=4, flip=True, cutout=0, **changes)
    order = torch.randperm(len(PIXELS))
    parts = torch.cat([view(part) for part in order.split(7)])
    np.testing.assert_array_equal(parts.numpy(), whole[order.numpy()])
    assert not np.array_equal(whole, seen(5, crop=4, flip=True))


def test_zoom_scales_around_the_middle_both_ways() -> None:
    """A white square of 16 pixels on black: its side is between 16 / 1.5 and 16 * 1.5, and both happen."""
    square = np.zeros((200, 32, 32, 3), np.uint8)
    square[:, 8:24, 8:24] = 255
    view = View(torch.from_numpy(square), 0, fill=(0, 0, 0), zoom=0.5, **NOTHING)
    found = view(torch.arange(200)).numpy()[..., 0]
    middle = found[:, 16].astype(float)
    inside = middle[:, 4:28] if (middle[:, :2] > 0).any() else middle  # a small one has mirror images beside it
    sides = inside.sum(1) / 255
    assert 16 / 1.5 - 1 <= sides.min() < 13
    assert 21 < sides.max() <= 16 * 1.5 + 1
    np.testing.assert_allclose(found, found[:, :, ::-1], atol=1)


def test_sharpness_goes_both_ways_and_leaves_the_mean() -> None:
    found = seen(sharpness=1.0).astype(float)
    detail = np.abs(np.diff(found, axis=2)).mean((1, 2, 3)) / np.abs(np.diff(PIXELS.astype(float), axis=2)).mean(
        (1, 2, 3)
    )
    assert detail.min() < 0.8
    assert detail.max() > 1.3
    np.testing.assert_allclose(found.mean((1, 2, 3)), PIXELS.mean((1, 2, 3)), atol=3)


def test_noise_has_at_most_the_deviation_that_is_asked_for() -> None:
    grey = np.full((200, 32, 32, 3), 128, np.uint8)
    found = View(torch.from_numpy(grey), 0, fill=(0, 0, 0), noise=20.0, **NOTHING)(torch.arange(200)).numpy()
    deviations = found.astype(float).std((1, 2, 3))
    assert deviations.min() < 3
    assert 17 < deviations.max() < 21
    assert len(np.unique(found[:, 0, 0, 0])) > 20  # not the same noise for all


def test_a_fraction_of_the_pictures_is_altered_and_the_others_are_as_they_are() -> None:
    everything = {"zoom": 0.3, "sharpness": 1.0, "noise": 9.0}
    differs = (seen(2, altered=0.3, **everything) != PIXELS).any((1, 2, 3))
    assert 0.2 < differs.mean() < 0.4
    assert not (seen(2, altered=0.0, **everything) != PIXELS).any()


def test_grey_pictures_are_disturbed_too() -> None:
    grey = PIXELS[:20, :, :, :1].copy()
    everything = {"zoom": 0.3, "sharpness": 1.0, "noise": 9.0}
    found = View(torch.from_numpy(grey), 0, fill=(128.0,), crop=4, flip=True, cutout=8, **everything)(torch.arange(20))
    assert found.shape == grey.shape
    assert found.dtype == torch.uint8
