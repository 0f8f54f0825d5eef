"""Ranks: the processes of a job that measure together, what travels between them, and who of them is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from .missing import named, next_notes, who_left, why_failed
from .notes import NoStore

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

CONNECT = timedelta(seconds=30)
"""How long gloo tries to reach a rank, at each of a few times."""

GONE = ("left", "verdict")
"""Topics under which a rank announces that it comes no more: it has left, or it has seen a failure."""

AT_ONCE = 16
"""How often `doing` changes from one meeting before collectives of NCCL to the next: so far may ranks run ahead."""

T = TypeVar("T")


class Ranks:
    """The processes (ranks) of a job that measure together.

    They meet as they are made, so that a rank that makes none is named instead of waited for in vain. Then they send
    each other tensors, by a process group of their own, whose collectives never mix with those of the training. All of
    them have to do so in the same order. When one is missing, the others raise a `RuntimeError` that names it and
    says why, if it has said so; from then on every call raises that again, at once.

    No call takes longer than `timeout` and a few seconds on gloo. NCCL's collectives are not waited for here. Before
    them the ranks meet in the store, whenever `doing` has changed `AT_ONCE` times, so that one that is missing is named
    after that; what becomes of a rank in the midst of one is NCCL's to see.

    Args:
        group: the process group whose ranks take part, this one among them. None: all ranks of the job.
        device: where the tensors are that travel. On a GPU they travel by NCCL if `group` does so, otherwise by gloo.
        timeout: seconds that a rank waits for the others.
        what: what each rank makes that has these `Ranks`, for messages, such as "RankTracker".

    Attributes:
        rank: of this process within the group, 0 up to `size`.
        size: how many ranks take part.
        doing: what the ranks do at the moment, for messages, such as "measuring step 7"; the caller keeps it.
        moved: bytes that this rank has sent to other ranks by `exchange` so far.

    Raises:
        RuntimeError: if `torch.distributed` is not initialised, or if another rank has not come.
        ValueError: if this rank is not in `group`, or if the timeout is no positive number.
    """

    def __init__(self, group: ProcessGroup | None, device: torch.device, timeout: float, what: str) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            raise RuntimeError("there are no ranks to measure with before torch.distributed.init_process_group")
        if not timeout > 0:
            raise ValueError(f"timeout must be a positive number of seconds, but is {timeout}")
        self.rank = dist.get_rank(group)
        if self.rank < 0:
            raise ValueError(f"rank {dist.get_rank()} is not in the process group whose ranks measure together")
        members = dist.get_process_group_ranks(group)
        self.size = len(members)
        self.doing = ""
        self.moved = 0
        self._members = members
        self._timeout = timeout
        self._met = 0
        self._nccl = device.type == "cuda" and "cuda:nccl" in dist.get_backend_config(group)
        self._comes_first = self._nccl
        self._came = self._done = 0
        self._came_for: str | None = None
        self._group: Any = None  # a `dist.ProcessGroupGloo` or `ProcessGroupNCCL`, most of which has no types
        self._left: str | None = None
        self._failure: tuple[str, BaseException | None] | None = None
        self._notes = next_notes(group)
        cure = f"make it on every rank, or pass share=group with those that make one, and a {what} to each of them"
        self._meet(b"", f"made no {what} within {timeout:g} s", f": the ranks measure together, so {cure}")
        # One that came after the others had given up would wait for them in vain.
        if verdict := self._asked(lambda: self._notes.announced("verdict")):
            self._fail(f"the other ranks have given up: {verdict}", None)
        self._collectively(self._connect)

    def __repr__(self) -> str:
        return f"Ranks(rank={self.rank}, size={self.size})"

    def name(self, i: int) -> str:
        """A rank of the group as the whole job knows it: "rank 3"."""
        return f"rank {self._members[i]}"

    def meet(self, own: bytes) -> list[bytes]:
        """Give some bytes, and get everybody's, in the order of the ranks. All of them have to do so."""
        self._check()
        self._meet(own, f"did not come within {self._timeout:g} s", "")
        return self._asked(lambda: self._notes.read(f"meeting{self._met}"))

    def exchange(self, sent: Tensor, sizes_sent: Sequence[int], sizes_received: Sequence[int]) -> Tensor:
        """Send each rank its part of a tensor, and receive a part from each of them.

        Args:
            sent: the parts for rank 0, 1 and so on, one after the other, flat. Any dtype, the same on all ranks.
            sizes_sent: how many elements each of them has, 0 for nothing.
            sizes_received: how many elements come from each rank.

        Returns:
            What has come, from rank 0, 1 and so on, one after the other: flat, in new memory, of the dtype of `sent`.

        Raises:
            ValueError: if the sizes do not fit the tensor, or are not one for each rank.
            RuntimeError: if a rank is missing.
        """
        self._check()
        if not len(sizes_sent) == len(sizes_received) == self.size:
            raise ValueError(f"{len(sizes_sent)} sizes to send and {len(sizes_received)} to receive: {self.size} ranks")
        if sent.shape != (sum(sizes_sent),):
            raise ValueError(f"{tuple(sent.shape)} to send is no flat tensor of {sum(sizes_sent)} elements")
        out = sent.new_empty(sum(sizes_received))
        # As bytes, since backends do not know every dtype.
        source, target, each = sent.contiguous().view(torch.uint8), out.view(torch.uint8), sent.element_size()
        splits = [size * each for size in sizes_received], [size * each for size in sizes_sent]
        self._come()
        self._collectively(lambda: self._group.alltoall_base(target, source, *splits).wait())
        self.moved += source.numel() - splits[1][self.rank]
        return out

    def sum_(self, tensor: Tensor) -> Tensor:
        """Put the sum of everybody's tensor, contiguous and of the same shape and dtype, in its place on every rank."""
        self._check()
        self._come()
        self._collectively(lambda: self._group.allreduce([tensor]).wait())
        return tensor

    def told(self, reason: str) -> None:
        """Leave, and say why: "failed: ValueError: ...". The others' collectives end soon, and name the reason."""
        self._leave(reason, abruptly=True)

    def close(self, reason: str) -> None:
        """Leave at the end of the work: "closed its tracker after step 12". Others that go on are told so."""
        self._leave(reason, abruptly=False)

    def _connect(self) -> None:
        """Make the own process group.

        Its class is called, and not `dist.new_group`. That gives a group of some of the job's ranks a name made of
        these and of how many groups a process has, which differs between processes that are in more or fewer of them,
        and comes again after one is destroyed, when what the first has left in the store misleads the second; and it
        splits NCCL's communicator off that of all ranks, if these were given their devices, which then have to come.
        """
        store = dist.PrefixStore("group", self._notes.store)  # type: ignore[attr-defined]
        wait = timedelta(seconds=self._timeout)
        if self._nccl:
            options = dist.ProcessGroupNCCL.Options()
            options._timeout = wait  # as `new_group` sets it; it has no other name
            self._group = dist.ProcessGroupNCCL(store, self.rank, self.size, options)
        else:
            # All ranks have just met. Gloo tries several times to reach one that has died since.
            self._group = dist.ProcessGroupGloo(store, self.rank, self.size, min(wait, CONNECT))
            self._group._set_default_timeout(wait)  # as torch's own `_set_pg_timeout` does it; it has no other name

    def _meet(self, own: bytes, lack: str, cure: str) -> None:
        """Write some bytes in the store and wait for everybody's, or name those who lack."""
        self._met += 1
        topic = f"meeting{self._met}"
        self._asked(lambda: self._notes.write(topic, own))
        if missing := self._asked(lambda: self._notes.wait(topic, self._timeout, GONE)):
            left, silent = self._asked(lambda: who_left(self._notes, self._members, missing))
            # Where one has left, nobody has waited for the others to come, who may only be slower.
            self._fail("; ".join(left) or f"{named(self._members, silent)} {lack}{cure}", None)

    def _come(self) -> None:
        """Before a collective that cannot fail by itself when a rank is missing: wait until all have come so far."""
        if self._comes_first and self._came_for != self.doing:
            self._came_for = self.doing
            self._done += 1
            if (self._done - 1) % AT_ONCE:
                return
            self._came += 1
            if not self._asked(lambda: self._notes.come(self._came, self._timeout, GONE)):
                self._diagnose(TimeoutError(f"not all ranks came within {self._timeout:g} s"))

    def _collectively(self, collective: Callable[[], object]) -> None:
        """Run a collective; if it fails, find out who is missing."""
        try:
            collective()
        except RuntimeError as error:
            self._diagnose(error)

    def _diagnose(self, error: Exception) -> NoReturn:
        """Raise an error that names who is missing."""
        self._give_up(abruptly=True)  # so that the others' collectives fail too, and they say that they wait
        self._fail(why_failed(self._notes, self._members, error), error)

    def _asked(self, question: Callable[[], T]) -> T:
        """What the store answers; without a store these ranks cannot go on."""
        try:
            return question()
        except NoStore as gone:
            self._fail(str(gone), gone)

    def _fail(self, reason: str, cause: BaseException | None) -> NoReturn:
        """Raise an error, now and at every later call, and tell it to those who come later."""
        self._give_up(abruptly=True)
        message = f"{self.doing} failed: {reason}" if self.doing else reason
        self._failure = message, cause
        with suppress(NoStore):
            self._notes.announce("verdict", message)
            self._notes.write("accounted")
        raise RuntimeError(message) from cause

    def _check(self) -> None:
        if self._failure is not None:
            message, cause = self._failure
            raise RuntimeError(message) from cause
        if self._left is not None:
            raise RuntimeError(f"this rank takes no part any more: {self._left}")

    def _leave(self, reason: str, abruptly: bool) -> None:
        """Say why, then give up the group: whoever fails by that finds the reason. Not after a failure of others."""
        if self._left is None and self._failure is None:
            self._left = reason
            with suppress(NoStore):  # its process may have ended before
                self._notes.announce("left", reason)
                self._notes.write("accounted")
        self._give_up(abruptly)

    def _give_up(self, abruptly: bool) -> None:
        """Close the group's connections, as gloo does when it is no longer referred to."""
        group, self._group = self._group, None
        if self._nccl and group is not None:
            if abruptly:
                group.abort()
            else:
                group.shutdown()
