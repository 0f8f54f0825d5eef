"""The numbers under every figure are the planted ones."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest

from fastrank.experiments.reports.figures import accuracy, draw, heat_maps, lines, spectrum, steps, training
from fastrank.experiments.reports.figures.draw import draw_figures
from fastrank.experiments.reports.results import Results, read_results

FULL = {"layers.0.weight": 64, "layers.1.weight": 100, "layers.2.weight": 100}
ACCURACIES = [0.5 + epoch / 30 for epoch in range(12)]
NAMES = [
    "rank_map_batch_size_lr",
    "rank_map_weight_decay_batch_size",
    "rank_map_weight_decay_lr",
    "rank_by_batch_size",
    "rank_over_steps",
    "rank_by_batch_size@0.04",
    "rank_over_steps@0.04",
    "rank_against_accuracy",
    "rank_and_accuracy",
    "rank_by_matrix",
    "spectrum",
    "rank_by_matrix_corners",
]


@pytest.fixture
def _unwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn and no files made of them, which takes most of the time."""
    monkeypatch.setattr(draw, "save", lambda name, drawing, folder: b"<svg>")


def average(sweep: Any, trial: Any, step: int, suffix: str = "") -> float:
    return float(np.mean([sweep.rank(trial, full, step, suffix) for full in FULL.values()]))


def in_cell(sweep: Any, row: Any) -> list[Any]:
    """The trials of a row's cell: one a seed."""
    axes = ("batch_size", "lr", "weight_decay")
    return [t for t in sweep.trials if all(getattr(t, axis) == getattr(row, axis) for axis in axes)]


@pytest.fixture(scope="module")
def planted(make_sweep: Callable[..., Any]) -> Any:
    """Two batch sizes, learning rates, weight decays, seeds and tolerances, all done."""
    return make_sweep(tolerances=(1e-3, 0.04), lr=[0.1, 0.5], seed=[0, 1]).finish_all(test_accuracies=ACCURACIES)


@pytest.fixture(scope="module")
def results(planted: Any) -> Results:
    return read_results(planted.folder)


@pytest.mark.usefixtures("_unwritten")
def test_every_figure_of_a_whole_sweep_is_drawn(results: Results) -> None:
    pictures = draw_figures(results, results.choose(None))
    assert [picture.name for picture in pictures] == NAMES
    assert all(picture.image and picture.caption for picture in pictures)


@pytest.mark.parametrize("suffix", ["", "0.04"])
def test_rank_by_batch_size_has_mean_and_range_over_seeds(planted: Any, results: Results, suffix: str) -> None:
    table = lines.draw(results, suffix).data
    assert len(table) == 2 * 2 * 2
    for row in table.itertuples():
        seeds = [average(planted, t, t.steps, suffix) for t in in_cell(planted, row)]
        assert row.trials == len(seeds) == 2
        assert [row.rank_mean, row.rank_min, row.rank_max] == pytest.approx([np.mean(seeds), min(seeds), max(seeds)])
        assert row.facet == f"weight decay {row.weight_decay:g}"
        assert row.full_rank == 88.0
        assert row.test_accuracy_mean == 0.975


@pytest.mark.parametrize("suffix", ["", "0.04"])
def test_rank_over_steps_has_the_seeds_of_every_cell_as_a_band(planted: Any, results: Results, suffix: str) -> None:
    table = steps.draw(results, suffix).data
    for (_, cell), trials in zip(table.groupby(["batch_size", "lr", "weight_decay"]), cells_of(planted), strict=True):
        assert in_cell(planted, cell.iloc[0]) == trials
        assert cell["step_last"].tolist() == trials[0].recorded
        assert (cell["seeds"] == 2).all()
        expected = np.array([[average(planted, t, step, suffix) for step in cell["step_last"]] for t in trials])
        np.testing.assert_allclose(cell["low"], expected.min(axis=0))
        np.testing.assert_allclose(cell["mean"], expected.mean(axis=0))
        np.testing.assert_allclose(cell["high"], expected.max(axis=0))
        np.testing.assert_allclose(cell["epoch"], cell["step_last"] * 12 / trials[0].steps)


def cells_of(sweep: Any) -> list[list[Any]]:
    """The trials of every cell, sorted by their settings."""
    keys = sorted({(t.batch_size, t.lr, t.weight_decay) for t in sweep.trials})
    return [[t for t in sweep.trials if (t.batch_size, t.lr, t.weight_decay) == key] for key in keys]


def test_rank_against_accuracy_has_a_row_a_trial(planted: Any, results: Results) -> None:
    table = accuracy.draw(results).data.set_index("trial")
    assert list(table.index) == [trial.id for trial in planted.trials]
    for trial in planted.trials:
        row = table.loc[trial.id]
        assert row["average_rank"] == pytest.approx(average(planted, trial, trial.steps))
        assert row["pull"] == pytest.approx(trial.lr * trial.weight_decay / trial.batch_size)
        assert row["test_accuracy"] == 0.975


def test_rank_and_accuracy_has_both_for_every_corner(planted: Any, results: Results) -> None:
    table = training.draw(results).data
    assert table["trial"].nunique() == 8
    assert (table["seed"] == 0).all()
    for name, part in table.groupby("trial"):
        [trial] = [trial for trial in planted.trials if trial.id == name]
        assert part["test_accuracy"].dropna().tolist() == pytest.approx(ACCURACIES)
        expected = [average(planted, trial, step) / 88 for step in trial.recorded]
        assert part["rank_share_mean"].dropna().tolist() == pytest.approx(expected)


def test_rank_by_matrix_is_of_the_trial_of_lowest_rank(planted: Any, results: Results) -> None:
    lowest = min(planted.trials, key=lambda trial: average(planted, trial, trial.steps))
    table = heat_maps.draw(results, str(results.choose(None))).data
    for name, full in FULL.items():
        layer = table[table["name"] == name]
        expected = [planted.rank(lowest, full, step) for step in lowest.recorded]
        assert layer["mean"].tolist() == expected
        np.testing.assert_allclose(layer["share_of_full"], np.array(expected) / full)
    corners = heat_maps.draw_corners(results).data
    assert corners[corners["trial"] == lowest.id]["mean"].tolist() == table["mean"].tolist()


def test_spectrum_is_of_the_first_and_the_last_step(planted: Any, results: Results) -> None:
    lowest = min(planted.trials, key=lambda trial: average(planted, trial, trial.steps))
    history = planted.history(lowest).filter(pc.is_valid(planted.history(lowest)["singular_values"]))
    table = spectrum.draw(results, lowest.id).data
    for stage, rows in (("first", history.slice(0, 3)), ("last", history.slice(3, 3))):
        for row in rows.to_pylist():
            part = table[(table["name"] == row["name"]) & (table["stage"] == stage)]
            assert part["step"].unique().tolist() == [row["step"]]
            assert part["rank"].unique().tolist() == [row["rank_lower"]]
            np.testing.assert_allclose(part["sigma"], row["singular_values"])
            np.testing.assert_allclose(part["share"], row["singular_values"])  # of a matrix of norm 1
