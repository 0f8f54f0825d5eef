"""Notes: what the ranks that measure together write for each other in the job's store, beside what they send."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

ANSWER = 5.0
"""Seconds within which the store answers a question; one that does not is taken to be gone."""

T = TypeVar("T")


class NoStore(Exception):
    """The job's store does not answer. The text says why, for a message that somebody reads."""


class Notes:
    """The notes of one group of ranks, by topic: each rank writes its own, all can read all.

    Every question is answered within `ANSWER` seconds, or raises `NoStore`. No question waits in the store for what is
    not there yet: what a store does for one thread, other threads of the process wait for, those of the training too.

    Args:
        store: the job's store, under a prefix that only these ranks use.
        rank: of this process, 0 up to `size`.
        size: how many ranks write.
    """

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self.store = store
        self.rank = rank
        self.size = size
        self._gone: NoStore | None = None

    def write(self, topic: str, text: bytes = b"") -> None:
        """This rank's note under a topic; a second one takes the place of the first."""
        # The store takes bytes, whatever its type stubs say.
        self._ask(lambda: self.store.set(f"{topic}/{self.rank}", text))  # type: ignore[arg-type]

    def announce(self, topic: str, text: str) -> None:
        """A note that a rank finds without a question to each of the others: `announced` is the last of its topic."""
        self.write(topic, text.encode())
        self._ask(lambda: self.store.set(topic, text))

    def announced(self, topic: str) -> str | None:
        """What some rank has announced last, or None."""
        return self._ask(lambda: self.store.get(topic).decode() if self.store.check([topic]) else None)

    def read(self, topic: str) -> list[bytes]:
        """Everybody's notes under a topic, in the order of the ranks. All of them have to be written."""
        return self._ask(lambda: self.store.multi_get([f"{topic}/{rank}" for rank in range(self.size)]))

    def has(self, topic: str, rank: int) -> bool:
        """Whether a rank has written under a topic."""
        return self._ask(lambda: self.store.check([f"{topic}/{rank}"]))

    def get(self, topic: str, rank: int) -> bytes:
        """What a rank has written under a topic, which it has to have done."""
        return self._ask(lambda: self.store.get(f"{topic}/{rank}"))

    def missing(self, topic: str) -> list[int]:
        """Ranks that have not written under a topic."""
        return [rank for rank in range(self.size) if not self.has(topic, rank)]

    def wait(self, topic: str, seconds: float, gone: Sequence[str] = ()) -> list[int]:
        """Wait until every rank has written under a topic.

        Args:
            topic: what to wait for.
            seconds: how long at most.
            gone: topics under which a rank announces that it comes no more. Nobody waits for one that has done so.

        Returns:
            The ranks that have not written: none, or all of those that are missing at the end of the time, or when one
            of them is gone.
        """
        every = [f"{topic}/{rank}" for rank in range(self.size)]

        def missing_one_that_is_gone() -> bool:
            said = [other for other in gone if self.announced(other) is not None]
            return bool(said) and any(self.has(other, rank) for rank in self.missing(topic) for other in said)

        if self._poll(lambda: self.store.check(every), seconds, missing_one_that_is_gone):
            return []
        return self.missing(topic)

    def come(self, step: int, seconds: float, gone: Sequence[str]) -> bool:
        """Wait until every rank has come to a step, which all of them count from 1. Two or three questions, if all are
        there, however many ranks they are.

        Args:
            step: one more than at the last call.
            seconds: how long to wait at most.
            gone: topics under which a rank announces that it comes no more.

        Returns:
            Whether all have come. Otherwise the time is over, or one that is gone had not come so far.
        """
        self.write("at", str(step).encode())
        if self._ask(lambda: self.store.add(f"came{step}", 1)) == self.size:
            self._ask(lambda: self.store.set(f"all{step}", ""))
            for key in (f"came{step - 1}", f"all{step - 1}"):  # which nobody waits for any more
                self._ask(lambda key=key: self.store.delete_key(key))  # type: ignore[misc]
            return True

        def one_is_gone_before() -> bool:
            said = [topic for topic in gone if self.announced(topic) is not None]
            left = [rank for rank in range(self.size) for topic in said if self.has(topic, rank)]
            return any(not self.has("at", rank) or int(self.get("at", rank)) < step for rank in left)

        return self._poll(lambda: self.store.check([f"all{step}"]), seconds, one_is_gone_before)

    def _poll(self, question: Callable[[], bool], seconds: float, vain: Callable[[], bool]) -> bool:
        """Ask until the answer is yes, for some seconds at most, or until it is in vain."""
        deadline, pause = time.monotonic() + seconds, 0.001
        while not self._ask(question):
            if time.monotonic() >= deadline or vain():
                return self._ask(question)  # it may have become true in between
            time.sleep(pause)
            pause = min(2 * pause, 0.1)  # ten questions a second, of each of many ranks, is what a store bears
        return True

    def _ask(self, question: Callable[[], T]) -> T:
        """The store's answer.

        A question to a process that has stopped, or to a machine that is cut off, never returns, and no store has a
        time limit for that. So a thread of its own asks it. A store that has not answered once is not asked again.
        """
        if self._gone is not None:
            raise self._gone
        answers: list[T] = []
        errors: list[Exception] = []

        def ask() -> None:
            try:
                answers.append(question())
            except Exception as error:
                errors.append(error)

        thread = threading.Thread(target=ask, daemon=True, name="fastrank-store")
        thread.start()
        thread.join(ANSWER)
        if answers:
            return answers[0]
        if errors:
            self._gone = NoStore(
                "the process that keeps the job's store, usually rank 0, has ended, so that no rank can say why it is "
                f"missing ({first_line(errors[0])})"
            )
        else:
            self._gone = NoStore(
                f"the job's store, which usually rank 0 keeps, has not answered for {ANSWER:g} s: its process may have "
                "been stopped, or the network may be down"
            )
        raise self._gone from (errors[0] if errors else None)


def first_line(error: Exception) -> str:
    """The first line of what an error says."""
    return (str(error).splitlines() or [type(error).__name__])[0]
