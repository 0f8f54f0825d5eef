"""A history read in part, in the order it was measured, however it is stored, and while it is written."""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

import fastrank
from fastrank import HistoryError, RankTracker, Tolerance
from fastrank.history import parquet, ring, row_groups

NAMES = ["second.weight", "first.weight", "10.weight", "9.weight"]
"""In the order they are measured, which is not that of the alphabet."""


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(ring, "CAPACITY", 10)


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(OrderedDict((name.split(".")[0], nn.Linear(5, 4, bias=False)) for name in NAMES))


def record(model, tracker, steps, start=0):
    """Steps on which every matrix changes; the third one is not finite at each tenth step."""
    for step in range(start, start + steps):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.99).add_(0.01 * torch.randn(4, 5, generator=torch.Generator().manual_seed(step)))
        kept = model[2].weight.detach().clone()
        if step % 10 == 9:
            model[2].weight.data[0, 0] = float("nan")
        tracker.step()
        model[2].weight.data.copy_(kept)


@pytest.fixture
def history(model, tmp_path):
    """A folder of three parts of 100 rows or so, and the table they must give."""
    columns = {"tolerance": [Tolerance(), Tolerance(0.04)], "spectrum": ["effective_rank", "singular_values"]}
    columns |= {"spectrum_every": 7, "energy": [0.9, 0.5]}
    tracker = RankTracker(model, **columns, directory=tmp_path / "parts", rows_per_part=80)
    in_memory = RankTracker(model, **columns)

    class Both:
        def step(self):
            tracker.step()
            in_memory.step()

    record(model, Both(), 55)
    tracker.close()
    assert len(list((tmp_path / "parts").iterdir())) == 3
    return tmp_path / "parts", in_memory.to_arrow()


def test_rows_come_back_in_the_order_they_were_measured(history):
    folder, expected = history
    assert expected["name"].to_pylist()[:5] == [*NAMES, NAMES[0]]
    assert expected["stable_rank"].null_count == 5
    whole = fastrank.read_history(folder)
    assert whole.equals(expected)
    assert not whole.schema.metadata
    assert not any(field.metadata for field in whole.schema)


@pytest.mark.parametrize("names", [[name] for name in NAMES] + [["9.weight", "second.weight"], NAMES[::-1], []])
@pytest.mark.parametrize("columns", [None, ["spectral_norm"], ["rank_upper@0.04", "name", "singular_values", "step"]])
def test_a_part_of_it_is_the_filtered_whole(history, names, columns):
    folder, whole = history
    expected = whole.filter(np.isin(whole["name"].to_numpy().astype(str), names))
    expected = expected.select(columns) if columns else expected
    assert fastrank.read_history(folder, names=names, columns=columns).equals(expected)


def test_columns_alone_are_the_selected_whole(history):
    folder, whole = history
    assert fastrank.read_history(folder, columns=["status", "step"]).equals(whole.select(["status", "step"]))


def test_a_file_that_does_not_say_which_matrices_it_holds_is_read_whole(history, tmp_path):
    part, rewritten = min(history[0].iterdir()), tmp_path / "rewritten.parquet"
    pq.write_table(pq.read_table(part), rewritten, write_statistics=False)  # which are optional in Parquet
    expected, read = (fastrank.read_history(path, names=["9.weight"]) for path in (part, rewritten))
    assert len(expected) > 0
    assert read.equals(expected)


