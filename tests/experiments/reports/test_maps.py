"""Maps over two settings: which there are, that every cell of the grid is in its place, and zero in one of its own."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.collections import PathCollection
from matplotlib.contour import ContourSet

from fastrank.experiments.reports.axes import AXES
from fastrank.experiments.reports.figures import maps
from fastrank.experiments.reports.figures.drawing import NothingToDraw
from fastrank.experiments.reports.figures.scale import Scale, thinned, tick_labels
from fastrank.experiments.reports.results import read_results

POSITIVE = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=8, unique_by=lambda value: round(np.log10(value), 3))


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        ({"batch_size": [8], "weight_decay": [0.01]}, []),
        ({"weight_decay": [0.01]}, []),
        ({"weight_decay": [0.01], "momentum": [0, 0.9]}, []),
        ({"weight_decay": [0.01], "lr": [0.1, 0.5]}, [("batch_size", "lr")]),
        ({}, [("weight_decay", "batch_size")]),
        ({"batch_size": [8], "lr": [0.1, 0.5]}, [("weight_decay", "lr")]),
        (
            {"lr": [0.1, 0.5]},
            [("batch_size", "lr"), ("weight_decay", "batch_size"), ("weight_decay", "lr")],
        ),
    ],
)
def test_there_is_a_map_of_each_pair_that_varies(
    make_sweep: Callable[..., Any], grid: dict[str, list[Any]], expected: list[tuple[str, str]]
) -> None:
    assert maps.pairs(read_results(make_sweep(**grid).folder)) == expected


def test_cells_are_means_over_seeds_and_missing_ones_are_there_without_a_number(make_sweep: Callable[..., Any]) -> None:
    sweep = make_sweep(seed=[0, 1], lr=[0.1, 0.5])
    for trial in sweep.trials:
        if trial.batch_size == 8 and trial.lr == 0.5 and trial.weight_decay:
            sweep.fail(trial, "boom")
        else:
            sweep.finish(trial, test_accuracy=0.9 + 0.02 * trial.seed)
    drawing = maps.draw(read_results(sweep.folder), "weight_decay", "batch_size")
    assert drawing.data["facet"].tolist() == ["learning rate 0.1"] * 4 + ["learning rate 0.5"] * 4
    for row in drawing.data.itertuples():
        missing = row.batch_size == 8 and row.lr == 0.5 and row.weight_decay > 0
        assert row.status == ("failed" if missing else "done")
        if missing:
            assert np.isnan([row.rank_mean, row.test_accuracy_mean]).all()
            continue
        cell = [t for t in sweep.trials if all(getattr(t, axis) == getattr(row, axis) for axis in AXES)]
        expected = [np.mean([sweep.rank(t, full, t.steps) for full in (64, 100, 100)]) for t in cell]
        assert row.rank_mean == pytest.approx(np.mean(expected))
        assert [row.test_accuracy_mean, row.trials] == [pytest.approx(0.91), 2]
    assert "Dashes: no result there (1 failed)." in drawing.caption
    assert "Left out: 2 failed (of 16 trials)." in drawing.caption


def texts(drawing: Any) -> list[str]:
    return [text.get_text() for axes in drawing.figure.axes for text in axes.texts]


def contours(drawing: Any) -> list[Any]:
    return [shape for axes in drawing.figure.axes for shape in axes.collections if isinstance(shape, ContourSet)]


def test_a_small_grid_shows_its_numbers_and_a_dash_for_none(make_sweep: Callable[..., Any]) -> None:
    sweep = make_sweep()
    for trial in sweep.trials[1:]:
        sweep.finish(trial, test_accuracy=0.1 if trial is sweep.trials[1] else 0.975)
    drawing = maps.draw(read_results(sweep.folder), "weight_decay", "batch_size")
    ranks, accuracies = ["48.3", "88.0", "68.0"], ["10.0", "97.5", "97.5"]
    assert sorted(texts(drawing)) == sorted([*ranks, *accuracies, "\N{EN DASH}", "\N{EN DASH}"])
    hatched = [patch for axes in drawing.figure.axes for patch in axes.patches if patch.get_hatch()]
    assert len(hatched) == 2  # the collapsed cell, in either panel
    assert "Hatched: test accuracy below twice chance, 20%, a collapsed network" in drawing.caption
    assert contours(drawing) == []


def test_a_large_grid_has_contours_with_zero_beside_them_and_a_cross_where_nothing_is(
    make_sweep: Callable[..., Any],
) -> None:
    sweep = make_sweep(batch_size=[64, 128, 256, 512], weight_decay=[0.0, 1e-3, 2e-3, 4e-3, 8e-3], epochs=30)
    for trial in sweep.trials:
        if trial.batch_size != 256 or trial.weight_decay != 4e-3:
            sweep.finish(trial)
    drawing = maps.draw(read_results(sweep.folder), "weight_decay", "batch_size")
    assert texts(drawing) == ["88.0"] * 4 + ["97.5"] * 4  # without weight decay
    assert len(contours(drawing)) == 4  # filled and lines, in either panel
    panel = drawing.figure.axes[0]
    points = [shape for shape in panel.collections if isinstance(shape, PathCollection)]
    assert len(points) == 16
    where = {tuple(np.round(shape.get_offsets()[0], 6)) for shape in points}
    assert where == {
        (round(float(np.log10(decay)), 6), round(float(np.log10(size)), 6))
        for decay in (1e-3, 2e-3, 4e-3, 8e-3)
        for size in (64, 128, 256, 512)
    }
    assert "Crosses: no result there (1 pending)." in drawing.caption


def test_with_nothing_done_there_is_no_map(make_sweep: Callable[..., Any]) -> None:
    with pytest.raises(NothingToDraw, match="no trial with an average rank is done"):
        maps.draw(read_results(make_sweep().folder), "weight_decay", "batch_size")


@given(POSITIVE, st.booleans(), st.booleans())
@settings(max_examples=100, deadline=None)
def test_cells_hold_their_values_and_do_not_overlap(values: list[float], zero: bool, even: bool) -> None:
    scale = Scale("weight_decay", (*([0.0] if zero else []), *sorted(values)), even)
    places, edges = scale.positions(), scale.edges()
    assert places.keys() == edges.keys() == set(scale.values)
    ordered = [edges[value] for value in scale.values]
    assert all(low < places[value] < high for value, (low, high) in edges.items())
    assert all(a[1] <= b[0] + 1e-9 for a, b in itertools.pairwise(ordered))
    if zero:
        assert edges[scale.values[1]][0] - edges[0.0][1] > 0.1 * (edges[0.0][1] - edges[0.0][0])  # set apart
    if not even:
        ratios = [np.log10(value) - places[value] for value in values]
        assert max(ratios) - min(ratios) < 1e-9


def test_labels_are_short_and_do_not_touch() -> None:
    assert tick_labels([0.0, 1e-4, 6e-3]) == ["0", "1e-4", "6e-3"]
    assert tick_labels([0.0, 5e-3, 1e-2]) == ["0", "0.005", "0.01"]
    assert tick_labels([8, 1024]) == ["8", "1024"]
    assert thinned(["1", "2", "3", "4"], [0.0, 0.05, 1.0, 1.1]) == ["1", "", "", "4"]
    assert thinned(["1", "2", "3"], [0.0, 0.5, 1.0]) == ["1", "2", "3"]
    assert thinned(["0.02", "0.05", "0.1", "2"], [0.0, 0.9, 1.0, 2.0]) == ["0.02", "", "0.1", "2"]
