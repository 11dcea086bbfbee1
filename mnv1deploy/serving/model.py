"""One artifact, as a service has it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from mnv1deploy import bundled, formats, images
from mnv1deploy.classifier import BATCH, Classifier, Prediction
from mnv1deploy.errors import MnvError
from mnv1deploy.formats.base import Images, Logits
from mnv1deploy.serving.batching import Batching
from mnv1deploy.serving.limits import Limits, RefusedError
from mnv1deploy.serving.metrics import Metrics
from mnv1deploy.serving.pool import Pool
from mnv1deploy.spec import ModelSpec

T = TypeVar("T")

VERSION = "1"
"""Of every model: an artifact that changes is another server's."""


class Model:
    """Answers requests for one network in the threads of a pool.

    Args:
        name: what clients call it.
        classifier: the network.
        pool: whose threads decode and compute.
        limits: of a picture.
        batching: of requests.
        metrics: told what every call takes.
    """

    def __init__(
        self, name: str, classifier: Classifier, pool: Pool, limits: Limits, batching: Batching, metrics: Metrics
    ) -> None:
        self.name = name
        self._classifier, self._pool, self._limits = classifier, pool, limits
        self._batches = batching.around(pool, self._compute) if batching.size > 1 else None
        self._reading = metrics.stage_seconds.labels(name, "read")
        self._computing = metrics.stage_seconds.labels(name, "compute")
        self._sizes, self._unreadable = metrics.batch_pictures.labels(name), metrics.unreadable.labels(name)

    @property
    def spec(self) -> ModelSpec:
        """Of the network inside."""
        return self._classifier.spec

    async def classify(self, picture: bytes, name: str, top: int) -> Prediction:
        """What an encoded picture is taken for, as ``mnv1 predict`` takes it.

        Raises:
            RefusedError: if it cannot be read (422).
            MnvError: if the engine fails.
        """
        logits = await self.logits(lambda: self._read(picture, name))
        return self._classifier.named(logits, top=top)[0]

    async def logits(self, read: Callable[[], Images]) -> Logits:
        """Logits, float32 ``[N, classes]``, of the pixels, uint8 ``[N, H, W, C]``, that ``read`` gives in a thread.

        Raises:
            MnvError: if the engine fails.
            Exception: what ``read`` raises.
        """
        if self._batches is None:
            return await self._pool.run(lambda: self._compute(read()))
        return await self._batches(await self._pool.run(read))

    def _read(self, picture: bytes, name: str) -> Images:
        start = time.perf_counter()
        try:
            return images.read(picture, self.spec.pixels, name=name, most=self._limits.pixels)[None]
        except MnvError as error:
            self._unreadable.inc()
            raise RefusedError(422, error.message, error.hint) from error
        finally:
            self._reading.observe(time.perf_counter() - start)

    def _compute(self, pixels: Images) -> Logits:
        """In parts, so that the memory of a call does not grow with the request."""
        start = time.perf_counter()
        parts = [self._classifier(pixels[i : i + BATCH]) for i in range(0, len(pixels), BATCH)]
        self._computing.observe(time.perf_counter() - start)
        self._sizes.observe(len(pixels))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def named(artifacts: Sequence[str]) -> dict[str, Path]:
    """Artifacts by the names that clients call them: of ``NAME=PATH`` that, else the file's without its suffix.

    Files that differ by their suffix alone keep it.

    Raises:
        MnvError: for one that is not there, and for two of one name.
    """
    found: list[tuple[str | None, Path]] = []
    for text in artifacts:
        name, equals, path = text.partition("=")
        named = equals and not Path(text).exists()
        found.append((name, bundled.artifact(path)) if named else (None, bundled.artifact(text)))
    stems = [name or path.name.removesuffix(formats.of_file(path).suffix) for name, path in found]
    names = [
        (stem if stems.count(stem) == 1 else path.name) if name is None else name
        for (name, path), stem in zip(found, stems, strict=True)
    ]
    for name in names:
        if names.count(name) > 1 or not name or "/" in name:
            raise MnvError(f"{name!r} is no name for one model.", "Name it yourself: --model NAME=PATH.")
    return {name: path for name, (_, path) in zip(names, found, strict=True)}
