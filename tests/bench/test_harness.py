"""The harness: what it refuses, what it skips, and what a row holds."""

import itertools
import time
from functools import partial

import pytest
import timing
import torch
from harness import Budget, Harness, Skipped
from networks import Network
from operations import OPERATIONS, Rank
from providers import Provider, of
from roofs import Roofs
from workloads import TOLERANCE, Workload

CPU = torch.device("cpu")
FP64 = torch.float64
ROOFS = Roofs(copies=((1.0, 1e-9),), flops_per_ms={FP64: 1e6})


class SmallRank(Rank):
    workloads = {  # noqa: RUF012
        "small": Workload("small", Network(((20, 30), (20, 30)), ())),
        "large": Workload("large", Network(((200, 300),), ())),
    }


@pytest.fixture
def harness():
    return Harness(CPU, torch.float32, Budget(seconds=0.01, longest=1.0), ROOFS)


def wall(call, setup, rounds, calls):
    timing.wall_times(call, setup, rounds, calls)
    return [1.0] * rounds


def never(*_):
    raise AssertionError("timed")


def ranks(matrices, off=0):
    sigma = [torch.linalg.svdvals(m.double()) for m in matrices]
    return [(s > TOLERANCE.value * s.norm()).sum() + off for s in sigma]


def test_a_right_answer_is_timed(harness):
    row = harness.row(SmallRank(), "small", Provider("right", of(ranks), products=FP64), wall)
    assert (row["status"], row["error"], row["wall_ms"]) == ("ok", 0.0, 1.0)
    assert row["flops"] == 2 * (20 * 20 * 30 + 2 * 20**3 / 3)
    assert row["roof"] == "float64 product"
    assert row["roof_share"] == pytest.approx(row["flops"] / 1e6)
    assert {"device", "torch", "commit", "dirty", "date", "threads"} <= set(row)


@pytest.mark.parametrize("off", [1, -1])
def test_a_wrong_answer_is_not_timed(harness, off):
    row = harness.row(SmallRank(), "small", Provider("planted", of(partial(ranks, off=off))), never)
    assert (row["status"], row["error"], row["limit"]) == ("wrong", 1.0, 0.0)
    assert not {"wall_ms", "device_ms", "roof_share"} & set(row)


def test_an_answer_that_is_not_a_number_is_not_timed(harness):
    spectrum = OPERATIONS["spectrum"]
    provider = Provider("nan", of(lambda ms: [torch.full((min(m.shape),), torch.nan) for m in ms]))
    assert harness.row(spectrum, "square-128", provider, never)["status"] == "wrong"


def test_a_rival_that_raises_is_a_row(harness):
    def refuse(matrices):
        raise ValueError("not for these\nmatrices")

    row = harness.row(SmallRank(), "small", Provider("refuses", of(refuse)), never)
    assert (row["status"], row["note"]) == ("failed", "ValueError: not for these matrices")
    with pytest.raises(ValueError, match="not for these"):
        harness.row(SmallRank(), "small", Provider("ours", of(refuse), strict=True), never)


def test_a_rival_that_fails_late_is_a_row_too(harness):
    def half(matrices):
        return ranks(matrices)[:1]

    row = harness.row(SmallRank(), "small", Provider("half", of(half)), never)
    assert row["status"] == "failed"
    calls = itertools.count()

    def soon(matrices):
        if next(calls):
            raise RuntimeError("out of memory")
        return ranks(matrices)

    row = harness.row(SmallRank(), "small", Provider("soon", of(soon)), never)
    assert (row["status"], row["note"]) == ("failed", "RuntimeError: out of memory")
    with pytest.raises(Skipped, match="not timed before"):
        harness.again(SmallRank(), "small", Provider("soon", of(soon)))


def test_a_call_that_is_too_long_has_one_time(harness):
    harness.budget = Budget(seconds=0.01, longest=1e-9)
    provider = Provider("slow", of(ranks), strict=True)
    row = harness.row(SmallRank(), "small", provider, never)
    assert (row["status"], row["error"], row["rounds"], row["note"]) == ("ok", 0.0, 1, "one call, the second")
    assert row["wall_ms"] == row["wall_p20_ms"] == row["wall_p80_ms"] > 0
    with pytest.raises(Skipped, match="not timed before"):
        harness.again(SmallRank(), "small", provider)


def test_a_first_call_that_is_far_too_long_is_the_only_one(harness):
    calls = itertools.count()

    def slow(matrices):
        next(calls)
        time.sleep(0.05)
        return ranks(matrices)

    harness.budget = Budget(seconds=0.01, longest=0.02)
    row = harness.row(SmallRank(), "small", Provider("slow", of(slow)), never)
    assert next(calls) == 1
    assert (row["status"], row["rounds"]) == ("ok", 1)
    assert row["note"] == "one call, the first, which loads libraries too"
    assert 50 <= row["wall_ms"] < 2000
    assert row["roof_ms"] > 0
    with pytest.raises(Skipped, match="not timed before"):
        harness.again(SmallRank(), "small", Provider("slow", of(slow)))
    with pytest.raises(Skipped, match="would take about"):  # five hundred times the work
        harness.row(SmallRank(), "large", Provider("slow", of(slow)), never)


