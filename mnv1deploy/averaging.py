"""Several looks at a picture, whose logits are averaged (test-time augmentation): more work, a little more accuracy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np

from mnv1deploy.errors import MnvError
from mnv1deploy.formats.base import Images, Logits, Session, check_images
from mnv1deploy.spec import ModelSpec

Tta = Literal["none", "mirror", "crops"]
"""The picture alone; with its mirror image; with its four diagonal neighbours, a pixel off, and all mirror images."""

SHIFTS = ((1, 1), (0, 0), (0, 2), (2, 0), (2, 2))
"""Rows and columns where the windows of "crops" begin in the picture with a pixel around it; the first is itself."""


def looks(images: Images, tta: Tta) -> list[Images]:
    """What the network is shown: arrays like ``images``, uint8 ``[N, H, W, C]``, themselves the first of them.

    Raises:
        MnvError: for another ``tta``.
    """
    if tta not in get_args(Tta):
        raise MnvError(f"tta cannot be {tta}: it is {', '.join(get_args(Tta))}.")
    found = [images]
    if tta == "crops":
        _, height, width, _ = images.shape
        around = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")
        found = [around[:, top : top + height, left : left + width] for top, left in SHIFTS]
    return found if tta == "none" else [*found, *(look[:, :, ::-1] for look in found)]


class Averaged:
    """A session whose logits are the mean over several looks at each picture; see Session, which this is one of.

    Args:
        session: what computes them: 2 times for "mirror", 10 times for "crops".
        tta: the looks; see :data:`Tta`.

    Raises:
        MnvError: for another ``tta``.
    """

    def __init__(self, session: Session, tta: Tta) -> None:
        looks(np.zeros((1, *session.spec.pixels.shape), np.uint8), tta)
        self._session, self._tta = session, tta

    @property
    def concurrent(self) -> bool:
        """See Session."""
        return self._session.concurrent

    @property
    def forks(self) -> bool:
        """See Session."""
        return self._session.forks

    @property
    def spec(self) -> ModelSpec:
        """See Session."""
        return self._session.spec

    @property
    def provider(self) -> str:
        """See Session."""
        return self._session.provider

    def __call__(self, images: Images) -> Logits:
        """See Session."""
        check_images(images, self.spec)
        logits = [self._session(np.ascontiguousarray(look)) for look in looks(images, self._tta)]
        mean: Logits = np.mean(logits, 0, dtype=np.float32)
        return mean

    def runner(self, images: Images, *, include_copies: bool) -> Callable[[], object]:
        """See Session; pictures and logits stay in memory."""
        return lambda: self(images)

    def __repr__(self) -> str:
        return f"{self._session!r}, tta {self._tta}"


def averaged(session: Session, tta: Tta) -> Session:
    """The session with its logits averaged over the looks of ``tta``; itself for "none". Raises MnvError."""
    return session if tta == "none" else Averaged(session, tta)
