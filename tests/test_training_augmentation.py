"""Views: every picture once, its crop, mirror image and blanked square as they are described."""

from typing import Any

import numpy as np
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
