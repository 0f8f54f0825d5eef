"""Places in the job's store where the ranks meet that measure together, and how one says that it will not come."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch.distributed as dist
from torch import nn

from ..weights import has_shards
from .notes import NoStore, Notes

_taken: Counter[tuple[int, ...]] = Counter()
"""How many places this process has taken with the same ranks: those at the n-th place of each process meet."""


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
