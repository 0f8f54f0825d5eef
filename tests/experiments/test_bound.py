"""The theory's bound in the figures: its numbers, where it is drawn, and where it is said to say nothing."""

from collections.abc import Callable
from math import log
from typing import Any

import pytest
from fastrank.experiments.figures import steps
from fastrank.experiments.figures.bound import biting, bounds, sentence
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
    assert known["average"].tolist() == known["full_rank"].tolist() == [88.0, 88.0]
    assert biting(known).empty
    caption = steps.draw(results).caption
    assert f"is between {one:.1e} and {4 * one:.1e}, above the full rank of every matrix (at most 100)" in caption
    assert "everywhere, and says nothing here." in caption


def test_a_bound_below_full_rank_is_drawn_at_its_mean_over_the_matrices(make_sweep: Callable[..., Any]) -> None:
    results = read(make_sweep(batch_size=[4, 32], lr=[1.0], weight_decay=[0.5]), patches=PATCHES)
    known = bounds(results, results.done)
    one = 4 * log(2 / 1e-3) / 0.5  # 60.8: below the full ranks 64 and 100; four times that is above
    assert known["average"].tolist() == pytest.approx([(one + 100 + one) / 3, 88.0])
    assert biting(known)["batch_size"].tolist() == [4]
    drawing = steps.draw(results)
    lines = [line for line in drawing.figure.axes[0].lines if line.get_ydata()[0] == pytest.approx((2 * one + 100) / 3)]
    assert [list(line.get_xdata()) for line in lines] == [[0, 1]]  # from side to side
    assert (
        "is dash-dotted where it is below full rank (1 of 2 cells with weight decay); elsewhere it is"
        in drawing.caption
    )


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
    assert sentence(bounds(results, results.done)) == ""
    assert "bound" not in steps.draw(results).caption


def test_a_tolerance_of_its_own_has_a_bound_of_its_own(make_sweep: Callable[..., Any]) -> None:
    results = read(make_sweep(batch_size=[32], weight_decay=[0.01], tolerances=(1e-3, 0.04)))
    [first], [second] = (bounds(results, results.done, suffix)["least"] for suffix in results.suffixes)
    assert first / second == pytest.approx(log(2 / 1e-3) / log(2 / 0.04))
