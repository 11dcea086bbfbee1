"""Pictures in, class names out: the Python face of any artifact or checkpoint."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from mnv1deploy import bundled, formats, images
from mnv1deploy.averaging import Tta, averaged
from mnv1deploy.confidence import probabilities
from mnv1deploy.errors import MnvError
from mnv1deploy.formats.base import CPU, Images, Logits, Session
from mnv1deploy.images import ImageSource
from mnv1deploy.spec import Jpeg, ModelSpec

BATCH = 32
"""Pictures in one call of the network. Of many, those are together that follow each other, so that whoever answers
them, in one process or on many machines, has the same sums of floating point."""


@dataclass(frozen=True, repr=False)
class Prediction:
    """What a picture is taken for: ``top`` has (label, probability), the likeliest first; probabilities sum to 1."""

    top: tuple[tuple[str, float], ...]

    @property
    def label(self) -> str:
        """The likeliest class."""
        return self.top[0][0]

    @property
    def probability(self) -> float:
        """Of the likeliest class, calibrated by the spec's temperature."""
        return self.top[0][1]

    def __repr__(self) -> str:
        return f"<Prediction {', '.join(f'{label} {probability:.1%}' for label, probability in self.top)}>"


class Classifier:
    """A network that is ready to look at pictures: from any number of threads, and, pickled, in worker processes.

    Called with raw pixels, uint8 ``[N, H, W, C]`` at the network's own size, it gives logits, float32 ``[N, classes]``.
    Colours of arrays are in the order of RGB, unless ``bgr`` says otherwise.

    Args:
        session: of an artifact or checkpoint.
        tta: what logits are averaged over: "none", the picture itself; "mirror", its mirror image too, which takes
            twice the time; "crops", also both a pixel off in four directions, ten times.
        jpeg: how JPEGs are decoded, "whole" or "scaled" (:class:`mnv1deploy.spec.Preprocessing`); None for what the
            network's spec says.
        bgr: arrays are BGR or BGRA, as OpenCV reads pictures; files and Pillow's images say themselves what they are.

    Raises:
        MnvError: for another ``tta`` or ``jpeg``.
    """

    def __init__(self, session: Session, *, tta: Tta = "none", jpeg: Jpeg | None = None, bgr: bool = False) -> None:
        self.session = averaged(session, tta)
        self._bgr = bgr
        self.spec: ModelSpec = session.spec.with_jpeg(jpeg)
        """Of the network inside, and how pictures become its pixels here."""

    def __call__(self, images: Images) -> Logits:
        """See the class. Raises MnvError for other arrays."""
        return self.session(self._rgb(images))

    def predict(self, picture: ImageSource, *, top: int = 5) -> Prediction:
        """Classifies one picture: a path, an encoded file's bytes, a Pillow image or a uint8 array.

        Args:
            picture: of any size.
            top: how many classes to name, 1 or more.

        Raises:
            MnvError: if it cannot be read.
        """
        return self.named(self.session(images.read(self._rgb(picture), self.spec.pixels)[None]), top=top)[0]

    def predict_array(self, images: Images, *, top: int = 5) -> list[Prediction]:
        """Classifies raw pixels, uint8 ``[N, H, W, C]`` at the network's own size, one prediction for each of N.

        Raises:
            MnvError: for other arrays.
        """
        return self.named(self(images), top=top)

    def named(self, logits: Logits, *, top: int = 5) -> list[Prediction]:
        """What logits, float32 ``[N, classes]``, say: one prediction for each of N.

        Raises:
            MnvError: for a ``top`` below 1.
        """
        if top < 1:
            raise MnvError(f"A prediction names one class or more, not {top}.")
        shares = probabilities(logits, self.spec.temperature)
        order = np.argsort(-shares, axis=1, kind="stable")[:, :top]
        classes = self.spec.classes
        return [
            Prediction(tuple((classes[i], float(row[i])) for i in chosen))
            for row, chosen in zip(shares, order, strict=True)
        ]

    def predict_all(
        self, pictures: Iterable[ImageSource], *, top: int = 5
    ) -> Iterator[tuple[ImageSource, Prediction | MnvError]]:
        """Classifies many, in batches, in order; a picture that cannot be read yields its error.

        Pictures are decoded on several threads, up to 64 ahead, while the network is computed.

        Args:
            pictures: any iterable of what :meth:`predict` takes, read as the answers are asked for.
            top: see :meth:`predict`.

        Raises:
            MnvError: for what is one picture, or nothing that has pictures in it.
        """
        one = isinstance(pictures, (str, bytes, bytearray, memoryview, PurePath)) or (
            isinstance(pictures, np.ndarray) and pictures.ndim != 4
        )
        if one or not isinstance(pictures, Iterable):
            raise MnvError(
                f"predict_all takes many pictures, and this is one {type(pictures).__name__}.",
                "Put it in a list; or call predict.",
            )
        return self._predict_all(iter(pictures), top)

    def predict_batch(self, pictures: Sequence[ImageSource], *, top: int = 5) -> list[Prediction | MnvError]:
        """Classifies a few pictures in one call of the network, on the caller's thread; see :meth:`predict_all`."""
        return self.answers([images.attempt(self._rgb(picture), self.spec.pixels) for picture in pictures], top=top)

    def answers(self, read: Sequence[Images | MnvError], *, top: int = 5) -> list[Prediction | MnvError]:
        """Classifies pictures that :func:`mnv1deploy.images.attempt` read, in one call of the network."""
        pixels = [picture for picture in read if not isinstance(picture, MnvError)]
        answers = iter(self.named(self.session(np.stack(pixels)), top=top) if pixels else ())
        return [picture if isinstance(picture, MnvError) else next(answers) for picture in read]

    def _predict_all(
        self, pictures: Iterator[ImageSource], top: int
    ) -> Iterator[tuple[ImageSource, Prediction | MnvError]]:
        sources: deque[ImageSource] = deque()

        def noted(pictures: Iterable[ImageSource]) -> Iterator[ImageSource]:
            for picture in pictures:
                sources.append(picture)
                yield self._rgb(picture)

        first = list(islice(pictures, 2))
        if len(first) > 1:
            read = images.read_each(noted(chain(first, pictures)), self.spec.pixels)
        else:  # threads take a while to import, and one picture needs none
            read = (images.attempt(picture, self.spec.pixels) for picture in noted(first))
        while batch := list(islice(read, BATCH)):
            for answer in self.answers(batch, top=top):
                yield sources.popleft(), answer

    def _rgb(self, picture: Any) -> Any:
        """An array with red first, whatever it had; anything else as it is."""
        if self._bgr and isinstance(picture, np.ndarray) and picture.ndim > 2 and picture.shape[-1] in (3, 4):
            return np.ascontiguousarray(picture[..., [2, 1, 0, 3][: picture.shape[-1]]])
        return picture

    def __repr__(self) -> str:
        spec = self.spec
        shape = ", ".join(map(str, spec.pixels.shape))
        return f"<Classifier {self.session!r}: uint8 [N, {shape}] -> {len(spec.classes)} classes>"


def load(
    path: str | Path = bundled.INT8,
    *,
    provider: str = CPU,
    threads: int | None = None,
    tta: Tta = "none",
    jpeg: Jpeg | None = None,
    bgr: bool = False,
) -> Classifier:
    """Opens any artifact or checkpoint; the bundled int8 ONNX by default.

    Args:
        path: the file.
        provider: where to run it: "cpu", "cuda", or a provider's full name; used or refused, never replaced.
        threads: to compute with; None leaves it to the engine.
        tta, jpeg, bgr: see :class:`Classifier`.

    Raises:
        MnvError: if it cannot be opened, or the provider is not there; for another ``tta`` or ``jpeg``.
    """
    return Classifier(formats.open_session(path, provider=provider, threads=threads), tta=tta, jpeg=jpeg, bgr=bgr)
