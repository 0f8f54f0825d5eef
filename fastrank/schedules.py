"""Schedules: rules that say after which steps something is due, where a number of steps is too plain.

    tracker = fastrank.RankTracker(model, optimizer, every=fastrank.schedules.logarithmic(20))

The arguments `every`, `spectrum_every` and `log_every` take a number n, which stands for the multiples of n, or a rule:
any function of a step's number that says whether the step is due. The first step is due in any case. A rule is asked
for one step after the other, and should answer from the number alone: a tracker that goes on from a saved state asks
for the next steps only. One that has to remember something has `state_dict()` and `load_state_dict(state)`, and what
it remembers is then saved with the tracker.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

from .arguments import check_count

__all__ = ["epochs", "logarithmic", "multiples"]

LEAP = 1024
"""Steps about which a rule is asked at most, where the number of a step is given and far from the last one's."""

Rule = Callable[[int], bool]
"""Whether something is due after the step of this number; steps are counted from 1."""


@dataclass(frozen=True)
class multiples:
    """Due at each multiple of n: what the number n stands for.

    Args:
        n: a number of steps, at least 1.
    """

    n: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", check_count(self.n, "n", 1))

    def __call__(self, step: int) -> bool:
        return step % self.n == 0


@dataclass(frozen=True)
class logarithmic:
    """Due at steps that are evenly spaced on a logarithmic axis: nearly all at first, and ever fewer.

    Args:
        per_decade: how many steps are due between 10^n and 10^(n + 1); in the first decades fewer, as there are no
            more steps (default 20).
        longest: steps from one that is due to the next at most, so that a long training is seen to its end: each
            multiple of this is due as well (default None: no limit).
    """

    per_decade: int = 20
    longest: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "per_decade", check_count(self.per_decade, "per_decade", 1))
        if self.longest is not None:
            object.__setattr__(self, "longest", check_count(self.longest, "longest", 1))

    def __call__(self, step: int) -> bool:
        if self.longest is not None and step % self.longest == 0:
            return True
        place = round(self.per_decade * math.log10(step))
        return any(round(10 ** (i / self.per_decade)) == step for i in (place - 1, place, place + 1))


@dataclass(frozen=True)
class epochs:
    """Due at the end of each epoch, or of several, or several times in one.

    Args:
        steps_per_epoch: optimizer steps in an epoch: batches, over batches whose gradients are accumulated.
        every: epochs from one step that is due to the next (default 1). 5 is every fifth epoch, 0.1 ten times an epoch.
    """

    steps_per_epoch: int
    every: float = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps_per_epoch", check_count(self.steps_per_epoch, "steps_per_epoch", 1))
        if isinstance(self.every, bool) or not isinstance(self.every, int | float):
            raise TypeError(f"every: expected a number of epochs, not {self.every!r}")
        if not 0 < self.every < math.inf:
            raise ValueError(f"every: must be above 0 epochs and finite, not {self.every}")

    @cached_property
    def _between(self) -> tuple[int, int]:
        return (Fraction(self.every).limit_denominator(1_000_000) * self.steps_per_epoch).as_integer_ratio()

    def __call__(self, step: int) -> bool:
        steps, dues = self._between  # so many are due in so many steps
        return step * dues // steps > (step - 1) * dues // steps


def check_rule(value: Any, name: str) -> Rule:
    """The rule that an argument stands for; errors call it `name`.

    Raises:
        TypeError: neither an integer nor callable. ValueError: a number below 1.
    """
    if callable(value) and not isinstance(value, type):
        return value  # type: ignore[no-any-return]
    try:
        return multiples(check_count(value, name, 1))
    except TypeError:
        raise TypeError(
            f"{name}: expected a number of steps or a rule, such as fastrank.schedules.logarithmic(20), not {value!r}"
        ) from None


def steps_due(rule: Rule, after: int, up_to: int) -> list[int]:
    """The steps after `after`, up to `up_to`, that are due; of a leap over many steps, the last ones of them."""
    if isinstance(rule, multiples):
        first = max(after // rule.n + 1, up_to // rule.n - LEAP)
        return list(range(first * rule.n, up_to + 1, rule.n))
    return [step for step in range(max(after, up_to - LEAP) + 1, up_to + 1) if rule(step)]


def state_of(rule: Rule) -> Any:
    """What a rule remembers; None for one that answers from the step's number alone."""
    remembers = getattr(rule, "state_dict", None)
    return remembers() if callable(remembers) else None


def load_state_of(rule: Rule, state: Any) -> None:
    """Have a rule remember what `state_of` returned."""
    if state is not None:
        rule.load_state_dict(state)  # type: ignore[attr-defined]  # it has what it has saved
