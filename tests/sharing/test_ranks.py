"""The ranks of a job: what travels between them arrives, and whoever is missing is named, in a bounded time."""

from __future__ import annotations

import os
import pickle
import signal
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from processes import Ended, run

from fastrank.sharing import Ranks, missing
from fastrank.sharing import ranks as module

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.bfloat16, torch.float64, torch.bool]
SIZES = [[2, 0, 3, 1], [0, 0, 4, 0], [5, 1, 0, 7], [0, 0, 0, 0]]
"""Elements that each rank (row) sends each other (column): rank 1 keeps all to itself, rank 3 sends nothing."""


def part(source, target, dtype):
    """What one rank sends another: values that say whose they are."""
    return (torch.arange(SIZES[source][target]) + 16 * source + 4 * target).to(dtype)


def in_concert(rank, found):
    """Everything that works."""
    first, second = (Ranks(None, CPU, 20, "RankTracker") for _ in range(2))
    found["who"] = first.rank, first.size, first.name(3)
    found["met"] = first.meet(bytes([rank, 0, 255 - rank]) * rank)
    came, moved = [row[rank] for row in SIZES], []
    for dtype in DTYPES:
        sent = torch.cat([part(rank, other, dtype) for other in range(4)])
        expected = torch.cat([part(other, rank, dtype) for other in range(4)])
        got = first.exchange(sent, SIZES[rank], came)
        assert got.dtype == dtype
        assert torch.equal(got, expected)
        moved.append(first.moved)
    found["moved"] = moved
    # Each rank uses the two in the same order; what one sends may not arrive in the other.
    sums = [ranks.sum_(torch.full((3,), float(10**i + rank))) for i, ranks in enumerate([first, second, first])]
    found["sums"] = [total.tolist() for total in sums]
    with pytest.raises(ValueError, match="no flat tensor of 3 elements"):
        first.exchange(torch.zeros(4), [3, 0, 0, 0], [0, 0, 0, 6])
    found["refused"] = first.sum_(torch.ones(1, dtype=torch.int64)).item()  # nothing is the worse for it

    # Groups of which not all ranks make as many, one of them twice.
    pair, alone = dist.new_group([1, 3]), dist.new_group([3])
    if rank in (1, 3):
        for turn in range(2):
            ranks = Ranks(pair, CPU, 20, "RankTracker")
            found[f"pair{turn}"] = ranks.rank, ranks.size, ranks.name(1), ranks.sum_(torch.tensor(rank)).item()
            ranks.close("done")
    else:
        with pytest.raises(ValueError, match=f"rank {rank} is not in the process group"):
            Ranks(pair, CPU, 20, "RankTracker")
    if rank == 3:
        found["alone"] = Ranks(alone, CPU, 20, "RankTracker").sum_(torch.tensor(7)).item()

    # Whoever is ready first leaves first, when others may be in the midst of the last collective.
    for _ in range(10):
        ranks = Ranks(None, CPU, 20, "RankTracker")
        ranks._comes_first = True  # as on NCCL
        for step in range(3):
            ranks.doing = f"measuring step {step}"
            ranks.exchange(torch.ones(4000), [1000] * 4, [1000] * 4)
            ranks.sum_(torch.ones(1000))
        ranks.close("closed its tracker")
        ranks.close("closed its tracker again")
    with pytest.raises(RuntimeError, match=r"^this rank takes no part any more: closed its tracker$"):
        ranks.sum_(torch.ones(1))


TIMEOUT, GRACE = 4.0, 2.0
"""Seconds, where ranks are missing."""


def refusal(call, *arguments):
    """What a call raises, its cause's type, and after how many seconds."""
    start = time.monotonic()
    try:
        call(*arguments)
    except RuntimeError as error:
        return str(error), type(error.__cause__), time.monotonic() - start
    return None


def ranks_of(group=None, timeout=TIMEOUT, doing="measuring step 7"):
    ranks = Ranks(group, CPU, timeout, "RankTracker")
    ranks.doing = doing
    return ranks


def with_one_missing(rank, found):
    """Each way in which rank 1 can be missing. Barriers of the job have it come late: after the others have failed."""
    missing.GRACE = GRACE
    if rank == 1:
        dist.barrier()
    found["none made"] = refusal(ranks_of)
    if rank != 1:
        dist.barrier()

    ranks = ranks_of(timeout=30)
    if rank == 1:
        ranks.told("failed: ValueError: no such layer")
    else:
        found["told"] = refusal(ranks.sum_, torch.ones(3))
        found["again"] = refusal(ranks.meet, b"")

    module.AT_ONCE = 1
    for name, comes_first in {"closed": False, "closed before it came": True}.items():
        ranks = ranks_of(timeout=30)
        ranks._comes_first = comes_first
        ranks.sum_(torch.ones(3))
        ranks.doing = "measuring step 8"
        if rank == 1:
            ranks.close("closed its tracker after step 7")
        else:
            found[name] = refusal(ranks.exchange, torch.ones(4), [1] * 4, [1] * 4)

    for name, comes_first in {"late": False, "late to come": True}.items():
        ranks = ranks_of()
        ranks._comes_first = comes_first
        if rank == 1:
            dist.barrier()
        found[name] = refusal(ranks.sum_, torch.ones(3))
        if rank != 1:
            dist.barrier()

    ranks = ranks_of(timeout=30)
    ranks.meet(b"here")
    if rank == 1:
        ranks.close("closed its tracker")
    else:
        found["closed before a meeting"] = refusal(ranks.meet, b"here")


