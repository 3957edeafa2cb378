"""Reading and decoding by threads, a little ahead of the network."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")
_THREADS = 8


def computed_ahead(function: Callable[[_Key], _Value], keys: Iterable[_Key], *, ahead: int) -> Iterator[_Value]:
    """`function` of each key, in order, computed by threads up to `ahead` keys before it is asked for.

    What the function raises is raised in its turn. Whoever stops early waits for the calls under way only.
    """
    waiting: deque[Future[_Value]] = deque()
    threads = ThreadPoolExecutor(_THREADS)
    try:
        for key in keys:
            waiting.append(threads.submit(function, key))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)
