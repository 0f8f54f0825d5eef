"""Ring: rows find their places on the device, whoever launches them, and a miscount is noticed."""

from __future__ import annotations

import copy

import pytest
import torch

import fastrank
from fastrank import HistoryError, RankTracker, backend
from fastrank.history import ring
from fastrank.history.block import SKIPPED
from fastrank.history.ring import Ring


class Graph:
    """A CUDA graph's stand-in on a CPU: capturing does the host's part of `append` only, replaying the device's."""

    def __init__(self, target, monkeypatch, captured):
        self.target, self.monkeypatch, self.captured = target, monkeypatch, captured

    def capture(self, run):
        with self.captured(), self.monkeypatch.context() as patch:
            patch.setattr(self.target, "_write", lambda step, values, counted: None)
            patch.setattr(self.target, "_send", lambda: pytest.fail("sent during capture"))
            run()

    def replay(self, run):
        with self.captured(), self.monkeypatch.context() as patch:
            patch.setattr(self.target, "append", lambda step, values, *_: self.target._write(step, values, 0))
            run()

    def capture_rows(self, rows=1):
        self.capture(lambda: [append(self.target, 0) for _ in range(rows)])

    def replay_rows(self, *steps):
        self.replay(lambda: [append(self.target, step) for step in steps])


def append(target, step, shapes=((3, 2), (5, 4))):
    return target.append(torch.tensor(step), torch.full((2, 1), float(step)), None, shapes)


def drained(target):
    target.drain(blocks := [])
    return blocks


def collected(target):
    target.collect(blocks := [])
    return blocks


@pytest.fixture(params=["host", "device"])
def graph(request, monkeypatch, captured):
    """With the rows in a list, as on a CPU, and in a buffer that operations write to, as on CUDA without kernels."""
    monkeypatch.setattr(ring, "on_host", lambda device: request.param == "host")
    return Graph(Ring(2, 1, torch.device("cpu"), capacity=10), monkeypatch, captured)


def steps_in(blocks):
    for block in blocks:
        assert block.values[:, :, 0].tolist() == [[float(s), float(s)] for s in block.steps]
    return [block.steps.tolist() for block in blocks]


def test_every_replay_writes_the_next_place(graph):
    """Rows run by the host and rows replayed, in turns, across blocks and drains."""
    target = graph.target
    assert not any(append(target, step) for step in (1, 2, 3))
    graph.capture_rows()
    sent = []
    for step in range(4, 14):
        graph.replay_rows(step)
        sent.append(target.replayed(1))
    assert sent == [step == 10 for step in range(4, 14)]
    append(target, 14)
    assert steps_in(collected(target)) == [list(range(1, 11))]
    assert steps_in(drained(target)) == [[11, 12, 13, 14]]
    graph.replay_rows(15)
    target.replayed(1)
    assert steps_in(drained(target)) == [[15]]
    assert drained(target) == []
    assert target.surplus == 0


def test_a_block_is_sent_while_there_is_room_for_a_whole_replay(graph):
    """Of a graph with three steps: the host hears of them when all are written."""
    graph.capture_rows(3)
    target = graph.target
    for first in range(1, 31, 3):
        graph.replay_rows(first, first + 1, first + 2)
        assert target.replayed(3) == (first % 9 == 7)
    assert steps_in(drained(target)) == [list(range(i, min(i + 9, 31))) for i in (1, 10, 19, 28)]


def test_a_skipped_step_that_was_replayed_is_dropped(graph):
    graph.capture_rows()
    for step in (1, SKIPPED, 2):
        graph.replay_rows(step)
        graph.target.replayed(1)
    assert steps_in(drained(graph.target)) == [[1, 2]]


def test_a_graph_for_which_there_is_no_room_is_refused(graph):
    for step in range(1, 8):
        append(graph.target, step)
    with pytest.raises(RuntimeError, match=r"4 tracked steps, but only 3 rows are free: call flush\(\) before"):
        graph.capture_rows(4)
    drained(graph.target)
    graph.capture_rows(10)
    graph.replay_rows(*range(8, 18))
    assert graph.target.replayed(10)
    assert steps_in(drained(graph.target)) == [list(range(8, 18))]
    with pytest.raises(RuntimeError, match=r"11 tracked steps.* at most 10"):
        graph.capture_rows(11)


def test_graphs_captured_at_different_times_are_different_graphs(graph):
    """Captured anew every now and then, a graph takes no more room than before."""
    for step in range(1, 31):
        graph.capture_rows()
        graph.replay_rows(step)
        graph.target.replayed(1)
    assert steps_in(drained(graph.target)) == [list(range(i, i + 10)) for i in (1, 11, 21)]


def test_replays_that_were_not_counted_are_noticed_and_may_be_made_up_for(graph):
    append(graph.target, 1)
    graph.capture_rows()
    graph.replay_rows(2)
    graph.replay_rows(3)
    for _ in range(2):  # asking again does not help
        assert drained(graph.target) == []
        assert graph.target.surplus == 2
    graph.target.replayed(1)
    graph.target.replayed(1)
    assert steps_in(drained(graph.target)) == [[1, 2, 3]]
    assert graph.target.surplus == 0


