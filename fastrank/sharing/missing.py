"""Missing: which of the ranks that measure together are missing, and why, in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .notes import NoStore, Notes, first_line

GRACE = 5.0
"""Seconds that a rank waits, after a failure, for the others to say that they have seen it too."""

NAMED = 8
"""How many ranks a message names before it only counts."""


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