def job(rank, folder):
    """A job of four ranks, two of which are killed at last. Each writes what it has found before."""
    found = {}
    three = dist.new_group([0, 2, 3])
    in_concert(rank, found)
    with_one_missing(rank, found)
    ranks, survivors = ranks_of(timeout=30), ranks_of(three, timeout=30) if rank != 1 else None

    def wrote():
        (Path(folder) / str(rank)).write_bytes(pickle.dumps(found))

    if rank == 1:
        wrote()
        os.kill(os.getpid(), signal.SIGKILL)
    found["killed"] = refusal(ranks.sum_, torch.ones(3))
    survivors.sum_(torch.ones(3))
    if rank == 0:
        wrote()
        os.kill(os.getpid(), signal.SIGKILL)
    found["no store"] = refusal(survivors.sum_, torch.ones(3))
    survivors.close("closed its tracker")  # raises nothing
    wrote()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    assert run(job, 4, str(folder), store="tcp") == [Ended(-signal.SIGKILL), Ended(-signal.SIGKILL), None, None]
    return [pickle.loads((folder / str(rank)).read_bytes()) for rank in range(4)]


def test_what_is_sent_arrives(found):
    for rank in range(4):
        assert found[rank]["who"] == (rank, 4, "rank 3")
        assert found[rank]["met"] == [bytes([other, 0, 255 - other]) * other for other in range(4)]
        elements = sum(SIZES[rank]) - SIZES[rank][rank]
        assert found[rank]["moved"] == [elements * size for size in (4, 6, 14, 15)]
        assert found[rank]["sums"] == [[4 * 10**i + 6.0] * 3 for i in range(3)]
        assert found[rank]["refused"] == 4
    pair = [None, (0, 2, "rank 3", 4), None, (1, 2, "rank 3", 4)]
    assert [found[rank].get("pair0") for rank in range(4)] == pair
    assert [found[rank].get("pair1") for rank in range(4)] == pair
    assert found[3]["alone"] == 7


SILENT = "rank 1 (of 4) did not come, and did not say why: it may have been killed or be in other work"
LEFT = "rank 1 (of 4) takes no part any more: "
OTHERS = (0, 2, 3)


def test_a_rank_that_makes_none_is_named(found):
    for rank in OTHERS:
        message, _, seconds = found[rank]["none made"]
        assert message.startswith("rank 1 (of 4) made no RankTracker within 4 s: the ranks measure together, so make")
        assert TIMEOUT <= seconds < TIMEOUT + 10
    message, _, seconds = found[1]["none made"]  # it comes too late
    assert message.startswith("the other ranks have given up: rank 1 (of 4) made no RankTracker within 4 s")
    assert seconds < 3


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("told", f"measuring step 7 failed: {LEFT}failed: ValueError: no such layer"),
        ("closed", f"measuring step 8 failed: {LEFT}closed its tracker after step 7"),
        ("closed before it came", f"measuring step 8 failed: {LEFT}closed its tracker after step 7"),
        ("closed before a meeting", f"measuring step 7 failed: {LEFT}closed its tracker"),
        ("killed", f"measuring step 7 failed: {SILENT}"),
    ],
)
def test_a_rank_that_is_gone_is_named_long_before_the_timeout(found, case, message):
    for rank in OTHERS:
        text, cause, seconds = found[rank][case]
        assert text == message
        assert issubclass(cause, Exception) or case == "closed before a meeting"
        assert seconds < 20


def test_after_a_failure_every_call_raises_it_again_at_once(found):
    for rank in OTHERS:
        assert found[rank]["again"][:2] == found[rank]["told"][:2]
        assert found[rank]["again"][2] < 2


@pytest.mark.parametrize("case", ["late", "late to come"])
def test_a_rank_that_does_other_work_is_named_after_the_timeout(found, case):
    for rank in OTHERS:
        message, _, seconds = found[rank][case]
        assert message == f"measuring step 7 failed: {SILENT}"
        assert seconds < TIMEOUT + GRACE + 10
    assert found[1][case][0] == f"measuring step 7 failed: the other ranks have given up: {message}"


def test_the_end_of_the_rank_that_keeps_the_store_is_told(found):
    for rank in (2, 3):
        message, cause, seconds = found[rank]["no store"]
        assert "the process that keeps the job's store, usually rank 0, has ended" in message
        assert issubclass(cause, RuntimeError)
        assert seconds < 20
