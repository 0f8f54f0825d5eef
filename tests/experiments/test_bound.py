"""The theory's bound in the figures: its numbers, where it is drawn, and where it is said to say nothing."""

from collections.abc import Callable
from math import log
from typing import Any

import numpy as np
import pytest
from fastrank.experiments.figures import steps
from fastrank.experiments.figures.bound import average, bounds, sentence
from fastrank.experiments.results import Results, read_results

PATCHES = {"layers.0.weight": 1, "layers.1.weight": 4, "layers.2.weight": 1}


def read(sweep: Any, **result: Any) -> Results:
    return read_results(sweep.finish_all(**result).folder)


def test_bounds_are_the_formula(make_sweep: Callable[..., Any]) -> None:
    results = read(make_sweep(batch_size=[8]), patches=PATCHES)
    known = bounds(results, results.done).set_index("weight_decay")
    one = 8 * log(2 / 1e-3) / (0.5 * 0.01)
    assert known.loc[0.01, ["least", "most"]].tolist() == pytest.approx([one, 4 * one])
    assert known.loc[0.0, "least"] == float("inf")
    drawing = steps.draw(results)
    assert drawing.data["bound"].isna().all()
    assert (
        f"is between {one:.1e} and {4 * one:.1e} at the highest learning rate, above the full rank of every matrix "
        "(at most 100) everywhere, and says nothing here."
    ) in drawing.caption


def test_a_bound_below_full_rank_is_drawn_from_where_it_holds_to_where_it_does_not(
    make_sweep: Callable[..., Any],
) -> None:
    one = 4 * log(2 / 1e-3) / 0.5  # 60.8: below the full ranks 64 and 100; four times that is above
    sweep = make_sweep(batch_size=[4, 32], lr=[1.0], weight_decay=[0.5], milestones=(6,))
    results, trial = read(sweep, patches=PATCHES), sweep.trials[0]
    drawing = steps.draw(results)
    data = drawing.data[drawing.data["batch_size"] == 4].set_index("step_last")["bound"]
    half = trial.steps // 2  # where lr falls to a fifth, and the bound begins to rise to five times what it was
    assert data.loc[:half].tolist() == pytest.approx([(2 * one + 100) / 3] * len(data.loc[:half]))
    assert data.loc[half + 12 :].isna().all()
    rising = average(results, trial.id, "", half + np.arange(0.0, 90))  # a matrix of rank 64, and one of 100 less
    expected = np.clip(one + 4 * 0.8 * np.arange(90), None, 5 * one)
    assert rising.tolist() == pytest.approx(((np.minimum(expected, 64) + 100 + np.minimum(expected, 100)) / 3).tolist())
    assert sum(line.get_ydata()[0] == pytest.approx((2 * one + 100) / 3) for line in drawing.figure.axes[0].lines) == 1
    assert drawing.data.loc[drawing.data["batch_size"] == 32, "bound"].isna().all()
    assert "is dash-dotted where it is below full rank (in 1 of 2 cells with weight decay): once" in drawing.caption
    assert "elsewhere it is between 4.9e+02 and 1.9e+03 at the highest learning rate" in drawing.caption


def test_it_says_nothing_until_training_is_as_old_as_it_asks(make_sweep: Callable[..., Any]) -> None:
    sweep = make_sweep(batch_size=[4], lr=[1.0], weight_decay=[0.5])
    results, one = read(sweep), 4 * log(2 / 1e-3) / 0.5
    at = average(results, sweep.trials[0].id, "", np.array([1.0, 15.0, 16.0, 1000.0]))  # it asks for 15.2 steps
    assert at.tolist() == pytest.approx([88, 88, one, one])


@pytest.mark.parametrize(
    ("grid", "result"),
    [
        ({}, {"patches": None}),
        ({}, {"patches": {"layers.0.weight": 1}}),
        ({"momentum": [0.9]}, {}),
        ({"weight_decay": [0.0]}, {}),
        ({"weight_decay": [3.0]}, {}),  # lr wd above 1: W does not shrink
    ],
)
def test_what_the_theory_does_not_cover_has_no_bound(
    make_sweep: Callable[..., Any], grid: dict[str, list[Any]], result: dict[str, Any]
) -> None:
    results = read(make_sweep(**{"batch_size": [32], "lr": [0.5], "weight_decay": [0.01], **grid}), **result)
    assert sentence(bounds(results, results.done), 0) == ""
    assert "bound" not in steps.draw(results).caption


def test_a_tolerance_of_its_own_has_a_bound_of_its_own(make_sweep: Callable[..., Any]) -> None:
    results = read(make_sweep(batch_size=[32], weight_decay=[0.01], tolerances=(1e-3, 0.04)))
    [first], [second] = (bounds(results, results.done, suffix)["least"] for suffix in results.suffixes)
    assert first / second == pytest.approx(log(2 / 1e-3) / log(2 / 0.04))
