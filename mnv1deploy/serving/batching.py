"""Pictures of several requests, computed in one call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np

from mnv1deploy.formats.base import Images, Logits


@dataclass(frozen=True)
class Batching:
    """When a batch is computed.

    Attributes:
        size: pictures at which it is full; 1 for no batching.
        seconds: that the first picture waits for others.
    """

    size: int = 1
    seconds: float = 0.001


class Batches:
    """Collects pictures until there are enough or the first has waited long enough. Of one event loop.

    Args:
        compute: raw pixels, uint8 ``[N, H, W, C]`` -> logits, float32 ``[N, classes]``.
        batching: when.
    """

    def __init__(self, compute: Callable[[Images], Awaitable[Logits]], batching: Batching) -> None:
        self._compute, self._batching = compute, batching
        self._waiting: list[tuple[Images, asyncio.Future[Logits]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._running: set[asyncio.Task[None]] = set()

    async def __call__(self, images: Images) -> Logits:
        """Logits of these pictures, whatever others they are computed with. Raises what ``compute`` does."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Logits] = loop.create_future()
        self._waiting.append((images, answer))
        if sum(len(waiting) for waiting, _ in self._waiting) >= self._batching.size:
            self._flush()
        elif self._timer is None:
            self._timer = loop.call_later(self._batching.seconds, self._flush)
        return await answer

    def _flush(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        batch, self._waiting = self._waiting, []
        task = asyncio.get_running_loop().create_task(self._answer(batch))
        self._running.add(task)  # a loop keeps no task alive by itself
        task.add_done_callback(self._running.discard)

    async def _answer(self, batch: list[tuple[Images, asyncio.Future[Logits]]]) -> None:
        batch = [(images, answer) for images, answer in batch if not answer.done()]  # the others were given up
        if not batch:
            return
        try:
            logits = await self._compute(np.concatenate([images for images, _ in batch]))
        except Exception as error:
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
            return
        start = 0
        for images, answer in batch:
            if not answer.done():
                answer.set_result(logits[start : start + len(images)])
            start += len(images)
