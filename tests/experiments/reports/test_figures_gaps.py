"""What cannot be drawn is said, and not drawn wrong: trials without a result, damaged histories, collapsed networks."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fastrank.experiments.records.layout import Layout
from fastrank.experiments.reports.figures import accuracy, draw, heat_maps, lines, spectrum, steps, training
from fastrank.experiments.reports.figures.draw import draw_figures
from fastrank.experiments.reports.figures.drawing import NothingToDraw
from fastrank.experiments.reports.results import read_results


@pytest.fixture
def _unwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn and no files made of them, which takes most of the time."""
    monkeypatch.setattr(draw, "save", lambda name, drawing, folder: b"<svg>")


def test_unfinished_trials_are_left_out_and_counted(make_sweep: Callable[..., Any]) -> None:
    sweep = make_sweep()
    done, failed, diverged, _pending = sweep.trials
    sweep.finish(done)
    sweep.fail(failed, "boom")
    sweep.diverge(diverged)
    results = read_results(sweep.folder)
    assert accuracy.draw(results).data["trial"].tolist() == [done.id]
    assert steps.draw(results).data[["batch_size", "weight_decay"]].drop_duplicates().to_numpy().tolist() == [[8, 0]]
    for figure in (lines, steps, accuracy):
        assert "Left out: 1 pending, 1 diverged, 1 failed (of 4 trials)." in figure.draw(results).caption


def test_with_nothing_done_nothing_is_drawn_and_earlier_files_go(make_sweep: Callable[..., Any]) -> None:
    sweep = make_sweep()
    (sweep.folder / "figures").mkdir()
    for name in ("spectrum.png", "mine.png"):
        (sweep.folder / "figures" / name).write_bytes(b"old")
    results = read_results(sweep.folder)
    assert results.choose(None) is None
    pictures = draw_figures(results, None)
    assert [picture.image for picture in pictures] == [None] * 8
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
    curves = steps.draw(results)
    shown = curves.data[["batch_size", "weight_decay"]].drop_duplicates().to_numpy().tolist()
    assert shown == [[t.batch_size, t.weight_decay] for t in sweep.trials if t.id != lowest]
    assert "1 done trial(s) without a readable history are not shown." in curves.caption
    assert lowest in accuracy.draw(results).data["trial"].tolist()  # the ledger knows its result


@pytest.mark.usefixtures("_unwritten")
def test_figures_of_a_chosen_trial_with_a_damaged_history_say_so(make_sweep: Callable[..., Any]) -> None:
    sweep = make_sweep(batch_size=[32]).finish_all()
    chosen = sweep.trials[0].id
    truncate_part(Layout(sweep.folder).history(chosen))
    pictures = draw_figures(read_results(sweep.folder), chosen)
    drawn = [picture.name for picture in pictures if picture.image]
    assert drawn == ["rank_by_weight_decay", "rank_over_steps", "rank_against_accuracy", "rank_by_matrix_corners"]
    told = [p.name for p in pictures if f"the history of trial {chosen} could not be read" in p.caption]
    assert told == ["rank_by_matrix", "spectrum"]


def test_a_history_that_ends_early_is_named(make_sweep: Callable[..., Any]) -> None:
    sweep = make_sweep(batch_size=[32], weight_decay=[0.01]).finish_all()
    [trial] = sweep.trials
    sweep.write_history(trial, sweep.history(trial).slice(0, 3 * 10))
    results = read_results(sweep.folder)
    assert results.problems == [
        f"trial {trial.id}: its history lacks 7 of {trial.steps // 30} steps",
        f"trial {trial.id}: its history does not have the last step",
    ]
    assert np.isnan(results.digests[trial.id].last[""])  # the rank of an earlier step is not that of the last
    drawing = heat_maps.draw(results, trial.id)
    assert [text.get_text() for text in drawing.figure.axes[0].texts][:3] == [
        f"not recorded of {full}" for full in (64, 100, 100)
    ]
    sweep.write_history(trial, sweep.history(trial).slice(0, 0))
    assert read_results(sweep.folder).problems == [f"trial {trial.id}: its history could not be read: it is empty"]


