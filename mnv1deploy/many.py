"""Answers to any number of pictures, in order, batch after batch: in this process, or in one for every processor."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from mnv1deploy import machine
from mnv1deploy.classifier import BATCH, Classifier, Prediction
from mnv1deploy.decoding import STANDARD_INPUT
from mnv1deploy.errors import MnvError
from mnv1deploy.formats.base import CPU

if TYPE_CHECKING:
    from concurrent.futures import Future

Answer = Prediction | MnvError
"""What a picture is taken for, or why it cannot be read."""

Batch = Sequence[str]
"""Paths of pictures that go through the network together, at most BATCH."""

WORTH_PROCESSES = 2048
"""Pictures from which on processes of their own pay: starting one takes as long as several hundred pictures."""


def batches(paths: Sequence[str]) -> list[Batch]:
    """All paths, BATCH at a time."""
    return [paths[place : place + BATCH] for place in range(0, len(paths), BATCH)]


def default_workers(paths: Sequence[str], provider: str) -> int:
    """How many processes answer: one for every processor, or this one alone where others cannot or do not pay."""
    alone = len(paths) < WORTH_PROCESSES or provider != CPU or STANDARD_INPUT in paths
    return 1 if alone else machine.processors()


def answer(
    classifier: Classifier, work: Iterable[Batch], *, top: int, workers: int, open_again: Callable[[], Classifier]
) -> Iterator[list[tuple[str, Answer]]]:
    """Every batch answered, in order. No more than a few batches are in memory.

    Args:
        classifier: answers if there is but one worker, while threads decode.
        work: the batches.
        top: classes named per picture.
        workers: 1 for this process; more for processes that decode and compute, one picture after another.
        open_again: opens the classifier in each of those; pickled. One thread is best there.

    Raises:
        MnvError: if a worker ends.
    """
    if workers > 1:
        yield from _by_processes(open_again, work, top, workers)
        return
    sizes: deque[int] = deque()

    def each() -> Iterator[str]:
        for batch in work:
            sizes.append(len(batch))
            yield from batch

    answers = classifier.predict_all(each(), top=top)
    for path, first in answers:
        rest = [next(answers) for _ in range(sizes.popleft() - 1)]
        yield [(str(picture), found) for picture, found in ((path, first), *rest)]


def _by_processes(
    open_again: Callable[[], Classifier], work: Iterable[Batch], top: int, workers: int
) -> Iterator[list[tuple[str, Answer]]]:
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    # not forked: engines have threads by now
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (open_again,))
    waiting: deque[tuple[Batch, Future[list[Answer]]]] = deque()
    try:
        for batch in work:
            waiting.append((batch, pool.submit(_answer, batch, top)))
            if len(waiting) > 2 * workers:
                yield _answered(*waiting.popleft())
        while waiting:
            yield _answered(*waiting.popleft())
    except BrokenProcessPool as error:
        raise MnvError(
            "A process that answers pictures was ended, perhaps for want of memory.", "Try with fewer --workers."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _answered(batch: Batch, future: Future[list[Answer]]) -> list[tuple[str, Answer]]:
    return list(zip(batch, future.result(), strict=True))


# In a worker -------------------------------------------------------------------------------------------------------

_classifier: Classifier | None = None


def _start_worker(open_again: Callable[[], Classifier]) -> None:
    global _classifier
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is told to all processes; the first ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _classifier = open_again()


def _end_with_parent() -> None:
    """A worker would wait for ever for a parent that was killed."""
    from multiprocessing import connection, parent_process

    parent = parent_process()
    if parent:
        connection.wait([parent.sentinel])
        os._exit(1)


def _answer(batch: Batch, top: int) -> list[Answer]:
    assert _classifier
    return list(_classifier.predict_batch(batch, top=top))
