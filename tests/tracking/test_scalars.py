"""The numbers that loggers are shown."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import fastrank
from fastrank.history import Layout
from fastrank.tracking.scalars import scalars_of


def tracker_of(*matrices, **arguments):
    model = nn.ParameterDict({f"w{i}": nn.Parameter(matrix) for i, matrix in enumerate(matrices)})
    return fastrank.RankTracker(model, **arguments)


def test_few_numbers_by_default():
    tracker = tracker_of(torch.eye(4), torch.diag(torch.tensor([3.0, 1.0, 0.0, 0.0, 0.0])), torch.ones(2, 9))
    tracker.step()
    assert tracker.scalars() == {
        "rank/mean": pytest.approx((1 + 0.4 + 0.5) / 3),
        "rank/lowest": pytest.approx(0.4),
        "rank/below_half": 1.0,
        "rank/nonfinite": 0.0,
        "stable_rank/mean": pytest.approx((4 + 10 / 9 + 1) / 3),
    }


def test_nothing_new_is_nothing():
    tracker = tracker_of(torch.eye(4), every=3)
    assert tracker.scalars() == {}
    tracker.step()
    assert tracker.scalars()
    assert tracker.scalars() == {}
    tracker.step()
    assert tracker.scalars() == {}, "the second step is not measured"
    tracker.step()
    assert tracker.scalars()


def test_what_was_read_is_not_new_after_a_resume():
    matrix = torch.eye(4)
    first = tracker_of(matrix)
    first.step()
    unread = first.state_dict()
    assert first.scalars()
    for state, new in ((unread, True), (first.state_dict(), False)):
        second = tracker_of(matrix)
        second.load_state_dict(state)
        assert bool(second.scalars()) == new


def test_what_does_not_exist_is_left_out():
    """One idiom of loggers is to take whatever there is, and they take neither None nor NaN."""
    tracker = tracker_of(torch.full((3, 3), torch.nan), torch.eye(2))
    tracker.step()
    found = tracker.scalars(per_matrix=True)
    assert found["rank/nonfinite"] == 1
    assert found["rank/mean"] == found["rank/w1"] == 1
    assert "rank/w0" not in found
    assert "spectral_norm/w0" not in found
    assert all(type(value) is float and math.isfinite(value) for value in found.values())


def test_no_finite_matrix_at_all():
    tracker = tracker_of(torch.full((3, 3), torch.inf))
    tracker.step()
    assert tracker.scalars() == {"rank/below_half": 0.0, "rank/nonfinite": 1.0}


def test_empty_matrices_have_no_share():
    tracker = tracker_of(torch.zeros(0, 5), torch.eye(2))
    tracker.step()
    found = tracker.scalars()
    assert found["rank/lowest"] == 1
    assert found["stable_rank/mean"] == pytest.approx(2)


def test_a_matrix_takes_no_name_from_the_numbers_of_all():
    model = nn.ParameterDict({"mean": nn.Parameter(torch.eye(4)), "lowest": nn.Parameter(torch.zeros(4, 4))})
    tracker = fastrank.RankTracker(model)
    tracker.step()
    found = tracker.scalars(per_matrix=True)
    assert (found["rank/mean"], found["rank/lowest"], found["stable_rank/mean"]) == (0.5, 0, 2)
    assert found["frobenius_norm/mean"] == 2


def test_a_tracker_that_goes_back_has_something_new():
    tracker = tracker_of(torch.eye(4))
    tracker.step()
    state = tracker.state_dict()
    tracker.step()
    tracker.step()
    assert tracker.scalars()
    tracker.load_state_dict(state)
    tracker.step()
    assert tracker.scalars()


def test_every_metric_of_each_matrix():
    tracker = tracker_of(
        torch.diag(torch.tensor([1.0, 0.01])),
        tolerance=[fastrank.Tolerance(1e-3), fastrank.Tolerance(0.04)],
        spectrum=["effective_rank", "singular_values"],
        spectrum_every=5,
    )
    tracker.step()
    found = tracker.scalars(per_matrix=True)
    assert found["rank/w0"] == 1
    assert found["rank@0.04/w0"] == 0.5
    assert found["effective_rank/w0"] == pytest.approx(1.057, abs=1e-3)
    assert found["frobenius_norm/w0"] == pytest.approx(math.sqrt(1.0001))
    assert not [key for key in found if key.startswith(("status", "rank_", "singular"))]
    tracker.step()
    assert "effective_rank/w0" not in tracker.scalars(per_matrix=True), "it was not due"


def test_the_cap_says_what_it_leaves_out():
    tracker = tracker_of(*torch.eye(2).expand(70, 2, 2).clone())
    tracker.step()
    found = tracker.scalars(per_matrix=True)
    assert found["rank/left_out"] == 6
    assert {name for name in tracker.names if f"rank/{name}" in found} == set(tracker.names[:64])
    tracker.step()
    assert tracker.scalars(per_matrix=True, cap=2)["rank/left_out"] == 68


def test_ranks_that_are_not_certified_count_as_the_middle():
    layout = Layout(("a", "b"), ("rank_lower", "rank_upper", "stable_rank", "status"), False)
    values = torch.tensor([[2.0, 4.0, 1.5, 0.0], [-1.0, -1.0, torch.nan, 1.0]]).numpy()
    found = scalars_of(values, [(4, 9), (4, 4)], layout)
    assert found["rank/mean"] == 0.75
    assert found["rank/nonfinite"] == 1


def test_means_are_of_weights_not_of_gradients():
    model = nn.Linear(4, 4, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with torch.no_grad():
        model.weight.copy_(torch.eye(4))
    tracker = fastrank.RankTracker(
        model, optimizer, of=["weight", "gradient"], track={"two": lambda _: torch.ones(4, 4)}
    )
    only = fastrank.RankTracker(model, optimizer, of=["gradient"])
    model.weight.grad = torch.ones(4, 4)
    optimizer.step()
    found = tracker.scalars(per_matrix=True)
    assert (found["rank/mean"], found["rank/lowest"], found["rank/below_half"], found["stable_rank/mean"]) == (
        1,
        1,
        0,
        4,
    )
    assert found["rank/gradient/weight"] == found["rank/two"] == only.scalars()["rank/mean"] == 0.25


class Sink:
    def __init__(self):
        self.told, self.closed = {}, 0

    def log(self, step, values):
        assert step not in self.told, "a point twice"
        self.told[step] = values

    def close(self):
        self.closed += 1


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        ({}, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        ({"log_every": 4}, [1, 4, 8]),
        ({"every": 3, "log_every": 4}, [1, 6, 9]),
        ({"every": 5, "log_every": 2}, [1, 5, 10]),
        ({"log_every": fastrank.schedules.logarithmic(2)}, [1, 3, 10]),
        ({"initial": True, "log_every": 7}, [0, 7]),
        ({"initial": True, "every": 4}, [0, 1, 4, 8]),
    ],
)
def test_measuring_and_logging_are_two_settings(arguments, steps):
    """A row is sent that is the first one, or the first at or after a step that is due."""
    sink = Sink()
    tracker = tracker_of(torch.eye(3), log=[sink], **arguments)
    for _ in range(10):
        tracker.step()
    tracker.close()
    assert list(sink.told) == steps
    assert all(values["rank/mean"] == 1 for values in sink.told.values())
    assert sink.closed == 1


def test_a_tracker_that_goes_on_sends_no_row_twice():
    sink, matrix = Sink(), torch.eye(3)
    first = tracker_of(matrix, log=[sink], log_every=3)
    for _ in range(5):
        first.step()
    first.close()
    state = first.state_dict()
    second = tracker_of(matrix, log=[sink], log_every=3)
    second.load_state_dict(state)
    for _ in range(5):
        second.step()
    second.close()
    assert list(sink.told) == [1, 3, 6, 9]


def test_what_has_not_been_sent_when_a_state_is_taken_is_sent_then():
    sink = Sink()
    first = tracker_of(torch.eye(3), log=[sink], log_every=3, initial=True)
    second = tracker_of(torch.eye(3), log=[sink], log_every=3, initial=True)
    second.load_state_dict(first.state_dict())
    for _ in range(6):
        second.step()
    first.close()
    second.close()
    assert sorted(sink.told) == [0, 3, 6]


def test_each_matrix_is_sent_on_request():
    sink = Sink()
    tracker = tracker_of(torch.eye(3), log=[sink], log_per_matrix=True)
    tracker.step()
    tracker.close()
    assert sink.told[1]["rank/w0"] == 1


def test_a_leap_of_step_numbers_takes_no_time():
    sink = Sink()
    tracker = tracker_of(torch.eye(3), log=[sink], log_every=10)
    for step in (1, 10**15, 10**15 + 1):
        tracker.step(step=step)
    tracker.close()
    assert list(sink.told) == [1, 10**15]


def test_what_is_due_does_not_pile_up():
    """Neither while nothing is measured, nor where nothing is logged."""
    sink = Sink()
    tracker = tracker_of(torch.eye(3), every=1000, log=[sink])
    alone = tracker_of(torch.eye(3), every=1000, alerts=[fastrank.alerts.below(0.5)])
    for _ in range(100):
        tracker.step()
        alone.step()
        assert len(tracker._watch._dues) <= 1
        assert len(alone._watch._dues) <= 1
