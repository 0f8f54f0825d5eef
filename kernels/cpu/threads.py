"""Threads: the same work in several threads at once. They wait for each other at its end only, and never spin."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

_pools: list[ThreadPoolExecutor] = []


def together(task: Callable[[int], None], count: int) -> None:
    """`task(i)` for each i below `count`, each in a thread of its own: the first in this one.

    Each has to be prepared to find that others have done its share. One that has not begun when this thread is done is
    not run any more: on a busy machine nobody waits for a thread that gets no core.
    """
    if count > 1 and not _pools:
        _pools.append(ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="fastrank"))
    others: list[Future[None]] = []
    try:
        with suppress(RuntimeError):  # no thread is started any more when the main one has ended
            for i in range(1, count):
                others.append(_pools[0].submit(task, i))
        task(0)
    finally:
        _end(others)
    for other in others:
        if not other.cancelled():
            other.result()


def _end(others: Sequence[Future[None]]) -> None:
    """Wait for those that have begun, even if interrupted: the memory that they work in may be freed after this."""
    try:
        for other in others:
            if not other.cancel():
                other.exception()
    except KeyboardInterrupt:
        _end(others)
        raise


os.register_at_fork(after_in_child=_pools.clear)  # where the threads of the parent do not exist
