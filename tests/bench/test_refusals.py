"""What the harness refuses after the check: times below a floor, answers from memory; and what it lets pass."""

from __future__ import annotations

import environment
import pytest
import results
import test_suite
import timing
import torch
from harness import Budget, Harness, Skipped
from networks import Network
from operations import Rank
from providers import Provider, of
from roofs import Roofs
from workloads import TOLERANCE, Workload

CPU = torch.device("cpu")
FP64 = torch.float64
ROOFS = Roofs(copies=((1.0, 1e-9),), flops_per_ms={FP64: 1e6})


def test_nothing_is_measured_on_a_device_that_is_lost(monkeypatch):
    """One illegal access, and every later call of the process fails: rows would blame whoever comes next."""
    assert timing.lost(CPU) == ""

    def synchronize(device):
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nSearch for ...")

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    test_suite._end_if_lost(CPU)
    with pytest.raises(pytest.exit.Exception, match=r"no row can follow: CUDA error: an illegal memory access.*ed$"):
        test_suite._end_if_lost(torch.device("cuda"))


class SmallRank(Rank):
    workloads = {"small": Workload("small", Network(((20, 30), (20, 30)), ()))}  # noqa: RUF012


@pytest.fixture
def harness():
    return Harness(CPU, torch.float32, Budget(seconds=0.01, longest=1.0), ROOFS)


def ranks(matrices):
    sigma = [torch.linalg.svdvals(m.double()) for m in matrices]
    return [(s > TOLERANCE.value * s.norm()).sum() for s in sigma]


def timed(milliseconds):
    def clock(call, setup, rounds, calls):
        timing.wall_times(call, setup, rounds, calls)
        return [milliseconds] * rounds

    return clock


PROVEN = Provider("proves", of(ranks), products=FP64)
FLOOR = 2 * (20 * 20 * 30 + 2 * 20**3 / 3) / 1e6


@pytest.mark.parametrize(("share", "status"), [(1.2, "ok"), (0.95, "ok"), (0.85, "wrong")])
def test_a_time_below_the_floor_is_refused(harness, share, status):
    row = harness.row(SmallRank(), "small", PROVEN, timed(share * FLOOR))
    assert row["status"] == status
    if status == "wrong":
        assert row["note"] == f"faster than its floor: {share * FLOOR:.3g} ms where {FLOOR:.3g} ms is the least"
        assert not set(results.TIMES) & set(row)
        with pytest.raises(Skipped, match="not timed before"):
            harness.again(SmallRank(), "small", PROVEN)
    else:
        assert row["roof_share"] == pytest.approx(1 / share)


def test_who_proves_nothing_has_to_read_its_bytes_and_no_more(harness):
    bare = Provider("guesses", of(ranks))
    row = harness.row(SmallRank(), "small", bare, timed(0.01 * FLOOR))
    assert (row["status"], row["roof"]) == ("ok", "bandwidth")
    harness.roofs = ROOFS._replace(copies=((1.0, 1e-3),))
    assert harness.row(SmallRank(), "small", bare, timed(4.7))["status"] == "ok"  # 4,800 bytes
    assert harness.row(SmallRank(), "small", bare, timed(4.2))["status"] == "wrong"


def test_few_buffers_have_no_floor_for_a_cache_may_hold_them(harness):
    row = harness.row(SmallRank(), "small", Provider("one", of(ranks), buffers=1, products=FP64), timed(1e-9))
    assert row["status"] == "ok"
    assert row["flops"]
    assert "roof_share" not in row


def test_the_roofs_are_measured_again_before_a_time_is_refused(harness):
    measured = []

    def remeasure():
        measured.append(1)
        return ROOFS._replace(flops_per_ms={FP64: 2e6})

    harness.remeasure = remeasure
    row = harness.row(SmallRank(), "small", PROVEN, timed(0.6 * FLOOR))
    assert row["status"] == "ok"
    assert row["roof_ms"] == pytest.approx(FLOOR / 2)
    assert harness.row(SmallRank(), "small", PROVEN, timed(0.4 * FLOOR))["status"] == "wrong"
    assert len(measured) == 1  # it takes seconds


def test_a_later_visit_is_judged_too(harness, monkeypatch):
    assert harness.row(SmallRank(), "small", PROVEN, timed(1.2 * FLOOR))["status"] == "ok"
    monkeypatch.setattr(timing, "wall_times", lambda call, setup, rounds, calls: [0.1 * FLOOR] * 2 * rounds)
    row = harness.again(SmallRank(), "small", PROVEN)
    assert row["status"] == "wrong"
    assert not set(results.TIMES) & set(row)
    with pytest.raises(Skipped, match="not timed before"):
        harness.again(SmallRank(), "small", PROVEN)


