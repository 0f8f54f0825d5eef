"""The numbers under every figure are the planted ones, and what cannot be drawn is said, not drawn wrong."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from fastrank.experiments import figure_accuracy, figure_batch_size, figure_layers, figure_spectrum, figure_steps
from fastrank.experiments.drawing import NothingToDraw
from fastrank.experiments.figures import draw_figures
from fastrank.experiments.layout import Layout
from fastrank.experiments.results import read_results

FULL = {"layers.0.weight": 64, "layers.1.weight": 100, "layers.2.weight": 100}
NAMES = [
    "rank_by_batch_size",
    "rank_over_steps",
    "rank_by_batch_size@0.04",
    "rank_over_steps@0.04",
    "rank_against_accuracy",
    "rank_by_layer",
    "spectrum",
]


def planted_average(sweep: Any, trial: Any, step: int, suffix: str = "") -> float:
    return float(np.mean([sweep.rank(trial, full, step, suffix) for full in FULL.values()]))


def last_step(trial: Any) -> int:
    """The last recorded one: further tolerances have no average in the ledger, but in the history."""
    return int(trial.steps // 30 * 30)


def csv(sweep: Any, name: str) -> pd.DataFrame:
    return pd.read_csv(sweep.folder / "figures" / f"{name}.csv")


@pytest.fixture(scope="module")
def drawn(make_sweep: Callable[..., Any]) -> Any:
    """Two learning rates, two seeds, two tolerances, all done and all drawn."""
    sweep = make_sweep(tolerances=(1e-3, 0.04), lr=[0.1, 0.5], seed=[0, 1]).finish_all()
    results = read_results(sweep.folder)
    assert len(draw_figures(results, results.choose(None))) == len(NAMES)
    return sweep


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_is_there_as_png_svg_and_csv(drawn: Any, name: str) -> None:
    folder = drawn.folder / "figures"
    assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (folder / f"{name}.svg").read_bytes()
    assert len(csv(drawn, name))


def test_nothing_else_is_in_the_folder(drawn: Any) -> None:
    names = {path.name for path in (drawn.folder / "figures").iterdir()}
    assert names == {f"{name}.{ending}" for name in NAMES for ending in ("png", "svg", "csv")}


@pytest.mark.parametrize("suffix", ["", "@0.04"])
def test_rank_by_batch_size_has_mean_and_range_over_seeds(drawn: Any, suffix: str) -> None:
    table = csv(drawn, f"rank_by_batch_size{suffix}")
    assert len(table) == 2 * 2 * 2
    for row in table.itertuples():
        seeds = [
            planted_average(drawn, trial, last_step(trial) if suffix else trial.steps, suffix)
            for trial in drawn.trials
            if f"lr {trial.lr:g}" == row.facet
            and (trial.batch_size, trial.weight_decay) == (row.batch_size, row.weight_decay)
        ]
        assert row.trials == len(seeds) == 2
        assert [row.rank_mean, row.rank_min, row.rank_max] == pytest.approx([np.mean(seeds), min(seeds), max(seeds)])
        assert row.full_rank == 88.0
        assert row.test_accuracy_mean == 0.975


@pytest.mark.parametrize("suffix", ["", "@0.04"])
def test_rank_over_steps_has_every_recorded_step_of_every_trial(drawn: Any, suffix: str) -> None:
    table = csv(drawn, f"rank_over_steps{suffix}")
    for trial in drawn.trials:
        curve = table[table["trial"] == trial.id]
        assert curve["step_last"].tolist() == list(range(30, trial.steps + 1, 30))
        expected = [planted_average(drawn, trial, step, suffix) for step in curve["step_last"]]
        for column in ("low", "mean", "high"):
            assert curve[column].tolist() == pytest.approx(expected)
        np.testing.assert_allclose(curve["epoch"], curve["step_last"] * 12 / trial.steps)


def test_rank_against_accuracy_has_a_row_a_trial(drawn: Any) -> None:
    table = csv(drawn, "rank_against_accuracy").set_index("trial")
    assert list(table.index) == [trial.id for trial in drawn.trials]
    for trial in drawn.trials:
        row = table.loc[trial.id]
        assert row["average_rank"] == pytest.approx(planted_average(drawn, trial, trial.steps))
        assert row["pull"] == pytest.approx(trial.lr * trial.weight_decay / trial.batch_size)
        assert row["test_accuracy"] == 0.975


def test_rank_by_layer_is_of_the_trial_of_lowest_rank(drawn: Any) -> None:
    lowest = min(drawn.trials, key=lambda trial: planted_average(drawn, trial, trial.steps))
    table = csv(drawn, "rank_by_layer")
    for name, full in FULL.items():
        layer = table[table["name"] == name]
        expected = [drawn.rank(lowest, full, step) for step in range(30, lowest.steps + 1, 30)]
        assert layer["mean"].tolist() == expected
        np.testing.assert_allclose(layer["share_of_full"], np.array(expected) / full)


def test_spectrum_is_of_the_first_and_the_last_step(drawn: Any) -> None:
    lowest = min(drawn.trials, key=lambda trial: planted_average(drawn, trial, trial.steps))
    history = drawn.history(lowest).filter(pc.is_valid(drawn.history(lowest)["singular_values"]))
    table = csv(drawn, "spectrum")
    for stage, rows in (("first", history.slice(0, 3)), ("last", history.slice(3, 3))):
        for row in rows.to_pylist():
            part = table[(table["name"] == row["name"]) & (table["stage"] == stage)]
            assert part["step"].unique().tolist() == [row["step"]]
            assert part["rank"].unique().tolist() == [row["rank_lower"]]
            np.testing.assert_allclose(part["sigma"], row["singular_values"])
            np.testing.assert_allclose(part["share"], row["singular_values"])  # of a matrix of norm 1


def test_unfinished_trials_are_left_out_and_counted(make_sweep: Callable[..., Any]) -> None:
    sweep = make_sweep()
    done, failed, diverged, _pending = sweep.trials
    sweep.finish(done)
    sweep.fail(failed, "boom")
    sweep.diverge(diverged)
    results = read_results(sweep.folder)
    assert figure_accuracy.draw(results).data["trial"].tolist() == [done.id]
    assert figure_steps.draw(results).data["trial"].unique().tolist() == [done.id]
    for figure in (figure_batch_size, figure_steps, figure_accuracy):
        assert "Left out: 1 pending, 1 diverged, 1 failed (of 4 trials)." in figure.draw(results).caption


def test_with_nothing_done_nothing_is_drawn_and_earlier_files_go(make_sweep: Callable[..., Any]) -> None:
    sweep = make_sweep()
    (sweep.folder / "figures").mkdir()
    for name in ("spectrum.png", "mine.png"):
        (sweep.folder / "figures" / name).write_bytes(b"old")
    results = read_results(sweep.folder)
    assert results.choose(None) is None
    pictures = draw_figures(results, None)
    assert [picture.svg for picture in pictures] == [None] * 5
    assert all("Nothing to draw: no " in picture.caption for picture in pictures)
    assert [path.name for path in (sweep.folder / "figures").iterdir()] == ["mine.png"]


def truncate_part(folder: Path) -> None:
    part = folder / "part-00001.parquet"
    part.write_bytes(part.read_bytes()[:100])


@pytest.mark.parametrize("damage", [truncate_part, shutil.rmtree])
def test_a_damaged_history_is_named_and_the_other_trials_are_drawn(
    make_sweep: Callable[..., Any], damage: Callable[[Path], None]
) -> None:
    sweep = make_sweep().finish_all()
    lowest = sweep.trials[1].id
    assert read_results(sweep.folder).choose(None) == lowest
    damage(Layout(sweep.folder).history(lowest))
    results = read_results(sweep.folder)
    assert len(results.problems) == 1
    assert lowest in results.problems[0]
    assert results.choose(None) == sweep.trials[3].id  # the next lowest is shown instead
    curves = figure_steps.draw(results)
    assert set(curves.data["trial"]) == {trial.id for trial in sweep.trials} - {lowest}
    assert "1 done trial(s) without a readable history are not shown." in curves.caption
    assert lowest in figure_accuracy.draw(results).data["trial"].tolist()  # the ledger knows its result


def test_figures_of_a_chosen_trial_with_a_damaged_history_say_so(make_sweep: Callable[..., Any]) -> None:
    sweep = make_sweep(batch_size=[32]).finish_all()
    chosen = sweep.trials[0].id
    truncate_part(Layout(sweep.folder).history(chosen))
    pictures = draw_figures(read_results(sweep.folder), chosen)
    assert [picture.svg is None for picture in pictures] == [False, False, False, True, True]
    assert f"the history of trial {chosen} could not be read" in pictures[3].caption


def test_a_history_that_ends_early_is_named(make_sweep: Callable[..., Any]) -> None:
    sweep = make_sweep(batch_size=[32], weight_decay=[0.01]).finish_all()
    [trial] = sweep.trials
    sweep.write_history(trial, sweep.history(trial).slice(0, 3 * 10))
    results = read_results(sweep.folder)
    assert results.problems == [f"trial {trial.id}: its history holds 10 of {trial.steps // 30} steps"]
    sweep.write_history(trial, sweep.history(trial).slice(0, 0))
    assert read_results(sweep.folder).problems == [f"trial {trial.id}: its history is empty"]


def test_rows_that_were_not_finite_are_gaps_and_never_rank_zero(make_sweep: Callable[..., Any]) -> None:
    sweep = make_sweep(batch_size=[32], weight_decay=[0.01]).finish_all()
    [trial] = sweep.trials
    columns = sweep.history(trial).to_pydict()
    for key in ("rank_lower", "rank_upper", "stable_rank", "spectral_norm", "frobenius_norm"):
        columns[key][4] = None  # layers.1.weight at the second recorded step
    columns["status"][4] = "NONFINITE"
    sweep.write_history(trial, pa.table(columns, schema=sweep.history(trial).schema))
    results = read_results(sweep.folder)
    curve = figure_steps.draw(results)
    assert curve.data["mean"].isna().tolist() == [False, True] + [False] * (len(curve.data) - 2)
    assert "(1 rows)" in curve.caption
    layers = figure_layers.draw(results, trial.id, results.history(trial.id))
    gaps = layers.data[layers.data["mean"].isna()]
    assert gaps[["name", "step_last"]].to_numpy().tolist() == [["layers.1.weight", 60]]
    assert layers.data["mean"].min() > 0
    assert "Grey: steps at which the matrix was not finite." in layers.caption


def test_a_collapsed_network_is_marked_and_not_chosen(make_sweep: Callable[..., Any]) -> None:
    sweep = make_sweep()
    for trial in sweep.trials:
        sweep.finish(trial, test_accuracy=0.12 if trial is sweep.trials[1] else 0.97)
    results = read_results(sweep.folder)
    assert results.choose(None) == sweep.trials[3].id
    marked = figure_accuracy.draw(results).data.set_index("trial")["collapsed"]
    assert marked[marked].index.tolist() == [sweep.trials[1].id]
    for figure in (figure_batch_size, figure_steps, figure_accuracy):
        assert "below twice chance" in figure.draw(results).caption


def test_without_spectra_there_is_nothing_to_draw(make_sweep: Callable[..., Any]) -> None:
    sweep = make_sweep(batch_size=[32], weight_decay=[0.01]).finish_all()
    [trial] = sweep.trials
    history = sweep.history(trial).drop_columns(["singular_values"])
    with pytest.raises(NothingToDraw, match=f"no singular values were recorded for trial {trial.id}"):
        figure_spectrum.draw(read_results(sweep.folder), trial.id, history)
