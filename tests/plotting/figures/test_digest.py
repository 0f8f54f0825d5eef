"""What is kept of a history: averages a step, bins, matrices, and how many ranks are certified."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import fastrank
from fastrank.plotting.figures import MATRIX_BINS, Source, binned, digest, ranks, spectra
from fastrank.plotting.figures import source as sources

Column = list[int | None] | list[int]


def table(**columns: Column) -> pa.Table:
    return pa.table({key.replace("_at_", "@"): value for key, value in columns.items()})


def history(step: Column, rank: Column, name: list[str] | None = None, upper: Column | None = None) -> pa.Table:
    """Rows of matrices a (4 x 9) and b (7 x 5), in turn unless named."""
    names = name or ["a", "b"] * (len(step) // 2)
    shapes = [(4, 9) if name == "a" else (7, 5) for name in names]
    rows, cols = [shape[0] for shape in shapes], [shape[1] for shape in shapes]
    more = {"rank_lower": rank, "rank_upper": upper or rank}
    return pa.table({"step": step, "name": names, "rows": rows, "cols": cols, **more})


def test_an_uncertified_rank_is_the_middle_of_its_bounds() -> None:
    known = ranks(table(rank_lower=[5, 6, None], rank_upper=[5, 9, None]))
    np.testing.assert_array_equal(known, [5.0, 7.5, np.nan])


def test_average_is_over_the_matrices_of_a_step() -> None:
    known = digest([history([1, 1, 2, 2], [4, 5, 1, 2])], [""], steps=2)
    assert known.curves[""]["step_last"].tolist() == [1, 2]
    assert known.curves[""]["mean"].tolist() == [4.5, 1.5]
    assert known.last[""] == 1.5


def test_one_matrix_without_a_rank_leaves_its_step_without_an_average() -> None:
    known = digest([history([1, 1, 2, 2], [4, None, 1, 2])], [""], steps=2)
    np.testing.assert_array_equal(known.curves[""]["mean"], [np.nan, 1.5])
    assert known.nonfinite == 1


def test_a_step_that_two_parts_share_is_one_step() -> None:
    whole = history([1, 1, 2, 2, 3, 3], [4, 5, 3, 4, 1, 2])
    parts = [whole.slice(0, 3), whole.slice(3)]
    one, two = digest([whole], [""], steps=3), digest(parts, [""], steps=3)
    assert one.curves[""].equals(two.curves[""])
    assert one.matrices.equals(two.matrices)
    np.testing.assert_array_equal(one.matrix_means, two.matrix_means)
    assert (one.rows, one.steps, one.certified) == (two.rows, two.steps, two.certified) == (6, 3, 6)


def test_every_matrix_has_its_shape_its_runs_and_its_last_rank() -> None:
    later = history([2, 2], [1, 2], name=["b", "a"])  # another order of the names
    known = digest([history([1, 1], [4, 5]), later], [""], steps=2)
    assert known.matrices.to_dict("list") == {"name": ["a", "b"], "rows": [4, 7], "cols": [9, 5], "last": [2.0, 1.0]}
    np.testing.assert_array_equal(known.matrix_means, [[4, 2], [5, 1]])
    assert known.matrix_steps.tolist() == [[1, 1], [2, 2]]


def test_heat_maps_hold_means_over_runs_of_steps_and_pass_over_nan() -> None:
    steps = 2 * MATRIX_BINS
    rank: list[int | None] = [step % 2 for step in range(1, steps + 1)]
    rank[2] = None
    known = digest([history([*range(1, steps + 1)], rank, name=["a"] * steps)], [""], steps=steps)
    assert known.matrix_means.shape == (1, MATRIX_BINS)
    assert known.matrix_means[0, :3].tolist() == [0.5, 0.0, 0.5]  # steps 1 and 2, 4 alone, 5 and 6
    assert known.matrix_steps[1].tolist() == [3, 4]


def test_digest_agrees_with_pandas_on_a_random_history() -> None:
    random = np.random.default_rng(0)
    steps, names = 700, [f"m{i}" for i in range(5)]
    lower = random.integers(0, 50, steps * 5)
    data = {"step": np.repeat(np.arange(1, steps + 1), 5), "name": names * steps, "rank_lower": lower}
    data |= {"rank_upper": lower + random.integers(0, 2, steps * 5), "rows": [60] * 5 * steps, "cols": [60] * 5 * steps}
    whole = pa.table(data)
    cuts = [0, 13, 1_000, 1_777, len(whole)]
    parts = [whole.slice(a, b - a) for a, b in itertools.pairwise(cuts)]
    known = digest(parts, [""], steps=steps, bins=90)
    frame = whole.to_pandas()
    frame["rank"] = (frame["rank_lower"] + frame["rank_upper"]) / 2
    average = frame.groupby("step")["rank"].mean()
    bins = average.groupby((average.index - 1) * 90 // steps)
    for column, expected in (("low", bins.min()), ("mean", bins.mean()), ("high", bins.max())):
        np.testing.assert_allclose(known.curves[""][column], expected)
    layers = frame.groupby(["name", (frame["step"] - 1) * MATRIX_BINS // steps])["rank"].mean()
    np.testing.assert_allclose(known.matrix_means, layers.to_numpy().reshape(5, MATRIX_BINS))
    assert known.certified == int((data["rank_lower"] == data["rank_upper"]).sum())


def test_bins_are_the_steps_themselves_where_there_are_few() -> None:
    bins = binned(np.array([3, 6, 9]), np.array([1.0, 5.0, 2.0]), steps=9, bins=10)
    assert bins["step_first"].tolist() == bins["step_last"].tolist() == [3, 6, 9]
    assert bins["low"].tolist() == bins["mean"].tolist() == bins["high"].tolist() == [1.0, 5.0, 2.0]


def test_bins_keep_lowest_mean_and_highest_and_pass_over_nan() -> None:
    values = np.array([1.0, 3.0, np.nan, 8.0, np.nan, np.nan])
    bins = binned(np.arange(1, 7), values, steps=6, bins=3)
    assert bins["step_first"].tolist() == [1, 3, 5]
    assert bins["step_last"].tolist() == [2, 4, 6]
    np.testing.assert_array_equal(bins["low"], [1.0, 8.0, np.nan])
    np.testing.assert_array_equal(bins["mean"], [2.0, 8.0, np.nan])
    np.testing.assert_array_equal(bins["high"], [3.0, 8.0, np.nan])


def test_bins_leave_no_step_out_when_they_do_not_divide_the_steps() -> None:
    bins = binned(np.arange(1, 1001), np.ones(1000), steps=1000, bins=7)
    assert len(bins) == 7
    assert bins["step_first"].iloc[0] == 1
    assert (bins["step_first"].iloc[1:].to_numpy() == bins["step_last"].iloc[:-1].to_numpy() + 1).all()
    assert bins["step_last"].iloc[-1] == 1000


def test_a_row_counts_as_certified_only_where_every_tolerance_is() -> None:
    rows = history([1, 1, 2, 2], [5, 5, 4, None], upper=[5, 6, 4, None])
    rows = rows.append_column("rank_lower@0", pa.array([3, 3, 2, None]))
    rows = rows.append_column("rank_upper@0", pa.array([3, 3, 3, None]))
    known = digest([rows], ["", "0"], steps=2)
    assert (known.steps, known.rows, known.certified, known.nonfinite) == (2, 4, 1, 1)
    assert known.curves["0"]["mean"].iloc[0] == 3.0
    assert np.isnan(known.last[""])


def test_a_step_that_lacks_a_matrix_has_no_average_and_counts_as_missing() -> None:
    rows = history([1, 1, 2, 3, 3], [4, 5, 1, 2, 3], name=["a", "b", "a", "a", "b"])
    known = digest([rows], [""], steps=3)
    np.testing.assert_array_equal(known.curves[""]["mean"], [4.5, np.nan, 2.5])
    assert (known.missing, known.ended, known.last[""]) == (1, True, 2.5)


def test_the_rank_of_an_earlier_step_is_not_that_of_the_last() -> None:
    known = digest([history([1, 1, 2, 2], [4, 5, 1, 2])], [""], steps=3, every=2)
    assert (known.missing, known.ended) == (0, False)
    assert np.isnan(known.last[""])
    assert known.matrices["last"].isna().all()


def test_steps_that_were_due_and_are_not_there_are_counted() -> None:
    steps = [1, 1, 10, 10, 15, 15, 30, 30]  # the first and one with a spectrum besides every tenth
    assert digest([history(steps, [1] * 8)], [""], steps=35, every=10).missing == 1
    assert digest([history(steps, [1] * 8)], [""], steps=45, every=10).missing == 2


@pytest.mark.parametrize(
    ("parts", "message"),
    [([], "it is empty"), ([history([1, 1, 9, 9], [1, 1, 1, 1])], "it reaches step 9, and the trial had 8 steps")],
)
def test_a_history_that_cannot_be_the_trials_is_refused(parts: list[pa.Table], message: str) -> None:
    with pytest.raises(fastrank.HistoryError, match=message):
        digest(parts, [""], steps=8)


def write_spectra(folder: Path, spectra: dict[int, list[Any]]) -> None:
    """A part for each step, whose matrices a and b have these singular values."""
    for step, values in spectra.items():
        rows = history([step, step], [step, step + 1])
        rows = rows.append_column("frobenius_norm", pa.array([1.0, 2.0]))
        rows = rows.append_column("singular_values", pa.array(values, pa.list_(pa.float64())))
        name = rows["name"].combine_chunks().dictionary_encode()
        pq.write_table(rows.set_column(1, "name", name), folder / f"part-{step:05d}.parquet")


def test_spectra_are_each_matrix_first_and_last(tmp_path: Path) -> None:
    write_spectra(tmp_path, {0: [None, None], 1: [None, [3.0]], 2: [[2.0], [4.0]], 3: [[5.0], None], 4: [None, None]})
    ends = spectra(Source(tmp_path))
    found = [[row["name"], row["stage"], row["step"], list(row["singular_values"])] for _, row in ends.iterrows()]
    assert found == [
        ["a", "first", 2, [2.0]],
        ["b", "first", 1, [3.0]],
        ["a", "last", 3, [5.0]],
        ["b", "last", 2, [4.0]],
    ]
    assert ends["rank"].tolist() == [2.0, 2.0, 3.0, 3.0]


def test_spectra_are_read_from_as_few_parts_as_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_spectra(tmp_path, {step: [[1.0], [2.0]] for step in range(6)})
    read: list[str] = []
    whole = fastrank.read_history
    monkeypatch.setattr(sources, "read_history", lambda file, **how: (read.append(file.name), whole(file, **how))[1])
    assert len(spectra(Source(tmp_path))) == 4
    assert set(read) == {"part-00000.parquet", "part-00005.parquet"}


def test_without_a_spectrum_there_is_no_row(tmp_path: Path) -> None:
    write_spectra(tmp_path, {0: [None, None]})
    assert spectra(Source(tmp_path)).empty