def test_rows_that_were_not_finite_are_gaps_and_never_rank_zero(make_sweep: Callable[..., Any]) -> None:
    sweep = make_sweep(batch_size=[32], weight_decay=[0.01]).finish_all()
    [trial] = sweep.trials
    columns = sweep.history(trial).to_pydict()
    for key in ("rank_lower", "rank_upper", "stable_rank", "spectral_norm", "frobenius_norm"):
        columns[key][4] = None  # layers.1.weight at the second recorded step
    columns["status"][4] = "NONFINITE"
    sweep.write_history(trial, pa.table(columns, schema=sweep.history(trial).schema))
    results = read_results(sweep.folder)
    curve = steps.draw(results)
    assert curve.data["mean"].isna().tolist() == [False, True] + [False] * (len(curve.data) - 2)
    assert "(1 rows)" in curve.caption
    heat = heat_maps.draw(results, trial.id)
    gaps = heat.data[heat.data["mean"].isna()]
    assert gaps[["name", "step_last"]].to_numpy().tolist() == [["layers.1.weight", 60]]
    assert heat.data["mean"].min() > 0
    assert "Grey: runs of steps at which the matrix never had a rank (1 rows have none)." in heat.caption


def test_a_collapsed_network_is_marked_and_not_chosen(make_sweep: Callable[..., Any]) -> None:
    sweep = make_sweep()
    for trial in sweep.trials:
        sweep.finish(trial, test_accuracy=0.12 if trial is sweep.trials[1] else 0.97)
    results = read_results(sweep.folder)
    assert results.choose(None) == sweep.trials[3].id
    marked = accuracy.draw(results).data.set_index("trial")["collapsed"]
    assert marked[marked].index.tolist() == [sweep.trials[1].id]
    for figure in (lines, steps, accuracy):
        assert "below twice chance" in figure.draw(results).caption
    corners = heat_maps.draw_corners(results)
    titles = [axes.get_title() for axes in corners.figure.axes[:4]]
    assert [title.endswith("\ncollapsed") for title in titles] == [False, False, True, False]
    assert [axes.get_title("right") for axes in corners.figure.axes[:4]] == ["97%", "97%", "12%", "97%"]
    assert corners.data.loc[corners.data["collapsed"], "trial"].unique().tolist() == [sweep.trials[1].id]
    assert "Collapsed: test accuracy below twice chance, 20%" in corners.caption


def test_a_seed_with_a_hole_in_its_history_leaves_the_lines_in_order(make_sweep: Callable[..., Any]) -> None:
    sweep = make_sweep(batch_size=[32], weight_decay=[0.01], seed=[0, 1]).finish_all()
    holed = sweep.trials[0]
    whole = sweep.history(holed)
    sweep.write_history(holed, pa.concat_tables([whole.slice(0, 9), whole.slice(30)]))
    curve = steps.draw(read_results(sweep.folder)).data
    assert curve["step_last"].is_monotonic_increasing
    assert curve["seeds"].tolist() == [2] * 3 + [1] * 7 + [2] * (len(curve) - 10)


def test_one_setting_has_one_colour_in_all_panels(make_sweep: Callable[..., Any]) -> None:
    sweep = make_sweep(lr=[0.1, 0.5], weight_decay=[0.005, 0.01])
    for trial in sweep.trials:  # at the one rate no trial of the one decay is done
        if (trial.lr, trial.weight_decay) != (0.5, 0.01):
            sweep.finish(trial)
    drawing = lines.draw(read_results(sweep.folder))
    colours = {
        (panel, line.get_color())
        for panel, axes in enumerate(drawing.figure.axes)
        for line in axes.lines
        if line.get_marker() == "o" and len(line.get_xdata())
    }
    assert len({colour for _, colour in colours}) == 2


def test_without_spectra_there_is_nothing_to_draw(make_sweep: Callable[..., Any]) -> None:
    sweep = make_sweep(batch_size=[32], weight_decay=[0.01]).finish_all()
    [trial] = sweep.trials
    sweep.write_history(trial, sweep.history(trial).drop_columns(["singular_values"]))
    with pytest.raises(NothingToDraw, match=f"no singular values were recorded for trial {trial.id}"):
        spectrum.draw(read_results(sweep.folder), trial.id)


def test_without_accuracies_of_the_epochs_there_is_nothing_to_draw(make_sweep: Callable[..., Any]) -> None:
    results = read_results(make_sweep(batch_size=[32]).finish_all().folder)
    with pytest.raises(NothingToDraw, match="no trial has recorded its test accuracy after each epoch"):
        training.draw(results)