@pytest.mark.parametrize(("replays", "counted", "surplus"), [(11, 0, 11), (11, 10, 1), (9, 10, -1)])
def test_a_block_with_a_row_too_many_or_too_few_is_never_handed_out(graph, replays, counted, surplus):
    """What came before it is; what comes after it is not, since nobody knows what is missing."""
    target = graph.target
    for step in range(1, 11):
        append(target, step)
    graph.capture_rows()
    for step in range(11, 11 + replays):
        graph.replay_rows(step)
    for _ in range(counted):
        target.replayed(1)
    assert steps_in(drained(target)) == [list(range(1, 11))]
    assert target.surplus == surplus
    for step in range(50, 90):
        append(target, step)
    assert drained(target) == []
    assert target.surplus
    target.clear()
    append(target, 7)
    assert steps_in(drained(target)) == [[7]]
    assert target.surplus == 0


def test_more_than_was_captured_cannot_have_been_replayed(graph):
    with pytest.raises(ValueError, match="steps: 1 replayed, but no CUDA graph has captured more than 0"):
        graph.target.replayed(1)
    graph.capture_rows(2)
    with pytest.raises(ValueError, match=r"steps: 3 replayed, .* more than 2"):
        graph.target.replayed(3)


def test_nothing_is_read_or_counted_during_capture(graph, captured):
    for call in (lambda: graph.target.drain([]), lambda: graph.target.replayed(1)):
        with captured(), pytest.raises(RuntimeError, match="is being captured"):
            call()


@pytest.fixture
def tracked(mlp, train, monkeypatch, captured, tmp_path):
    """`make()`: a tracker and three functions: train a step as usual, capture one, and replay one without counting."""
    monkeypatch.setattr(ring, "CAPACITY", 20)
    monkeypatch.setattr(backend, "compiled_serve", lambda device: False)  # what is captured leaves it no other start
    optimizer = torch.optim.SGD(mlp.parameters(), lr=0.1)

    def make():
        tracker = RankTracker(mlp, optimizer, directory=tmp_path, rows_per_part=60)
        graph = Graph(tracker._history._ring, monkeypatch, captured)

        def run():
            train(mlp, optimizer, 1, start=tracker._steps.state()["steps"])

        def capture():
            before = tracker._steps.state()
            graph.capture(tracker.step)
            tracker._steps.load(**before)

        return tracker, run, capture, lambda: graph.replay(run)

    return make


def test_replayed_steps_are_steps(mlp, train, tracked, tmp_path):
    """Run by the host, replayed, saved, resumed and captured anew: the history is that of a run without a graph."""
    twin = copy.deepcopy(mlp)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    expected = RankTracker(twin, optimizer)
    train(twin, optimizer, 70)
    state = None
    for _ in range(2):
        tracker, run, capture, replay = tracked()
        if state is not None:
            tracker.load_state_dict(state)
        for _ in range(3):
            run()
        capture()
        for i in range(32):
            replay()
            tracker.replayed()
            assert i != 5 or tracker.latest()["0.weight"]["step"] == tracker.state_dict()["calls"]
        assert any(tmp_path.iterdir()), "a part is written while steps are replayed"
        state = tracker.state_dict()
        tracker.close()
    assert state["calls"] == state["steps"] == 70
    found, wanted = (x.to_arrow().to_pydict() for x in (tracker, expected))  # the stand-in's capture was a measurement
    assert found == wanted | {name: pytest.approx(wanted[name], rel=1e-5) for name in ("spectral_norm", "stable_rank")}


def test_forgotten_replays_are_an_error_until_they_are_made_up_for(tracked):
    tracker, run, capture, replay = tracked()
    run()
    capture()
    for _ in range(5):
        replay()
    for read in (tracker.latest, tracker.to_arrow, tracker.state_dict, tracker.flush):
        with pytest.raises(HistoryError, match=r"5 more steps than were counted: .* call the tracker's replayed\(\)"):
            read()
    for _ in range(5):
        tracker.replayed()
    assert tracker.to_pandas().step.unique().tolist() == [1, 2, 3, 4, 5, 6]


def test_lost_rows_are_an_error_and_the_rows_before_them_are_kept(tracked, tmp_path):
    tracker, run, capture, replay = tracked()
    for _ in range(25):
        run()
    state = tracker.state_dict()
    capture()
    for _ in range(21):
        replay()
    for _ in range(19):
        tracker.replayed()
    with pytest.raises(HistoryError, match="1 more steps"):
        tracker.replayed()
    with pytest.raises(HistoryError, match="1 more steps"):
        tracker.close()
    assert fastrank.read_history(tmp_path).column("step").to_pylist() == [s for s in range(1, 26) for _ in range(3)]
    tracker.load_state_dict(state)
    assert tracker.latest()["0.weight"]["step"] == 25
