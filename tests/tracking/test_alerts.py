"""Alerts that a tracker gives while a model trains."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fastrank
from fastrank.alerts import below, nonfinite


def falling(**arguments):
    """A tracker and a function that sets the rank of the one matrix, and takes a step."""
    model = nn.Linear(8, 8, bias=False)
    tracker = fastrank.RankTracker(model, **arguments)

    def step(rank):
        with torch.no_grad():
            model.weight.copy_(torch.diag(torch.tensor([1.0] * rank + [0.0] * (8 - rank))))
        tracker.step()

    return tracker, model, step


def test_a_function_is_called_at_the_step_itself():
    seen = []
    _, _, step = falling(alerts=[below(0.5, seen.append)])
    for rank in (8, 5, 4, 3, 2):
        step(rank)
        if rank == 3:
            assert [(alert.step, alert.name, alert.rank, alert.full_rank) for alert in seen] == [(4, "weight", 3, 8)]
    assert len(seen) == 1, "it has not ceased to hold"


def test_an_alert_stops_a_loop():
    tracker, model, step = falling(alerts=[nonfinite("stop")])
    step(8)
    assert not tracker.should_stop
    with torch.no_grad():
        model.weight[0, 0] = torch.nan
    with pytest.warns(fastrank.AlertWarning, match="weight"):
        tracker.step()
    assert tracker.should_stop


def test_a_warning_is_shown_at_the_line_of_the_users_that_took_the_step():
    model = nn.Linear(8, 8, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1)
    model(torch.ones(1, 8)).sum().backward()

    def refuse(step, values):
        raise OSError("no space")

    tracker = fastrank.RankTracker(model, optimizer, alerts=[below(1)], log=[refuse])
    with torch.no_grad():
        model.weight.zero_()
    with pytest.warns(fastrank.AlertWarning) as caught:
        optimizer.step()
    with pytest.warns(fastrank.sinks.SinkWarning) as closing:
        tracker.close()
    assert {warning.filename for warning in [*caught, *closing]} == {__file__}


def test_what_is_not_there_is_not_taken_for_nan():
    """A gradient that a step does not have, and an update before any step, change nothing of what is known."""
    seen = []
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    kinds = ("weight", "gradient", "update")
    rules = [nonfinite(seen.append), below(0.5, seen.append)]
    tracker = fastrank.RankTracker(model, optimizer, of=kinds, initial=True, alerts=rules)
    for used in (1, 2, 1):  # layers
        optimizer.zero_grad()
        model[:used](torch.eye(4)).square().sum().backward()
        optimizer.step()
        assert tracker.scalars()["rank/nonfinite"] == 0
        assert tracker.latest()["gradient/1.weight"]["status"] == ("OK" if used == 2 else "ABSENT")
        assert {alert.name for alert in seen} <= {"update/1.weight"}, "whose rank is 0, as it has not been trained"
    model[0].weight.grad[0, 0] = torch.nan
    optimizer.step()
    assert "gradient/0.weight" in {alert.name for alert in seen}
    assert tracker.scalars()["rank/nonfinite"] == 3


def test_an_alert_reaches_the_sinks():
    told = []
    tracker, _, step = falling(alerts=[below(0.5, "log")], log=[lambda step, values: told.append((step, values))])
    step(8)
    with pytest.warns(fastrank.AlertWarning):
        step(1)
    tracker.close()
    assert (2, {"alert/below_0.5/weight": 1.0}) in told
    assert [values["rank/mean"] for _, values in told if "rank/mean" in values] == [1, 0.125]


def test_a_function_may_raise():
    def refuse(alert):
        raise RuntimeError(alert.message)

    _, _, step = falling(alerts=[below(0.5, refuse)])
    step(8)
    with pytest.raises(RuntimeError, match="weight"):
        step(1)


def test_an_alert_is_given_once_though_the_run_was_interrupted():
    seen = []
    first, _, step = falling(alerts=[below(0.5, seen.append)])
    step(8)
    step(1)
    second, _, step = falling(alerts=[below(0.5, seen.append)])
    second.load_state_dict(first.state_dict())
    step(1)
    step(8)
    step(1)
    assert [alert.step for alert in seen] == [2, 5]


@pytest.mark.parametrize(("name", "value"), [("alerts", below(0.5)), ("log", "tensorboard")])
def test_lists_are_lists(name, value):
    with pytest.raises(TypeError, match=f"^{name}: expected a list"):
        falling(**{name: value})