def remembering(matrices):
    """A cheat: answers from memory once it has seen a buffer."""
    known = []

    def call():
        if not known:
            known.append(ranks(matrices))
        return known[0]

    return call


@pytest.mark.parametrize("strict", [False, True])
def test_an_answer_from_memory_is_refused(harness, strict):
    row = harness.row(SmallRank(), "small", Provider("remembers", remembering, strict=strict), timed(1.0))
    assert (row["status"], row["error"]) == ("wrong", 0.0)
    assert row["note"].startswith("right at first, but off by ")
    assert not set(results.TIMES) & set(row)


def test_a_rival_that_fails_on_other_values_has_no_times(harness):
    def fails(matrices):
        before = matrices[0].clone()

        def call():
            if not torch.equal(matrices[0], before):
                raise RuntimeError("not like the last one")
            return ranks(matrices)

        return call

    row = harness.row(SmallRank(), "small", Provider("fails", fails), timed(1.0))
    assert (row["status"], row["note"]) == ("failed", "RuntimeError: not like the last one")
    assert not set(results.TIMES) & set(row)


class OnCPU(SmallRank):
    """On a device that only calls itself CUDA."""

    def make(self, workload, dtype, device):
        return super().make(workload, dtype, CPU)


def test_a_row_has_the_times_of_one_clock(monkeypatch):
    """A capture that fails between two visits: events, which have the gaps between launches, are no drift of it."""
    found = iter([([0.5], "graph", ""), ([9.0], "events", "no graph"), ([0.7], "graph", "")])

    def device_times(calls, rounds, graph):
        milliseconds, timer, note = next(found)
        return timing.DeviceTimes(milliseconds, timer, list(calls), note)

    monkeypatch.setattr(environment, "columns", lambda device: {})
    monkeypatch.setattr(timing, "peak_memory", lambda call, device: None)
    monkeypatch.setattr(timing, "device_times", device_times)
    harness = Harness(torch.device("cuda"), torch.float32, Budget(seconds=0.01, longest=1.0), ROOFS)
    provider = Provider("graph", of(ranks), graph=True)
    row = harness.row(OnCPU(), "small", provider, timed(1.0))
    for _ in range(2):
        row = harness.again(OnCPU(), "small", provider)
    assert (row["device_p20_ms"], row["device_p80_ms"], row["device_timer"]) == (0.5, 0.7, "graph")
    assert "note" not in row


@pytest.mark.parametrize("reads", [True, False])
def test_the_graph_that_was_timed_answers_again(monkeypatch, reads):
    """The call is right, and its graph repeats what was captured, or not."""

    def device_times(calls, rounds, graph):
        captured = [call() for call in calls]
        replays = [lambda known=answer: known for answer in captured]
        return timing.DeviceTimes([0.5] * rounds, "graph", list(calls) if reads else replays)

    monkeypatch.setattr(environment, "columns", lambda device: {})
    monkeypatch.setattr(timing, "peak_memory", lambda call, device: None)
    monkeypatch.setattr(timing, "device_times", device_times)
    harness = Harness(torch.device("cuda"), torch.float32, Budget(seconds=0.01, longest=1.0), ROOFS)
    row = harness.row(OnCPU(), "small", Provider("graph", of(ranks), graph=True), timed(1.0))
    if reads:
        assert (row["status"], row["device_ms"], row["device_timer"]) == ("ok", 0.5, "graph")
    else:
        assert row["status"] == "wrong"
        assert row["note"].startswith("right at first")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_graph_that_does_not_read_its_inputs_is_refused():
    device = torch.device("cuda")
    harness = Harness(device, torch.float32, Budget(seconds=0.01, longest=10.0), ROOFS)

    def blind(matrices):
        sigma = torch.stack([torch.linalg.svdvals(m.double()) for m in matrices])

        def call():
            if not torch.cuda.is_current_stream_capturing():
                sigma.copy_(torch.stack([torch.linalg.svdvals(m.double()) for m in matrices]))
                return (sigma > TOLERANCE.value * sigma.norm(dim=1, keepdim=True)).sum(1)
            return (stale > TOLERANCE.value * stale.norm(dim=1, keepdim=True)).sum(1)

        stale = sigma.clone()
        return call

    row = harness.row(SmallRank(), "small", Provider("blind", blind, graph=True), timing.wall_times)
    assert (row["status"], row["error"]) == ("wrong", 0.0)
    assert row["note"].startswith("right at first")
