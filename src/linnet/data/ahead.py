"""What is decoded ahead: in threads, in order, a bounded number of items."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from linnet.environment import available_cpus

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 64  # items: some batches, so that no thread rests while a network computes one


def ahead(
    function: Callable[[Item], Result], items: Iterable[Item], count: int = AHEAD, threads: int | None = None
) -> Generator[Result, None, None]:
    """``function`` of each item, in order, while the reader is busy with the results before.

    Items are taken in the reader's thread, so that they may come from an iterator.

    Args:
        count: how many items are computed or wait, at most: bounds the memory, whatever the number of items.
        threads: by default as many as this process may use processors: Pillow lets go of Python's lock while it decodes
            and resizes.

    Raises:
        Exception: what ``function`` raises, at the place of its item.
    """
    pool, waiting = ThreadPoolExecutor(threads or available_cpus()), deque[Future[Result]]()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # also where the reader has enough
        pool.shutdown(cancel_futures=True)
