"""Reading of files by threads while earlier ones are in use."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_FILES, MOST_SAMPLES = 256, 2**25
"""Bounds of what is read and not yet in use; at least one file is always read."""


def in_order(
    read: Callable[[Item], Result], items: Iterable[Item], sizes: Iterable[int]
) -> Iterator[Result]:
    """The results of `read` for all items, in order; later items are read meanwhile.

    Args:
        read: called in threads.
        items: what to read.
        sizes: samples of each item, which bound the memory; a size is asked for when its item is
            about to be read.

    Example:
        >>> list(in_order(len, ["a", "bc"], [1, 2]))
        [1, 2]
    """
    pending: deque[tuple[Future[Result], int]] = deque()
    ahead = 0
    with ThreadPoolExecutor() as threads:
        try:
            for item, size in zip(items, sizes, strict=True):
                while pending and (len(pending) == MOST_FILES or ahead + size > MOST_SAMPLES):
                    future, samples = pending.popleft()
                    ahead -= samples
                    yield future.result()
                pending.append((threads.submit(read, item), size))
                ahead += size
            while pending:
                yield pending.popleft()[0].result()
        finally:
            for future, _ in pending:
                future.cancel()