def test_nothing_else_is_read(history, monkeypatch, tmp_path):
    """Of each file one row group of four, which holds the matrix alone, and three columns of fourteen."""
    _, whole = history
    monkeypatch.setattr(row_groups, "GROUP_ROWS", 1)
    monkeypatch.setattr(row_groups, "WINDOW_ROWS", 80)
    parquet.write_history(whole, tmp_path / "all.parquet")
    stored = pq.ParquetFile(tmp_path / "all.parquet")
    windows = -(-len(whole) // 80)
    assert stored.num_row_groups == windows * len(NAMES)
    assert stored.read_row_group(0)["name"].chunk(0).dictionary.to_pylist() == ["10.weight"]
    reads = []
    honest = pq.ParquetFile.read_row_groups

    def spy(self, groups, columns=None, **options):
        reads.append((list(groups), list(columns)))
        return honest(self, groups, columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", spy)
    read = fastrank.read_history(tmp_path / "all.parquet", names=["9.weight"], columns=["spectral_norm"])
    assert reads == [([4 * i + 1 for i in range(windows)], ["spectral_norm", "step", "name"])]
    assert len(read) == 55


@pytest.mark.parametrize(("group", "window"), [(1, 1), (1, 4), (3, 9), (20, 50), (10**6, 10**6)])
def test_row_groups_hold_whole_matrices_of_whole_steps(history, monkeypatch, tmp_path, group, window):
    _, whole = history
    monkeypatch.setattr(row_groups, "GROUP_ROWS", group)
    monkeypatch.setattr(row_groups, "WINDOW_ROWS", window)
    path = tmp_path / "all.parquet"
    parquet.write_history(whole, path)
    groups = [pq.ParquetFile(path).read_row_group(i).to_pandas() for i in range(pq.read_metadata(path).num_row_groups)]
    assert sum(map(len, groups)) == len(whole)
    steps_a_window, seen = max(1, window // len(NAMES)), []
    for rows in groups:
        first, last = rows["step"].min(), rows["step"].max()
        assert last - first + 1 == min(steps_a_window, 55 - first + 1)  # a window's, and all of them
        assert rows.groupby("name", observed=True)["step"].agg(list).tolist() == [
            list(range(first, last + 1)) for _ in range(rows["name"].nunique())
        ]
        seen += [(first, name) for name in rows["name"].unique()]
        ends_window = rows["name"].iloc[-1] == sorted(NAMES)[-1]
        assert len(rows) >= group or ends_window
    assert len(seen) == len(set(seen))  # no matrix is in two groups of a window
    assert fastrank.read_history(path).equals(whole)
    assert fastrank.read_history(path, names=NAMES[:1])["step"].to_pylist() == list(range(1, 56))


def test_parts_of_earlier_versions_are_read(history, tmp_path):
    """They stand in the order they were measured, in one row group."""
    _, whole = history
    for i in range(2):
        pq.write_table(whole.slice(100 * i, 100 + 100 * i), tmp_path / f"part-{i:05d}.parquet", compression="zstd")
    assert fastrank.read_history(tmp_path).equals(whole)
    expected = whole.filter(np.asarray(whole["name"]) == "9.weight")
    assert fastrank.read_history(tmp_path, names=["9.weight"]).equals(expected)


@pytest.mark.parametrize("as_text", [False, True])
def test_a_file_that_another_program_has_sorted_comes_in_the_measured_order(history, tmp_path, as_text):
    folder, whole = history
    shuffled = pa.concat_tables(pq.read_table(part) for part in sorted(folder.iterdir())).unify_dictionaries()
    shuffled = shuffled.take(np.random.default_rng(0).permutation(len(shuffled)))
    if as_text:
        i = shuffled.schema.get_field_index("name")
        field = pa.field("name", pa.string(), metadata=shuffled.schema.field(i).metadata)
        shuffled = shuffled.set_column(i, field, shuffled["name"].cast(pa.string()))
    pq.write_table(shuffled, tmp_path / "shuffled.parquet")
    assert fastrank.read_history(tmp_path / "shuffled.parquet").equals(whole)


def test_a_history_without_a_row(model, tmp_path):
    tracker = RankTracker(model)
    tracker.write_parquet(tmp_path / "none.parquet")
    read = fastrank.read_history(tmp_path / "none.parquet")
    assert read.equals(tracker.to_arrow())
    assert len(read) == 0
    with pytest.raises(HistoryError, match=r"none\.parquet: no matrix '9\.weight'; the nearest there: none"):
        fastrank.read_history(tmp_path / "none.parquet", names=["9.weight"])


def test_what_is_not_there_is_named_with_the_nearest(history):
    folder, _ = history
    with pytest.raises(HistoryError, match=r"part-00000\.parquet: no matrix 'first\.wieght'; .* 'first\.weight'"):
        fastrank.read_history(folder, names=["9.weight", "first.wieght"])
    with pytest.raises(HistoryError, match=r"part-00000\.parquet: no column 'spectral'; .* 'spectral_norm'"):
        fastrank.read_history(folder, columns=["step", "spectral"])
    with pytest.raises(TypeError, match=r"names: expected a list of names, not the string '9\.weight'"):
        fastrank.read_history(folder, names="9.weight")
    with pytest.raises(TypeError, match=r"columns: .* not the string 'step'"):
        fastrank.read_history(folder, columns="step")
    with pytest.raises(ValueError, match="columns: one is there twice"):
        fastrank.read_history(folder, columns=["step", "step"])
    with pytest.raises(HistoryError, match="an empty list of files"):
        fastrank.read_history([])


def test_what_is_no_history_is_named(history, tmp_path):
    folder, whole = history
    pq.write_table(whole.drop_columns(["step"]), tmp_path / "other.parquet")
    with pytest.raises(HistoryError, match=r"other\.parquet: no column 'step'"):
        fastrank.read_history(tmp_path / "other.parquet")
    pq.write_table(whole.drop_columns(["status"]), tmp_path / "other.parquet")
    with pytest.raises(HistoryError, match=r"other\.parquet: its columns differ from those of .*part-00000"):
        fastrank.read_history([folder / "part-00000.parquet", tmp_path / "other.parquet"])


def test_a_part_missing_between_others_is_named_and_the_rest_can_be_read(history):
    folder, whole = history
    (folder / "part-00001.parquet").unlink()
    with pytest.raises(HistoryError, match=r"part-00001\.parquet: missing, but part-00002\.parquet is there"):
        fastrank.read_history(folder)
    left = fastrank.read_history(sorted(folder.iterdir()))
    assert set(left["step"].to_pylist()) < set(whole["step"].to_pylist())


def test_parts_are_in_the_order_of_their_numbers(tmp_path):
    for name in ("part-100000.parquet", "part-99999.parquet", "part-00002.parquet", "part-a.parquet"):
        (tmp_path / name).touch()
    names = [path.name for path in parquet.list_parts(tmp_path)]
    assert names == ["part-00002.parquet", "part-99999.parquet", "part-100000.parquet"]


def test_parts_that_a_resumed_run_removes_meanwhile_are_not_missed(history, monkeypatch):
    folder, whole = history
    honest, listed = parquet.list_parts, []

    def and_then_the_run_is_resumed(directory):
        listed.append(honest(directory))
        listed[0][-1].unlink(missing_ok=True)
        return listed[-1]

    monkeypatch.setattr(parquet, "list_parts", and_then_the_run_is_resumed)
    read = fastrank.read_history(folder)
    assert [len(files) for files in listed] == [3, 2]
    assert read.equals(whole.slice(0, len(read)))
    monkeypatch.setattr(parquet, "list_parts", lambda directory: listed[0])
    with pytest.raises(HistoryError, match=r"part-00002\.parquet: not there"):
        fastrank.read_history(folder)


def test_a_reader_sees_whole_parts_while_a_run_adds_them(model, tmp_path):
    tracker = RankTracker(model, directory=tmp_path, rows_per_part=40)
    record(model, tracker, 10)
    enough = threading.Event()

    def train():
        for step in range(10, 5000, 10):
            record(model, tracker, 10, start=step)
            if enough.is_set():
                break

    writer = threading.Thread(target=train)
    writer.start()
    seen = [0]
    while len(set(seen)) < 5 and writer.is_alive():
        steps = fastrank.read_history(tmp_path, names=["9.weight"], columns=["step"])["step"].to_pylist()
        assert steps == list(range(1, len(steps) + 1))
        seen.append(len(steps))
    enough.set()
    writer.join()
    assert seen == sorted(seen)
    assert len(set(seen)) == 5, "the run has ended before the reader has seen it grow"
