"""Which trials stand for a whole grid."""

from collections.abc import Callable
from typing import Any

import pytest

from fastrank.experiments.reports.figures.corners import choice, corners
from fastrank.experiments.reports.results import read_results
from fastrank.plotting import evenly

MANY = [4, 8, 16, 32, 64, 128]
DECAYS = [0.0, 1e-4, 2e-4, 4e-4, 8e-4, 6e-3]


def test_evenly_keeps_both_ends() -> None:
    assert evenly(6, 3) == [0, 2, 5]
    assert evenly(60, 24)[:2] + evenly(60, 24)[-2:] == [0, 3, 56, 59]
    assert [evenly(count, 4) for count in (1, 3, 4)] == [[0], [0, 1, 2], [0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("grid", "sizes", "columns"),
    [
        ({"batch_size": [8], "weight_decay": [0.01]}, {}, 1),
        ({"batch_size": MANY, "weight_decay": [0.01]}, {"batch_size": 6}, 4),
        ({}, {"batch_size": 2, "weight_decay": 2}, 2),
        ({"batch_size": MANY, "weight_decay": DECAYS}, {"batch_size": 4, "weight_decay": 3}, 4),
        ({"weight_decay": DECAYS}, {"batch_size": 2, "weight_decay": 6}, 4),
        (
            {"batch_size": MANY, "lr": [0.1, 0.3, 0.5], "weight_decay": DECAYS},
            {"batch_size": 3, "lr": 2, "weight_decay": 2},
            3,
        ),
        ({"lr": [0.1, 0.5], "momentum": [0.0, 0.9]}, {"batch_size": 2, "lr": 2, "weight_decay": 2, "momentum": 1}, 4),
    ],
)
def test_at_most_twelve_cells_with_the_corners_among_them(
    make_sweep: Callable[..., Any], grid: dict[str, list[Any]], sizes: dict[str, int], columns: int
) -> None:
    sweep = make_sweep(**grid)
    found, across = corners(read_results(sweep.folder))
    assert across == columns
    assert len(found) <= 12
    for axis, count in sizes.items():
        values = {corner.settings[axis] for corner in found}
        known = {getattr(trial, axis) for trial in sweep.trials}
        assert len(values) == count
        assert values <= known
        assert count == 1 or {min(known), max(known)} <= values
    first = next(iter(sizes), None)
    assert first is None or found[0].settings[first] < found[1].settings[first]  # varies fastest


def test_a_corner_is_its_lowest_seed_that_is_done_or_says_why_there_is_none(make_sweep: Callable[..., Any]) -> None:
    sweep = make_sweep(batch_size=[8], seed=[0, 1])
    sweep.fail(sweep.trials[0], "boom")
    sweep.finish(sweep.trials[1])
    results = read_results(sweep.folder)
    done, pending = corners(results)[0]
    assert (done.title, done.trial) == ("wd 0", sweep.trials[1].id)
    assert (pending.title, pending.trial, pending.status) == ("wd 0.01", None, "pending")
    assert choice(results, [done, pending]) == "Every cell of the grid; the lowest seed that is done of each."
    assert choice(results, [done]) == (
        "1 of the grid's 2 cells, its corners and what lies evenly between them; the lowest seed that is done of each."
    )
