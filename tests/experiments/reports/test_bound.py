"""The theory's bound in the figures: its numbers, where it is drawn, and where it is said to say nothing."""

from collections.abc import Callable
from math import log
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from fastrank.experiments.reports.figures import steps
from fastrank.experiments.reports.figures.bound import average, bounds, sentence
from fastrank.experiments.reports.results import Results, read_results

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
    assert np.isnan(data.loc[30])  # 15 steps before, no norm was recorded
    assert data.loc[60:half].tolist() == pytest.approx([(2 * one + 100) / 3] * len(data.loc[60:half]))
    assert data.loc[half + 12 :].isna().all()
    rising = average(results, trial.id, "", half + np.arange(0.0, 90))  # a matrix of rank 64, and one of 100 less
    expected = np.clip(one + 4 * 0.8 * np.arange(90), None, 5 * one)
    means = (np.minimum(expected, 64) + 100 + np.minimum(expected, 100)) / 3
    assert rising.tolist() == pytest.approx(np.where(expected < 100, means, np.nan).tolist(), nan_ok=True)
    assert sum(line.get_ydata()[1] == pytest.approx((2 * one + 100) / 3) for line in drawing.figure.axes[0].lines) == 1
    assert drawing.data.loc[drawing.data["batch_size"] == 32, "bound"].isna().all()
    assert "is dash-dotted where it is below full rank (in 1 of 2 cells with weight decay): once" in drawing.caption
    assert "; in 1 it is between 4.9e+02 and 1.9e+03 at the highest learning rate" in drawing.caption


def test_it_says_nothing_until_training_is_as_old_as_it_asks(make_sweep: Callable[..., Any]) -> None:
    sweep = make_sweep(batch_size=[4], lr=[1.0], weight_decay=[0.5])
    results, one = read(sweep), 4 * log(2 / 1e-3) / 0.5
    at = average(results, sweep.trials[0].id, "", np.array([1.0, 15.0, 50.0, 1000.0]))  # it asks for 15.2 steps
    assert at.tolist() == pytest.approx([np.nan, np.nan, one, one], nan_ok=True)


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


def test_there_is_no_bound_while_a_norm_falls_by_half_in_the_meantime(make_sweep: Callable[..., Any]) -> None:
    """What is left of W is eps/2 of the norm it had, and not of the one it has. It asks for 15 steps."""
    sweep = make_sweep(batch_size=[4], lr=[1.0], weight_decay=[0.5], seed=[0, 1]).finish_all()
    for trial in sweep.trials:  # both seeds have to have settled
        history = sweep.history(trial)
        norm = np.exp2(-np.minimum(history["step"].to_numpy(), 600 + 300 * trial.seed) / 10)
        place = history.column_names.index("frobenius_norm")
        sweep.write_history(trial, history.set_column(place, "frobenius_norm", pa.array(norm)))
    data = steps.draw(read_results(sweep.folder)).data.set_index("step_last")["bound"]
    assert data.loc[:900].isna().all()
    assert data.loc[960:].notna().all()


def test_what_is_full_rank_to_the_last_bit_is_not_below_it(make_sweep: Callable[..., Any]) -> None:
    """The mean of three seeds' full rank of 96.4 is another number than the mean over the matrices."""
    layers = {"layers.0.weight": (100, 64), **{f"layers.{i}.weight": (100, 100) for i in range(1, 10)}}
    sweep = make_sweep(batch_size=[32], weight_decay=[0.01], seed=[0, 1, 2], layers=layers)
    drawing = steps.draw(read(sweep, patches=dict.fromkeys(layers, 1)))
    assert drawing.data["bound"].isna().all()
    assert "everywhere, and says nothing here" in drawing.caption


def test_cells_that_would_have_a_bound_are_not_said_to_have_none() -> None:
    cells = {"batch_size": [32.0, 4.0], "lr": 1.0, "weight_decay": 0.01, "momentum": 0.0}
    known = pd.DataFrame({**cells, "least": [4e4, 60.0], "most": [4e4, 243.0], "full_most": 100.0})
    said = sentence(known, 0)
    assert "everywhere" not in said
    assert "in 1 it is 4.0e+04" in said
    assert "in 1 it would be below full rank, but never holds" in said
