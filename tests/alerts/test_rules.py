"""Where rules hold, against definitions written out row by row, whichever blocks the rows come in."""

from typing import Any

import numpy as np
import pytest

from fastrank.alerts import Alert, Alerts, Rows, Rule, below, halved, nonfinite

NAMES = ["a", "b", "c", "d"]
FULL = np.array([64, 64, 10, 1])


def walk(seed: int, n: int = 400, *, uncertain: int = 0) -> tuple[np.ndarray, ...]:
    """Ranks that fall, rise and jump; every twentieth row of a matrix is not finite, where ranks are -1."""
    rng = np.random.default_rng(seed)
    steps = np.cumsum(rng.choice([1, 1, 1, 2, 7], n))
    lower = np.cumsum(rng.choice([-6, -1, 0, 1, 5], (n, 4)), axis=0) % (FULL + 1)
    lower[rng.random((n, 4)) < 0.02] = 0
    upper = np.minimum(lower + rng.integers(0, uncertain + 1, (n, 4)), FULL)
    bad = rng.random((n, 4)) < 0.05
    return steps, np.where(bad, -1, lower).astype(float), np.where(bad, -1, upper).astype(float), bad


def observe(alerts: Alerts, rows: tuple[np.ndarray, ...], sizes: Any) -> list[Alert]:
    """In blocks of these sizes, by turns."""
    steps, lower, upper, bad = rows
    found, start, turn = [], 0, 0
    while start < len(steps):
        end = start + sizes[turn % len(sizes)]
        found += alerts.observe(steps[start:end], lower[start:end], upper[start:end], FULL, bad[start:end])
        start, turn = end, turn + 1
    return found


def expected(rule: Rule, rows: tuple[np.ndarray, ...]) -> list[tuple[int, str]]:
    """The definitions, one row after the other."""
    steps, lower, upper, bad = rows
    found = []
    for j, name in enumerate(NAMES):
        holding = False
        for i, step in enumerate(steps):
            if isinstance(rule, nonfinite):
                holds, ceases = bad[i, j], not bad[i, j]
            elif bad[i, j]:
                continue
            elif isinstance(rule, below):
                limit = rule.share * FULL[j]
                holds, ceases = upper[i, j] < limit, lower[i, j] >= min(1.1 * limit, FULL[j])
            else:
                assert isinstance(rule, halved)
                window = (steps >= step - rule.within) & (steps <= step) & ~bad[:, j]
                largest = lower[window, j].max()
                holds = largest > 0 and upper[i, j] <= largest / 2
                ceases = largest == 0 or 2 * lower[i, j] > 1.1 * largest
            if holds and not holding:
                found.append((int(step), name))
            holding = bool(holds or (holding and not ceases))
    return sorted(found)


@pytest.mark.parametrize("uncertain", [0, 3])
@pytest.mark.parametrize("sizes", [(1,), (7, 1, 64), (400,)])
@pytest.mark.parametrize("rule", [below(0.25), below(1), nonfinite(), halved(1), halved(5), halved(32)])
def test_rules_are_their_definitions(rule: Rule, sizes: tuple[int, ...], uncertain: int) -> None:
    rows = walk(seed=len(sizes) + uncertain, uncertain=uncertain)
    found = observe(Alerts([rule], NAMES), rows, sizes)
    assert sorted((alert.step, alert.name) for alert in found) == expected(rule, rows)
    assert [alert.step for alert in found] == sorted(alert.step for alert in found)
    assert len(found) > 5


@pytest.mark.parametrize("within", [33, 64, 100, 1000, 12345])
def test_a_long_window_is_never_too_long_and_hardly_too_short(within: int) -> None:
    rng = np.random.default_rng(within)
    for distance in (within + 1, within + 2, within // 2, int(0.93 * within)):
        start = int(rng.integers(0, 10**6))
        steps, ranks = np.array([start, start + distance]), np.array([[64.0] * 4, [32, 32, 10, 1]])
        for together in (True, False):
            found = observe(Alerts([halved(within)], NAMES), (steps, ranks, ranks, ranks < 0), (2 if together else 1,))
            assert [alert.name for alert in found] == ([] if distance > within else ["a", "b", "c", "d"])


@pytest.mark.parametrize("within", [3, 50, 200])
def test_a_state_continues(within: int) -> None:
    rows = walk(seed=within)
    rules = [below(0.25), nonfinite(), halved(within)]
    whole = observe(Alerts(rules, NAMES), rows, (400,))
    before, after = Alerts(rules, NAMES), Alerts(rules, NAMES)
    first = observe(before, tuple(part[:217] for part in rows), (50,))
    after.load_state_dict(before.state_dict())
    assert first + observe(after, tuple(part[217:] for part in rows), (50,)) == whole
    anew = observe(Alerts(rules, NAMES), tuple(part[217:] for part in rows), (50,))
    assert first + anew != whole


def test_a_rank_that_wavers_at_the_threshold_makes_one_alert() -> None:
    ranks = np.array([40, 31, 32, 33, 31, 35, 36, 31.0])[:, None]
    rows = (np.arange(8), ranks, ranks, ranks < 0)
    alerts = Alerts([below(0.5)], ["a"])
    found = alerts.observe(*rows[:3], np.array([64]), rows[3])
    assert [(alert.step, alert.rank) for alert in found] == [(1, 31), (7, 31)]  # 36 is a tenth above 32


def test_what_is_not_certain_makes_no_alert() -> None:
    lower, upper = np.array([[10.0], [10]]), np.array([[32.0], [31]])
    found = Alerts([below(0.5)], ["a"]).observe(np.arange(2), lower, upper, np.array([64]), lower < 0)
    assert [(alert.step, alert.rank) for alert in found] == [(1, 31)]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: below("a"), TypeError, "alerts, below: share: expected a number"),
        (lambda: below(0), ValueError, "share: must be above 0 and at most 1, not 0"),
        (lambda: below(10), ValueError, "at most 1, not 10"),
        (lambda: below(float("nan")), ValueError, "not nan"),
        (lambda: halved(0), ValueError, "within: must be at least 1"),
        (lambda: halved(1.5), TypeError, "within: expected an integer"),
        (lambda: nonfinite("halt"), ValueError, "expected 'warn', 'log', 'stop' or a function, not 'halt'"),
        (lambda: nonfinite(["log", 3]), TypeError, "expected a function or a word, not 3"),
        (lambda: nonfinite(3), TypeError, "expected a function or a word, not 3"),
    ],
)
def test_bad_arguments_are_named(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_a_rule_of_ones_own() -> None:
    class Full(Rule):
        """The rank is full."""

        def holds(self, rows: Rows) -> Any:
            full = rows.lower >= rows.full
            return full, ~full

    def odd(rows: Rows) -> Any:
        return (rows.upper % 2 == 1) & ~rows.nonfinite

    ranks = np.array([[63.0, 8], [64, 8], [64, 7]])
    alerts = Alerts([Full("full"), odd], ["a", "b"])
    found = alerts.observe(np.arange(3), ranks, ranks, np.array([64, 8]), ranks < 0)
    assert [(alert.step, alert.rule, alert.name) for alert in found] == [
        *((0, "full", "b"), (0, "odd", "a"), (1, "full", "a"), (2, "odd", "b")),
    ]
    assert found[0].message == "step 0: b: full: rank 8 of 8"
