"""Pictures of several requests, computed in one call."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np

from mnv1deploy.formats.base import Images, Logits
from mnv1deploy.serving.pool import Pool


@dataclass(frozen=True)
class Batching:
    """What is computed together.

    Attributes:
        size: pictures at which a batch is full; 1 for no batching.
        seconds: that a picture waits for others though a thread is free; with 0 a batch is what came while none was.
    """

    size: int = 8
    seconds: float = 0.0

    def around(self, pool: Pool, compute: Callable[[Images], Logits]) -> Callable[[Images], Awaitable[Logits]]:
        """What answers the pictures of a request, uint8 ``[N, H, W, C]``, by calls of ``compute`` in the pool."""
        return Batches(pool, compute, self)


@dataclass(eq=False)
class _Waiting:
    images: Images
    answer: asyncio.Future[Logits]
    keeps_place: bool = False
    """Its request was given up while it was being computed."""


class Batches:
    """Collects pictures until a thread is free to compute them. Of one event loop.

    Args:
        pool: its threads compute.
        compute: raw pixels, uint8 ``[N, H, W, C]`` -> logits, float32 ``[N, classes]``; called in a thread.
        batching: what is computed together.
    """

    def __init__(self, pool: Pool, compute: Callable[[Images], Logits], batching: Batching) -> None:
        self._pool, self._compute, self._batching = pool, compute, batching
        self._waiting: deque[_Waiting] = deque()
        self._is_coming = False
        """Whether a call is on its way that has not taken its pictures yet."""
        self._running: set[asyncio.Task[None]] = set()

    async def __call__(self, images: Images) -> Logits:
        """Logits of these pictures, whatever others they are computed with. Raises what ``compute`` does."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting(images, loop.create_future())
        self._waiting.append(waiting)
        if not self._is_coming:
            self._is_coming = True
            if self._batching.seconds and len(self._waiting) < self._batching.size:
                loop.call_later(self._batching.seconds, self._start)
            else:
                self._start()
        try:
            return await waiting.answer
        except asyncio.CancelledError:
            try:
                self._waiting.remove(waiting)
            except ValueError:  # it is being computed
                self._pool.keep()
                waiting.keeps_place = True
            raise

    def _start(self) -> None:
        task = asyncio.get_running_loop().create_task(self._answer())
        self._running.add(task)  # a loop keeps no task alive by itself
        task.add_done_callback(self._running.discard)

    async def _answer(self) -> None:
        batch: list[_Waiting] = []
        computed: list[Logits] = []

        def work() -> None:
            self._is_coming = False  # before they are taken: who comes from now on has another call
            try:
                while sum(len(one.images) for one in batch) < self._batching.size:
                    batch.append(self._waiting.popleft())
            except IndexError:
                pass
            if batch:
                computed.append(self._compute(np.concatenate([one.images for one in batch])))

        failure = None
        try:
            await self._pool.run(work)
        except Exception as error:
            failure = error
        if self._waiting and not self._is_coming:
            self._is_coming = True
            self._start()
        start = 0
        for one in batch:
            end = start + len(one.images)
            if one.keeps_place:
                self._pool.give_back()
            if one.answer.done():  # it was given up
                pass
            elif failure:
                one.answer.set_exception(failure)
            else:
                one.answer.set_result(computed[0][start:end])
            start = end
