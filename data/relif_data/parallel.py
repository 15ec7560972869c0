"""Ordered work in a few threads, for reading and converting frames."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int | None,
    say: Callable[[str], None] | None = None,
    every: int = 100,
) -> Iterator[Result]:
    """Apply a function in threads and yield results in order, never more than a few ahead of the reader.

    Args:
        function: The function.
        items: What it is applied to.
        workers: Threads; None: the processors, at most 8.
        say: Called with a line of text.
        every: After so many items, and after the last.
    """
    workers = min(os.cpu_count() or 1, 8) if workers is None else workers
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        pending: deque[Future[Result]] = deque()
        try:
            for count in range(1, len(items) + 1):
                ahead = items[count - 1 + len(pending) : count + 2 * workers]
                pending.extend(pool.submit(partial(function, item)) for item in ahead)
                yield pending.popleft().result()
                if say is not None and (count % every == 0 or count == len(items)):
                    say(f"{count} of {len(items)} frames")
        finally:
            for future in pending:
                future.cancel()
