"""Histories in memory and on disk: whole parts, no gap, no double row, nothing finished lost."""

from __future__ import annotations

import copy
import errno
import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import fastrank
from fastrank import HistoryError, HistoryWarning, RankTracker
from fastrank.history import ring


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Blocks of 20 steps, so that a short run fills several."""
    monkeypatch.setattr(ring, "CAPACITY", 20)


def attach(model, **options):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1e-2)
    return optimizer, RankTracker(model, optimizer, **options)


def test_parts_are_written_as_training_goes_and_read_back(mlp, train, tmp_path):
    twin = copy.deepcopy(mlp)
    spectrum = ["singular_values", "nuclear_norm"]
    optimizer, tracker = attach(mlp, directory=tmp_path, rows_per_part=60, spectrum=spectrum, spectrum_every=7)
    train(mlp, optimizer, 50)
    parts = sorted(p.name for p in tmp_path.iterdir())
    assert parts == [".writer.lock", "part-00000.parquet", "part-00001.parquet"], "parts appear during training"
    tracker.close()
    assert sorted(p.name for p in tmp_path.iterdir())[0] == "part-00000.parquet", "nothing else is left"
    other, in_memory = attach(twin, spectrum=spectrum, spectrum_every=7)
    train(twin, other, 50)
    expected = in_memory.to_arrow()
    assert expected.num_rows == 150
    assert fastrank.read_history(tmp_path).equals(expected)
    assert tracker.to_arrow().equals(expected)
    assert tracker.latest() == in_memory.latest()
    tracker.write_parquet(tmp_path / "all.parquet")
    assert fastrank.read_history(tmp_path / "all.parquet").equals(expected)


def test_schema_is_the_documented_one(mlp, tmp_path):
    tracker = RankTracker(mlp, spectrum=["effective_rank", "singular_values"], energy=[0.99, 0.9], directory=tmp_path)
    tracker.step()
    tracker.flush()
    schema = fastrank.read_history(tmp_path).schema
    assert {field.name: str(field.type).replace("element", "item") for field in schema} == {
        "step": "int64",
        "name": "dictionary<values=string, indices=int32, ordered=0>",
        "rows": "int32",
        "cols": "int32",
        "rank_lower": "int32",
        "rank_upper": "int32",
        "stable_rank": "double",
        "spectral_norm": "double",
        "frobenius_norm": "double",
        "status": "dictionary<values=string, indices=int32, ordered=0>",
        "effective_rank": "double",
        "energy_rank": "int32",
        "energy_rank@0.9": "int32",
        "singular_values": "list<item: double>",
    }


@pytest.mark.parametrize("cut", [1, 25, 49])
def test_resumed_run_has_neither_gap_nor_double_row(mlp, train, tmp_path, cut, counting):
    """The state is taken at `cut`; the run goes on, writes parts, and is killed; another continues from the state."""
    twin = copy.deepcopy(mlp)
    options = {"rows_per_part": 50, "spectrum": ["effective_rank"], "spectrum_every": 10}
    other, uninterrupted = attach(twin, directory=tmp_path / "whole", **options)
    train(twin, other, 50)
    uninterrupted.close()

    folder = tmp_path / "killed"
    optimizer, tracker = attach(mlp, directory=folder, **options)
    train(mlp, optimizer, cut)
    saved = io.BytesIO()
    state = {"model": mlp.state_dict(), "optimizer": optimizer.state_dict(), "tracker": tracker.state_dict()}
    torch.save(state, saved)
    train(mlp, optimizer, 50 - cut, start=cut)
    tracker.close()  # rows of the future, which the next process has to remove

    saved.seek(0)
    state = torch.load(saved, weights_only=True)
    optimizer, tracker = attach(mlp, directory=folder, **options)
    mlp.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    tracker.load_state_dict(state["tracker"])
    assert tracker.to_arrow().num_rows == 3 * cut
    assert tracker.latest()["0.weight"]["step"] == cut
    train(mlp, optimizer, 50 - cut, start=cut)
    tracker.close()
    assert fastrank.read_history(folder).equals(fastrank.read_history(tmp_path / "whole"))


def test_a_folder_with_another_runs_parts_is_refused(mlp, tmp_path):
    first = RankTracker(mlp, directory=tmp_path)
    first.step()
    first.close()
    second = RankTracker(mlp, directory=tmp_path)
    with pytest.raises(HistoryError, match=f"{tmp_path}: holds parts of an earlier run"):
        second.step()
    assert fastrank.read_history(tmp_path).num_rows == 3


def test_a_state_with_a_missing_part_is_refused(mlp, train, tmp_path):
    optimizer, tracker = attach(mlp, directory=tmp_path, rows_per_part=50)
    train(mlp, optimizer, 30)
    state = tracker.state_dict()
    tracker.close()
    (tmp_path / "part-00000.parquet").unlink()
    _, again = attach(mlp, directory=tmp_path)
    with pytest.raises(HistoryError, match=r"part-00000\.parquet: missing"):
        again.load_state_dict(state)
    _, nowhere = attach(mlp)
    with pytest.raises(HistoryError, match="directory="):
        nowhere.load_state_dict(state)


def test_a_state_of_another_tracker_is_refused(mlp):
    state = RankTracker(mlp).state_dict()
    with pytest.raises(ValueError, match=r"names differ from this tracker's: 5\.weight"):
        RankTracker(mlp, exclude=["5.*"]).load_state_dict(state)
    with pytest.raises(ValueError, match=r"columns differ .* effective_rank"):
        RankTracker(mlp, spectrum=["effective_rank"]).load_state_dict(state)
    with pytest.raises(ValueError, match="version 7"):
        RankTracker(mlp).load_state_dict({**state, "version": 7})


@pytest.mark.parametrize("damage", [b"", b"PAR1", None])
def test_a_damaged_part_is_named(mlp, tmp_path, damage):
    tracker = RankTracker(mlp, directory=tmp_path)
    tracker.step()
    tracker.close()
    part = tmp_path / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-100] if damage is None else damage)
    with pytest.raises(HistoryError, match=r"part-00000\.parquet: truncated, damaged or not a history"):
        fastrank.read_history(tmp_path)


def test_nothing_to_read_is_named(tmp_path):
    with pytest.raises(HistoryError, match="holds no part"):
        fastrank.read_history(tmp_path)
    with pytest.raises(HistoryError, match=r"gone\.parquet: not there"):
        fastrank.read_history(tmp_path / "gone.parquet")


def test_a_full_disk_is_named_and_training_goes_on(mlp, train, tmp_path, monkeypatch):
    """The disk is full for a while: the part is not there, its rows are, and they are written once there is room."""
    optimizer, tracker = attach(mlp, directory=tmp_path, rows_per_part=50)
    full = OSError(errno.ENOSPC, "No space left on device")

    def write(file, schema, **options):
        file.write(b"half a part")
        raise full

    with monkeypatch.context() as patch:
        patch.setattr(pq, "ParquetWriter", write)
        with pytest.warns(HistoryWarning, match=r"part-00000\.parquet: not written .*No space left"):
            train(mlp, optimizer, 30)
        assert [path.name for path in tmp_path.iterdir()] == [".writer.lock"], "no part, and no half of one"
        with pytest.raises(OSError, match="No space left"):
            tracker.flush()
    assert tracker.to_arrow().num_rows == 90
    train(mlp, optimizer, 30, start=30)
    tracker.close()
    steps = fastrank.read_history(tmp_path).column("step").to_pylist()
    assert steps == [step for step in range(1, 61) for _ in range(3)]


def test_rows_looked_at_one_by_one_are_kept_in_few_blocks(mlp, train):
    """`latest()` at every step, as a progress bar calls it: neither tables nor states are made of single rows."""
    optimizer, tracker = attach(mlp, spectrum=["singular_values"], spectrum_every=3)
    twin = copy.deepcopy(mlp)
    other, undisturbed = attach(twin, spectrum=["singular_values"], spectrum_every=3)
    for step in range(50):
        train(mlp, optimizer, 1, start=step)
        assert tracker.latest()["0.weight"]["step"] == step + 1
    train(twin, other, 50)
    blocks = tracker._history.state_dict()["blocks"]
    assert len(blocks) <= 50 / (ring.CAPACITY / 2) + 5, "as many as the digits of a binary number, and full ones"
    assert max(len(block["steps"]) for block in blocks) <= ring.CAPACITY
    assert tracker.to_arrow().equals(undisturbed.to_arrow())


def test_a_folder_that_cannot_be_made_is_named(mlp, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        RankTracker(mlp, directory=tmp_path / "file" / "history")


def test_writing_replaces_at_once(mlp, tmp_path, monkeypatch):
    """A write that fails leaves the file that was there."""
    tracker = RankTracker(mlp)
    tracker.step()
    path = tmp_path / "history.parquet"
    tracker.write_parquet(path)
    before = path.read_bytes()
    monkeypatch.setattr(pq, "ParquetWriter", lambda *a, **k: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
    with pytest.raises(OSError, match="broken"):
        tracker.write_parquet(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["history.parquet"]


def test_files_may_be_named_by_strings_and_matrices_by_plain_text(mlp, train, tmp_path):
    optimizer, tracker = attach(mlp, directory=tmp_path / "parts", rows_per_part=60)
    train(mlp, optimizer, 50)
    tracker.close()
    whole = tracker.to_arrow()
    assert fastrank.read_history([str(part) for part in sorted((tmp_path / "parts").iterdir())]).equals(whole)
    plain = whole.set_column(whole.column_names.index("name"), "name", whole["name"].cast(pa.string()))
    fastrank.write_history(plain, tmp_path / "plain.parquet")
    assert fastrank.read_history(tmp_path / "plain.parquet").equals(whole)
    for column in ("step", "name"):
        with pytest.raises(HistoryError, match=f"x.parquet: not written: no column '{column}'"):
            fastrank.write_history(whole.drop_columns([column]), tmp_path / "x.parquet")
    assert not (tmp_path / "x.parquet").exists()
