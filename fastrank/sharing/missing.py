"""Missing: where the ranks meet that measure together; which of them are missing, and why, in words."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch.distributed as dist
from torch import nn

from ..weights import has_shards
from .notes import NoStore, Notes, first_line

GRACE = 5.0
"""Seconds that a rank waits, after a failure, for the others to say that they have seen it too."""

NAMED = 8
"""How many ranks a message names before it only counts."""

_taken: Counter[tuple[int, ...]] = Counter()
"""How many places this process has taken with the same ranks: those at the n-th place of each process meet."""


def named(members: Sequence[int], ranks: Sequence[int]) -> str:
    """Ranks by the numbers that they have in the whole job: "rank 1, rank 2 (of 4)".

    Args:
        members: those numbers, of all that measure together.
        ranks: which of them, 0 up to `len(members)`.
    """
    more = f" and {len(ranks) - NAMED} more" if len(ranks) > NAMED else ""
    of = f"of {len(members)}" + ("" if max(members) < len(members) else " that measure together")
    return f"{', '.join(f'rank {members[i]}' for i in ranks[:NAMED])}{more} ({of})"


def who_left(notes: Notes, members: Sequence[int], ranks: Iterable[int]) -> tuple[list[str], list[int]]:
    """What those of the ranks say who have left or given up, and which of the ranks have said nothing.

    Raises:
        NoStore: if the job's store does not answer.
    """
    reasons, silent = [], []
    for i in ranks:
        if notes.has("left", i):
            reasons.append(f"{named(members, [i])} takes no part any more: {notes.get('left', i).decode()}")
        elif notes.has("verdict", i):
            reasons.append(f"{named(members, [i])} has given up: {notes.get('verdict', i).decode()}")
        else:
            silent.append(i)
    return reasons, silent


def why_failed(notes: Notes, members: Sequence[int], error: Exception) -> str:
    """Why a collective has failed: who is missing, and what they say.

    Every rank whose collective has failed writes that it is accounted for, and so does one that leaves. Those that do
    neither within `GRACE` seconds are missing.

    Args:
        notes: what the ranks have written.
        members: their numbers in the whole job.
        error: what the collective has raised.
    """
    try:
        notes.write("accounted")
        silent = notes.wait("accounted", GRACE)
        others = [i for i in range(notes.size) if i not in silent]
        reasons = who_left(notes, members, [i for i in others if notes.has("left", i)])[0]
        verdict = notes.announced("verdict")
    except NoStore as gone:
        return f"{gone}; {first_line(error)}"
    if silent:
        why = "did not come, and did not say why: it may have been killed or be in other work"
        reasons.append(f"{named(members, silent)} {why}")
    if not reasons and verdict is not None:
        reasons.append(f"the other ranks have given up: {verdict}")
    late = f"all ranks are there, but one came late or a connection failed: {first_line(error)}"
    return "; ".join(reasons) or late


def next_notes(group: Any) -> Notes:
    """The notes of the place where the ranks of a process group meet next, this one among them.

    Args:
        group: None: all ranks of the job.
    """
    members = dist.get_process_group_ranks(group)
    which = hashlib.sha256(" ".join(map(str, members)).encode()).hexdigest()[:16]
    # No public name leads to the store by which the job's processes have met; torch's own modules that need it take it
    # from here.
    store = dist.distributed_c10d._get_default_store()
    store = dist.PrefixStore(f"fastrank/{which}/{_taken[tuple(members)]}", store)  # type: ignore[attr-defined]
    _taken[tuple(members)] += 1
    return Notes(store, dist.get_rank(group), len(members))


@contextmanager
def telling(model: nn.Module, share: Any) -> Iterator[None]:
    """What fails in here, before this rank meets those that it is to measure together with, is told to them: they do
    not wait for it, and all are at the same place the next time.

    Args:
        model, share: as of `RankTracker`. Nothing is told where neither says that processes measure together.
    """
    try:
        yield
    except Exception as error:
        if _together(model, share):
            notes = next_notes(None if share is True or share is None else share)
            with suppress(NoStore):
                notes.announce("left", f"it failed to make its tracker: {type(error).__name__}: {error}")
                notes.write("accounted")
        raise


def _together(model: nn.Module, share: Any) -> bool:
    """Whether others wait for this rank, as far as it can know without its matrices."""
    if not (dist.is_available() and dist.is_initialized()):
        return False
    if isinstance(share, dist.ProcessGroup):
        return dist.get_rank(share) >= 0
    return share is True or (share is None and isinstance(model, nn.Module) and has_shards(model))
