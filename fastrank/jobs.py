"""Jobs: a function applied to many arguments, several at a time, by threads that are waited for, but not for ever.

Those of `concurrent.futures` are waited for when Python ends, whatever the user does meanwhile. With these, Ctrl-C ends
it after what is under way, and another Ctrl-C at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from threading import Thread
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")
NAME = "fastrank-job"


def in_threads(function: Callable[[A], B], arguments: Sequence[A], threads: int) -> Iterator[B]:
    """What `function` returns for each of the arguments, as it comes; they are begun in their order.

    An error ends it, is raised here, and no other argument is begun; neither is one when this generator is closed, or
    interrupted. Calls that are under way are waited for. With one thread, the function is called in this one.
    """
    if threads <= 1:
        yield from map(function, arguments)
        return
    rest, answers = deque(arguments), SimpleQueue[tuple[B | None, BaseException | None]]()

    def work() -> None:
        while True:
            try:
                argument = rest.popleft()
            except IndexError:
                return
            try:
                answers.put((function(argument), None))
            except BaseException as error:  # raised by whoever waits for the answer
                answers.put((None, error))
                return

    team = [Thread(target=work, daemon=True, name=NAME) for _ in range(threads)]
    for thread in team:
        thread.start()
    try:
        for _ in arguments:
            answer, error = answers.get()
            if error is not None:
                raise error
            yield answer  # type: ignore[misc]  # None is an answer only where B has it
    finally:
        rest.clear()
        for thread in team:
            thread.join()