def test_a_slow_call_that_is_wrong_has_no_time(harness):
    def slow(matrices):
        time.sleep(0.05)
        return ranks(matrices, off=1)

    harness.budget = Budget(seconds=0.01, longest=0.02)
    row = harness.row(SmallRank(), "small", Provider("slow", of(slow)), never)
    assert row["status"] == "wrong"
    assert not {"wall_ms", "rounds", "note"} & set(row)


def test_the_time_of_a_first_answer_is_shared_by_the_calls_that_make_it(harness):
    class Twice(SmallRank):
        checked_calls = 2

        def answer(self, call):
            return [call() for _ in range(2)][-1]

    def slow(matrices):
        time.sleep(0.1)
        return ranks(matrices)

    harness.budget = Budget(seconds=0.01, longest=0.02)
    assert 100 <= harness.row(Twice(), "small", Provider("slow", of(slow)), never)["wall_ms"] < 200


@pytest.mark.parametrize("options", [{"strict": True}, {"compiled": True}])
def test_what_compiles_is_not_judged_by_its_first_call(harness, options):
    waits = itertools.chain([0.05], itertools.repeat(0.0))

    def compiled(matrices):
        time.sleep(next(waits))
        return ranks(matrices)

    harness.budget = Budget(seconds=0.01, longest=0.02)
    assert harness.row(SmallRank(), "small", Provider("compiled", of(compiled), **options), wall)["status"] == "ok"


def test_the_check_is_the_warm_up(harness):
    """One call that takes the whole budget: checked, timed for the plan, timed, and checked again."""
    calls = itertools.count()

    def slow(matrices):
        next(calls)
        time.sleep(0.02)
        return ranks(matrices)

    row = harness.row(SmallRank(), "small", Provider("slow", of(slow)), wall)
    assert (row["status"], row["rounds"], next(calls)) == ("ok", 1, 4)


def test_what_is_not_there_is_skipped_by_name(harness):
    with pytest.raises(Skipped, match="no_such_package not installed"):
        harness.row(SmallRank(), "small", Provider("absent", of(ranks), needs=("no_such_package",)), never)
    with pytest.raises(Skipped, match="not for cpu"):
        harness.row(SmallRank(), "small", Provider("cuda's", of(ranks), devices=("cuda",)), never)


def test_what_a_smaller_workload_has_shown_to_be_hopeless_is_skipped(harness):
    slow = Provider("slow", of(ranks))
    harness.row(SmallRank(), "small", slow, wall)
    work = harness._flops(SmallRank(), "large")
    harness._slowest["rank", "slow"] = (work, 3.1)  # times the longest call
    with pytest.raises(Skipped, match="would take about"):
        harness.row(SmallRank(), "large", slow, never)
    harness._slowest["rank", "slow"] = (work, 2.9)
    assert harness.row(SmallRank(), "large", slow, wall)["status"] == "ok"


def test_calls_rotate_over_buffers_of_their_own(harness):
    """Neither a cache nor an in-place operation can make one call's work lighter than another's."""
    seen = []

    def look(matrices):
        seen.append(matrices[0].data_ptr())
        return ranks(matrices)

    harness.row(SmallRank(), "small", Provider("looks", of(look)), wall)
    timed = seen[-16:]
    assert len(set(timed)) > 4
    assert all(a != b for a, b in itertools.pairwise(timed))


def test_later_visits_add_their_rounds(harness, monkeypatch):
    provider = Provider("right", of(ranks))
    first = dict(harness.row(SmallRank(), "small", provider, wall))
    monkeypatch.setattr(timing, "wall_times", lambda call, setup, rounds, calls: [3.0] * rounds)
    row = harness.again(SmallRank(), "small", provider)
    assert row["rounds"] > first["rounds"]
    assert (first["wall_p20_ms"], first["wall_p80_ms"]) == (1, 1)
    assert (row["wall_p20_ms"], row["wall_p80_ms"]) == (1, 3)
    with pytest.raises(Skipped, match="not timed before"):
        harness.again(SmallRank(), "large", provider)


def test_overhead_is_taken_in_turn_with_the_baseline(harness):
    class Overhead(SmallRank):
        baseline = Provider("bare", of(lambda matrices: None))

    turns = []

    def in_turn(call, setup, rounds, calls):
        assert calls == 1
        for _ in range(rounds):
            setup()
            call()
            turns.append(1)
        return [1.0] * rounds

    row = harness.row(Overhead(), "small", Provider("right", of(ranks)), in_turn)
    assert len(turns) == row["rounds"]
    assert row["ratio"] >= row["ratio_p20"] > 1  # a millisecond over nothing


def test_our_overhead_is_never_told_by_one_round(harness):
    class Overhead(SmallRank):
        baseline = Provider("bare", of(lambda matrices: None))

    def slow(matrices):
        time.sleep(0.02)  # twice the budget
        return ranks(matrices)

    rounds = [
        harness.row(Overhead(), "small", Provider(name, of(slow)), timing.wall_times)["rounds"]
        for name in ("fastrank.slow", "rival")
    ]
    assert rounds == [5, 1]
