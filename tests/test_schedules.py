"""Which steps are due by a rule."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

import fastrank
from fastrank.schedules import LEAP, check_rule, epochs, logarithmic, multiples, steps_due


def due(rule, up_to):
    return [step for step in range(1, up_to + 1) if rule(step)]


def test_a_number_stands_for_its_multiples():
    assert check_rule(3, "every") == multiples(3)
    assert due(multiples(3), 10) == [3, 6, 9]


def test_logarithmic_steps_are_evenly_spaced():
    assert due(logarithmic(4), 1000) == [1, 2, 3, 6, 10, 18, 32, 56, 100, 178, 316, 562, 1000]
    for per_decade in (1, 3, 20, 1000):
        expected = {round(10 ** (i / per_decade)) for i in range(5 * per_decade + 1)}
        assert due(logarithmic(per_decade), 100_000) == sorted(expected)


def test_logarithmic_steps_are_no_further_apart_than_the_longest():
    found = due(logarithmic(4, longest=50), 1000)
    assert max(b - a for a, b in pairwise(found)) == 50
    assert set(due(logarithmic(4), 1000)) <= set(found)


@pytest.mark.parametrize(("every", "expected"), [(1, [7, 14, 21]), (2, [14]), (0.5, [4, 7, 11, 14, 18, 21])])
def test_ends_of_epochs(every, expected):
    assert due(epochs(7, every), 21) == expected


def test_more_often_than_there_are_steps_is_every_step():
    assert due(epochs(3, 0.1), 7) == list(range(1, 8))


@pytest.mark.parametrize("every", [0.1, 1 / 3, 0.7, 3])
def test_so_many_epochs_have_so_many_dues(every):
    """0.1 and 1/3 are no binary fractions: what is counted wrongly in one epoch would show in a thousand."""
    assert len(due(epochs(30, every), 30_000)) == math.floor(1000 / every + 1e-6)


@pytest.mark.parametrize("rule", [multiples(4), logarithmic(5), epochs(6, 0.4)])
def test_steps_that_are_due_among_several(rule):
    for after in range(40):
        for up_to in range(after, 45):
            assert steps_due(rule, after, up_to) == [step for step in range(after + 1, up_to + 1) if rule(step)]


@pytest.mark.parametrize("rule", [multiples(7), lambda step: step % 7 == 0])
def test_of_a_leap_the_last_steps_count(rule):
    found = steps_due(rule, 0, 10**12)
    assert found[-1] == 10**12 // 7 * 7
    assert 0 < len(found) <= LEAP + 1


@pytest.mark.parametrize("every", ["2", 1.5, None, True, logarithmic])
def test_what_is_no_rule_is_an_error_that_names_the_argument(every):
    with pytest.raises(TypeError, match=r"^every: .*fastrank\.schedules"):
        fastrank.RankTracker(nn.Linear(3, 2), every=every)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fastrank.RankTracker(nn.Linear(3, 2), every=0), "every: must be at least 1"),
        (lambda: logarithmic(0), "per_decade"),
        (lambda: logarithmic(2, longest=0), "longest"),
        (lambda: epochs(0), "steps_per_epoch"),
        (lambda: epochs(10, 0), "every: must be above 0"),
        (lambda: epochs(10, math.nan), "every: must be above 0"),
        (lambda: epochs(10, math.inf), "every: must be above 0"),
    ],
)
def test_numbers_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def recorded(tracker):
    return sorted(set(tracker.to_arrow()["step"].to_pylist()))


def test_a_tracker_measures_by_a_rule():
    tracker = fastrank.RankTracker(nn.Linear(3, 2), every=logarithmic(4))
    for _ in range(40):
        tracker.step()
    assert recorded(tracker) == [1, 2, 3, 6, 10, 18, 32]


def test_spectra_have_a_rule_of_their_own():
    tracker = fastrank.RankTracker(
        nn.Linear(3, 2), every=4, spectrum=["effective_rank"], spectrum_every=lambda step: step == 7
    )
    for _ in range(9):
        tracker.step()
    values = dict(zip(*(tracker.to_arrow()[key].to_pylist() for key in ("step", "effective_rank")), strict=True))
    assert {step: value is not None for step, value in values.items()} == {1: True, 4: False, 7: True, 8: False}


def test_spectra_are_due_with_the_rows():
    """Not at every step, if the rows are not."""
    tracker = fastrank.RankTracker(nn.Linear(3, 2), every=logarithmic(4), spectrum=["effective_rank"])
    for _ in range(40):
        tracker.step()
    assert recorded(tracker) == [1, 2, 3, 6, 10, 18, 32]
    assert not tracker.to_arrow()["effective_rank"].null_count


class Twice:
    """Due at ever longer intervals, which it remembers."""

    def __init__(self):
        self.next, self.gap = 2, 1

    def __call__(self, step):
        if step < self.next:
            return False
        self.next, self.gap = step + 2 * self.gap, 2 * self.gap
        return True

    def state_dict(self):
        return {"next": self.next, "gap": self.gap}

    def load_state_dict(self, state):
        self.next, self.gap = state["next"], state["gap"]


def test_a_rule_is_asked_once_about_each_step():
    """Also where a tracker has to know before the step, as it has for updates, and where it logs."""
    asked, logged = [], []
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rules = {"every": lambda step: asked.append(step) or True, "log_every": lambda step: logged.append(step) or True}
    told = []
    tracker = fastrank.RankTracker(
        model, optimizer, of=["weight", "update"], log=[lambda step, values: told.append(step)], **rules
    )
    for _ in range(5):
        model.weight.grad = torch.ones(2, 3)
        optimizer.step()
    tracker.close()
    assert asked == logged == told == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("rule", [Twice, lambda: logarithmic(3), lambda: 5])
def test_a_schedule_goes_on_with_the_state(rule):
    model = nn.Linear(3, 2)
    whole = fastrank.RankTracker(model, every=rule())
    first = fastrank.RankTracker(model, every=rule())
    for _ in range(11):
        whole.step()
        first.step()
    second = fastrank.RankTracker(model, every=rule())
    second.load_state_dict(first.state_dict())
    for _ in range(60):
        whole.step()
        second.step()
    assert recorded(second) == recorded(whole)
