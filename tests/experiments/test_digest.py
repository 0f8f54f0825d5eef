"""What is kept of a history: averages a step, bins, and how many ranks are certified."""

import numpy as np
import pyarrow as pa
from fastrank.experiments.digest import average_by_step, binned, digest, ranks


def table(**columns: list[int | None]) -> pa.Table:
    return pa.table({key.replace("_at_", "@"): value for key, value in columns.items()})


def test_an_uncertified_rank_is_the_middle_of_its_bounds() -> None:
    history = table(rank_lower=[5, 6, None], rank_upper=[5, 9, None])
    np.testing.assert_array_equal(ranks(history), [5.0, 7.5, np.nan])


def test_average_is_over_the_matrices_of_a_step() -> None:
    history = table(step=[1, 1, 2, 2], rank_lower=[4, 6, 1, 2], rank_upper=[4, 6, 1, 2])
    steps, average = average_by_step(history)
    assert steps.tolist() == [1, 2]
    assert average.tolist() == [5.0, 1.5]


def test_one_matrix_without_a_rank_leaves_its_step_without_an_average() -> None:
    history = table(step=[1, 1, 2, 2], rank_lower=[4, None, 1, 2], rank_upper=[4, None, 1, 2])
    np.testing.assert_array_equal(average_by_step(history)[1], [np.nan, 1.5])


def test_bins_are_the_steps_themselves_where_there_are_few() -> None:
    bins = binned(np.array([3, 6, 9]), np.array([1.0, 5.0, 2.0]), bins=10)
    assert bins["step_first"].tolist() == bins["step_last"].tolist() == [3, 6, 9]
    assert bins["low"].tolist() == bins["mean"].tolist() == bins["high"].tolist() == [1.0, 5.0, 2.0]


def test_bins_keep_lowest_mean_and_highest_and_pass_over_nan() -> None:
    values = np.array([1.0, 3.0, np.nan, 8.0, np.nan, np.nan])
    bins = binned(np.arange(1, 7), values, bins=3)
    assert bins["step_first"].tolist() == [1, 3, 5]
    assert bins["step_last"].tolist() == [2, 4, 6]
    np.testing.assert_array_equal(bins["low"], [1.0, 8.0, np.nan])
    np.testing.assert_array_equal(bins["mean"], [2.0, 8.0, np.nan])
    np.testing.assert_array_equal(bins["high"], [3.0, 8.0, np.nan])


def test_bins_leave_no_step_out_when_they_do_not_divide_the_steps() -> None:
    bins = binned(np.arange(1, 1001), np.ones(1000), bins=7)
    assert len(bins) == 7
    assert bins["step_first"].iloc[0] == 1
    assert (bins["step_first"].iloc[1:].to_numpy() == bins["step_last"].iloc[:-1].to_numpy() + 1).all()
    assert bins["step_last"].iloc[-1] == 1000


def test_a_row_counts_as_certified_only_where_every_tolerance_is() -> None:
    history = table(
        step=[1, 1, 2, 2],
        rank_lower=[5, 5, 4, None],
        rank_upper=[5, 6, 4, None],
        rank_lower_at_0=[3, 3, 2, None],
        rank_upper_at_0=[3, 3, 3, None],
    )
    known = digest(history, ["", "0"])
    assert (known.steps, known.rows, known.certified, known.nonfinite) == (2, 4, 1, 1)
    assert known.curves["0"]["mean"].iloc[0] == 3.0
    assert np.isnan(known.last[""])
