"""What is done where a rule begins to hold."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

import fastrank
from fastrank.alerts import Alert, Alerts, AlertWarning, below, halved, nonfinite

NAMES = ["layer.0", "layer.1", "head"]
FULL = np.array([100, 100, 10])


def see(alerts: Alerts, *ranks: list[int], start: int = 1) -> list[Alert]:
    """Rows of certified ranks; -1: not finite."""
    rows = np.array(ranks, dtype=float)
    return alerts.observe(np.arange(start, start + len(rows)), rows, rows, FULL, rows < 0)


def refuse(step: int, values: Mapping[str, float]) -> None:
    raise AssertionError("nothing is to be sent")


def test_an_alert_says_it_all() -> None:
    alerts = Alerts([below(0.1), nonfinite(), halved(5)], NAMES)
    found = see(alerts, [100, 100, 10], [100, 9, -1], [49, 8, -1])
    assert found == [
        Alert(2, "layer.1", "below_0.1", 9, 100, "step 2: layer.1: the rank, 9 of 100, is below 10 % of the full rank"),
        Alert(2, "head", "nonfinite", None, 10, "step 2: head: the matrix holds NaN or Inf"),
        Alert(2, "layer.1", "halved_in_5", 9, 100, "step 2: layer.1: the rank, 9 of 100, has halved within 5 steps"),
        Alert(3, "layer.0", "halved_in_5", 49, 100, "step 3: layer.0: the rank, 49 of 100, has halved within 5 steps"),
    ]
    assert see(alerts, [49, 8, -1], start=4) == []


def test_there_is_a_warning_for_each_rule() -> None:
    alerts = Alerts([below(0.1), nonfinite()], NAMES)
    found = see(alerts, [1, 2, -1])
    with pytest.warns(AlertWarning) as caught:
        assert alerts.act(found, refuse) is False
    assert [str(warning.message) for warning in caught] == [
        "step 1: layer.0: the rank, 1 of 100, is below 10 % of the full rank (and 1 other matrices)",
        "step 1: head: the matrix holds NaN or Inf",
    ]
    assert fastrank.AlertWarning is AlertWarning


def test_actions() -> None:
    sent: list[Any] = []
    called: list[Any] = []
    rules = [below(0.1, action=["log", "stop"]), nonfinite(called.append)]
    alerts = Alerts(rules, NAMES)
    assert alerts.act(see(alerts, [100, 100, -1]), refuse) is False  # and no warning
    assert [(alert.step, alert.name) for alert in called] == [(1, "head")]
    with pytest.warns(AlertWarning, match=r"layer.1: the rank, 5 of 100"):
        assert alerts.act(see(alerts, [100, 5, -1], start=2), lambda *point: sent.append(point)) is True
    assert sent == [(2, {"alert/below_0.1/layer.1": 1.0})]
    assert len(called) == 1


def test_what_a_function_raises_goes_up_after_all_else_is_done() -> None:
    def stop(alert: Alert) -> None:
        raise SystemExit(alert.message)

    sent: list[Any] = []
    alerts = Alerts([nonfinite(stop), below(0.1, "log")], NAMES)
    found = see(alerts, [-1, 5, 10])
    with pytest.warns(AlertWarning), pytest.raises(SystemExit, match=r"layer.0: the matrix holds NaN"):
        alerts.act(found, lambda *point: sent.append(point))
    assert len(sent) == 1
    assert see(alerts, [-1, 5, 10], start=2) == []  # nor does it come again


def test_only_the_matrices_that_are_named_are_looked_at() -> None:
    alerts = Alerts([nonfinite(names="layer.*"), below(0.1, names=["head", "*.1"])], NAMES)
    found = see(alerts, [1, 1, -1], [-1, 1, -1], [1, -1, 0])
    assert [(alert.step, alert.rule, alert.name) for alert in found] == [
        *((1, "below_0.1", "layer.1"), (2, "nonfinite", "layer.0")),
        *((3, "nonfinite", "layer.1"), (3, "below_0.1", "head")),
    ]


@pytest.mark.parametrize(
    ("rules", "error", "message"),
    [
        ([below(0.1), below(0.1)], ValueError, "two rules have one name; give one of them another by name="),
        ([below(0.1, names="blocks.*")], ValueError, r"below_0.1: names: no matrix matches 'blocks.\*'"),
        (["below"], TypeError, r"expected rules, such as fastrank.alerts.below\(0.1\), not 'below'"),
        ([below], TypeError, "expected rules"),
    ],
)
def test_bad_rules_are_named(rules: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Alerts(rules, NAMES)


def test_two_rules_of_a_kind_have_names() -> None:
    rules = [below(0.1), below(0.5), below(0.5, names="head", name="head_below_half")]
    found = see(Alerts(rules, NAMES), [100, 40, 4])
    assert [alert.rule for alert in found] == ["below_0.5", "below_0.5", "head_below_half"]


def test_a_rule_serves_two_runs() -> None:
    rule = halved(5)
    one, two = Alerts([rule], NAMES), Alerts([rule], NAMES)
    see(one, [100, 100, 10])
    assert see(two, [10, 10, 1], start=2) == []
    assert len(see(one, [10, 10, 1], start=2)) == 3


def test_a_state_is_plain_and_others_rules_begin_anew() -> None:
    alerts = Alerts([below(0.1), halved(100)], NAMES)
    see(alerts, [100, 5, 10], [100, 5, 10])
    state = json.loads(json.dumps(alerts.state_dict()))
    assert state["below_0.1"]["holding"] == ["layer.1"]
    other = Alerts([below(0.1), nonfinite(), halved(100, names="layer.*")], NAMES)
    other.load_state_dict(state)
    found = see(other, [40, 5, -1], start=3)  # of the fall from 100 that window knows nothing
    assert [(alert.rule, alert.name) for alert in found] == [("nonfinite", "head")]
    alerts.load_state_dict({})
    assert [alert.name for alert in see(alerts, [100, 5, 10])] == ["layer.1"]


def test_no_rows_no_alerts() -> None:
    empty = np.zeros((0, 3))
    assert Alerts([below(0.1)], NAMES).observe(np.zeros(0, dtype=int), empty, empty, FULL, empty < 0) == []
    assert Alerts([], NAMES).state_dict() == {}
