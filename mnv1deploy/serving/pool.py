"""A bounded number of threads, which decode and compute, and a bounded queue before them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from mnv1deploy.serving.limits import RefusedError, busy

T = TypeVar("T")


class Pool:
    """Threads for one event loop. Pillow and the engines compute without holding the GIL, so that few threads do.

    Args:
        workers: how many threads.
        queue: how many places there are, for what waits and what is being computed together.
    """

    def __init__(self, workers: int, queue: int) -> None:
        self.queue = queue
        self.taken = 0
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="mnv1-serve")

    @contextmanager
    def places(self, count: int = 1) -> Iterator[None]:
        """Holds so many places in the queue.

        Raises:
            RefusedError: if so many are not free.
        """
        if count > self.queue:
            raise RefusedError(
                413, f"A request has at most {self.queue} pictures, and this has {count}.", "Send several."
            )
        if self.taken + count > self.queue:
            raise busy(f"{self.taken} pictures wait")
        self.taken += count
        try:
            yield
        finally:
            self.taken -= count

    async def run(self, work: Callable[[], T]) -> T:
        """What ``work`` returns in one of the threads; what it raises is raised.

        Work that is given up (its request took too long) is not begun; if it has begun it keeps a place until its end.
        """
        loop, future = asyncio.get_running_loop(), self._threads.submit(work)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if not future.cancel() and not future.done():
                self.keep()
                future.add_done_callback(lambda _: loop.call_soon_threadsafe(self.give_back))
            raise

    def keep(self) -> None:
        """Keeps a place, whose request has given up, for what goes on being computed until :meth:`give_back`."""
        self.taken += 1

    def give_back(self) -> None:
        """Ends what :meth:`keep` began."""
        self.taken -= 1

    def close(self) -> None:
        """Waits for what is being computed."""
        self._threads.shutdown(cancel_futures=True)
