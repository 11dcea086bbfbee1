"""Pictures in, class names out: the Python face of any artifact or checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mnv1deploy import bundled, formats, images
from mnv1deploy.errors import MnvError
from mnv1deploy.formats.base import CPU, Images, Session
from mnv1deploy.images import ImageSource
from mnv1deploy.spec import ModelSpec

BATCH = 32


@dataclass(frozen=True)
class Prediction:
    """What a picture is taken for: ``top`` has (label, probability), the likeliest first; probabilities sum to 1."""

    top: tuple[tuple[str, float], ...]

    @property
    def label(self) -> str:
        """The likeliest class."""
        return self.top[0][0]

    @property
    def probability(self) -> float:
        """Its softmax probability."""
        return self.top[0][1]


class Classifier:
    """A network that is ready to look at pictures."""

    def __init__(self, session: Session) -> None:
        self.session = session

    @property
    def spec(self) -> ModelSpec:
        """Of the network inside."""
        return self.session.spec

    def predict(self, picture: ImageSource, *, top: int = 5) -> Prediction:
        """Classifies one picture: a path, an encoded file's bytes, a Pillow image or a uint8 array.

        Raises:
            MnvError: if it cannot be read.
        """
        return self._classify(images.read(picture, self.spec.pixels)[None], top)[0]

    def predict_all(
        self, pictures: Sequence[ImageSource], *, top: int = 5
    ) -> Iterator[tuple[ImageSource, Prediction | MnvError]]:
        """Classifies many, in batches, in order; a picture that cannot be read yields its error."""

        def read(picture: ImageSource) -> Images | MnvError:
            try:
                return images.read(picture, self.spec.pixels)
            except MnvError as error:
                return error

        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor() as pool:
            for start in range(0, len(pictures), BATCH):
                batch = pictures[start : start + BATCH]
                pixels = list(pool.map(read, batch))
                readable = [p for p in pixels if not isinstance(p, MnvError)]
                answers = iter(self._classify(np.stack(readable), top) if readable else ())
                for picture, read_pixels in zip(batch, pixels, strict=True):
                    yield picture, read_pixels if isinstance(read_pixels, MnvError) else next(answers)

    def _classify(self, pixels: Images, top: int) -> list[Prediction]:
        logits = self.session(pixels).astype(np.float64)
        odds = np.exp(logits - logits.max(1, keepdims=True))
        probabilities = odds / odds.sum(1, keepdims=True)
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
        classes = self.spec.classes
        return [
            Prediction(tuple((classes[i], float(row[i])) for i in chosen))
            for row, chosen in zip(probabilities, order, strict=True)
        ]


def load(path: str | Path = bundled.INT8, *, provider: str = CPU, threads: int | None = None) -> Classifier:
    """Opens any artifact or checkpoint; the bundled int8 ONNX by default.

    Args:
        path: the file.
        provider: where to run it: "cpu", "cuda", or a provider's full name; used or refused, never replaced.
        threads: to compute with; None leaves it to the engine.

    Raises:
        MnvError: if it cannot be opened, or the provider is not there.
    """
    return Classifier(formats.open_session(path, provider=provider, threads=threads))
