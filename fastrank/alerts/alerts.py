"""Alerts: shows rules the rows that have arrived, and does what they ask for."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..callers import users_stacklevel
from .rule import Alert, AlertWarning, Bools, Rows, Rule


class Alerts:
    """The rules of one run, and for which matrices each of them holds at present.

    Args:
        rules: each a `Rule`, or a function of `Rows` that says where it holds, bools `(n, m)`: its name is the
            function's, and it warns. Copies are made: a rule may serve several runs.
        names: the matrices.

    Raises:
        TypeError: a rule is neither. ValueError: two rules have one name, or a glob matches no matrix.
    """

    def __init__(self, rules: Sequence[Rule | Callable[[Rows], Bools]], names: Sequence[str]) -> None:
        self._names = list(names)
        self._rules = {rule.name: rule for rule in map(_own, rules)}
        if len(self._rules) < len(rules):
            raise ValueError("alerts: two rules have one name; give one of them another by name=")
        self._chosen = {rule.name: self._choose(rule) for rule in self._rules.values()}
        self._holding = {name: np.zeros(len(chosen), dtype=bool) for name, chosen in self._chosen.items()}

    def observe(
        self,
        steps: NDArray[np.int64],
        lower: NDArray[Any],
        upper: NDArray[Any],
        full: NDArray[Any],
        nonfinite: Bools,
        absent: Bools | None = None,
    ) -> list[Alert]:
        """What begins to hold in rows that have arrived: an alert for each rule and matrix, in order of the steps.

        Args:
            steps: (n,), increasing, above those of earlier calls. Many rows cost little more than one.
            lower, upper: (n, matrices), bounds of the rank, of any numeric dtype; without meaning where not finite.
            full: (matrices,), min(rows, cols).
            nonfinite: (n, matrices) bool.
            absent: (n, matrices) bool, where there was no matrix: of such a row no rule says anything (default: none).
        """
        there = np.ones_like(nonfinite) if absent is None else ~absent
        everything, found = Rows(steps, lower, upper, full, nonfinite | ~there), []
        for name, rule in self._rules.items() if len(steps) else ():
            chosen = self._chosen[name]
            rows = everything if len(chosen) == len(self._names) else everything.columns(chosen)
            holds, ceases = (answer & there[:, chosen] for answer in rule.holds(rows))
            begins, self._holding[name] = _begin(self._holding[name], holds, ceases)
            if begins is not None:
                found += [self._alert(rule, rows, i, j) for i, j in np.argwhere(begins)]
        return sorted(found, key=lambda alert: alert.step)

    def act(self, alerts: Sequence[Alert], send: Callable[[int, Mapping[str, float]], None]) -> bool:
        """Do what the rules of these alerts ask for.

        There is one warning for all alerts of a rule. Functions are called last, in order; what one raises goes up to
        whoever called this, and the functions after it are not called.

        Args:
            send: `send(step, values)` to all sinks.

        Returns:
            Whether training is to stop.
        """
        stop = False
        calls: list[tuple[Callable[[Alert], object], Alert]] = []
        for name in dict.fromkeys(alert.rule for alert in alerts):
            mine, actions = [alert for alert in alerts if alert.rule == name], self._rules[name].actions
            if "log" in actions:
                for alert in mine:
                    send(alert.step, {f"alert/{alert.rule}/{alert.name}": 1.0})
            stop |= "stop" in actions
            calls += [(action, alert) for action in actions if callable(action) for alert in mine]
            if any(isinstance(action, str) for action in actions):
                others = f" (and {len(mine) - 1} other matrices)" if len(mine) > 1 else ""
                warnings.warn(mine[0].message + others, AlertWarning, stacklevel=users_stacklevel())
        for action, alert in calls:
            action(alert)
        return stop

    def state_dict(self) -> dict[str, Any]:
        """By rule, for which matrices it holds, and what it remembers: strings, numbers, lists."""
        return {
            name: {
                "holding": [self._names[i] for i in self._chosen[name][self._holding[name]]],
                "matrices": [self._names[i] for i in self._chosen[name]],
                "rule": rule.state_dict(),
            }
            for name, rule in self._rules.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from such a state. A rule that it does not have, or had for other matrices, begins anew."""
        for name, rule in self._rules.items():
            chosen = [self._names[i] for i in self._chosen[name]]
            saved = state.get(name, {})
            if saved.get("matrices") != chosen:
                saved = {"holding": [], "rule": {}}
            self._holding[name] = np.isin(chosen, saved["holding"])
            rule.load_state_dict(saved["rule"])

    def _choose(self, rule: Rule) -> NDArray[np.intp]:
        """The places of the matrices that a rule looks at."""
        for glob in rule.names or ():
            if not any(fnmatchcase(name, glob) for name in self._names):
                raise ValueError(f"alerts, {rule.name}: names: no matrix matches {glob!r}")
        globs = ("*",) if rule.names is None else rule.names
        return np.flatnonzero([any(fnmatchcase(name, glob) for glob in globs) for name in self._names])

    def _alert(self, rule: Rule, rows: Rows, i: int, j: int) -> Alert:
        step, name, full = int(rows.steps[i]), self._names[self._chosen[rule.name][j]], int(rows.full[j])
        rank = None if rows.nonfinite[i, j] else int(rows.upper[i, j])
        return Alert(step, name, rule.name, rank, full, f"step {step}: {rule.says(name, rank, full)}")


class _FunctionRule(Rule):
    def __init__(self, function: Callable[[Rows], Bools]) -> None:
        super().__init__(getattr(function, "__name__", type(function).__name__))
        self._function = function

    def holds(self, rows: Rows) -> tuple[Bools, Bools]:
        holds = np.asarray(self._function(rows), dtype=bool)
        return holds, ~holds


def _own(rule: Rule | Callable[[Rows], Bools]) -> Rule:
    """A copy of a rule, at its beginning."""
    if isinstance(rule, type) or not (isinstance(rule, Rule) or callable(rule)):
        raise TypeError(f"alerts: expected rules, such as fastrank.alerts.below(0.1), not {rule!r}")
    own = copy(rule) if isinstance(rule, Rule) else _FunctionRule(rule)
    own.load_state_dict({})
    return own


def _begin(before: Bools, holds: Bools, ceases: Bools) -> tuple[Bools | None, Bools]:
    """Where `(n, m)` a rule begins to hold (None: nowhere), and of which matrices it holds in the end.

    Args:
        before: (m,), of which matrices it holds at the beginning.
        holds, ceases: (n, m), as `Rule.holds` answers.
    """
    if not holds.any():
        return None, before & ~ceases.any(0)
    last = np.where(holds | ceases, np.arange(len(holds))[:, None], -1)
    np.maximum.accumulate(last, axis=0, out=last)  # up to each row, the last that changed anything
    state = np.where(last >= 0, np.take_along_axis(holds, last.clip(0), axis=0), before)
    begins = holds & ~np.concatenate((before[None], state[:-1]))
    return (begins if begins.any() else None), state[-1]
