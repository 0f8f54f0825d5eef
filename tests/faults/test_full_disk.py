"""The disk is full, or broken, at each call by which a file is written: what was there is still there, the error names
the file, and the next try succeeds."""

from __future__ import annotations

import errno
import shutil
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import outcome
from full_disk import full_disk
from made_history import make, record, steps_in, steps_of
from system_calls import every_call, failing, names_of

from fastrank import factorize
from fastrank.experiments.data.info import DataError, DataInfo
from fastrank.experiments.data.store import Part, write_set
from fastrank.experiments.files import write_csv
from fastrank.experiments.records import Layout, Ledger, Place, Status, Storage
from fastrank.experiments.records.ledger import LedgerError
from fastrank.experiments.records.storage import StorageError
from fastrank.experiments.sweeps.summary import write_summary
from fastrank.experiments.training.checkpoint import keep_checkpoint, load_checkpoint, save_checkpoint
from fastrank.history import HistoryWarning, ring, write_history

UNNAMED = {"open", "fsync"}
"""Calls after the file is in its place, that tell of the folder's own file system."""
CODES = (errno.ENOSPC, errno.EIO)


def write_once(folder: Path) -> None:
    history = make(folder)
    record(history, 1, 2, 3)
    history.flush()


def test_of_a_history(tmp_path):
    """At every call, the rows stay in memory and are written by the next flush, in one part, each once."""
    for i, name, folder in every_call(write_once, tmp_path):
        history = None

        def write(folder=folder):
            nonlocal history
            history = make(folder / "run")
            record(history, 1, 2, 3)
            history.flush()

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HistoryWarning)  # that a folder cannot be locked
            if name == "flock" or (name == "open" and i < 3):
                failing(write, i)
            else:
                with pytest.raises(OSError, match=r"run|No space left") as caught:
                    failing(write, i)
                assert caught.value.filename or name in {*UNNAMED, "mkdir"}
            assert list(folder.glob("**/.*.tmp")) == []
            write() if history is None else history.flush()
            assert steps_of(history.to_arrow()) == steps_in(folder / "run") == [1, 2, 3]
            history.close()
        assert [path.name for path in (folder / "run").iterdir()] == ["part-00000.parquet"] or name == "flock"


def test_of_a_history_while_training_goes_on(tmp_path, monkeypatch):
    """A full part is due at the second step: whatever its writing fails of is a warning, and the rows stay."""
    monkeypatch.setattr(ring, "CAPACITY", 1)

    def train(folder: Path) -> object:
        history = make(folder, rows_per_part=4)
        record(history, 1, 2, 3)
        return history

    names = names_of(lambda: train(tmp_path / "whole"))
    first = names.index("create")
    for i in range(first, len(names)):
        folder, held = tmp_path / f"{i}", []
        with pytest.warns(HistoryWarning, match="not written .* kept in memory"):
            failing(lambda folder=folder, held=held: held.append(train(folder)), i)
        held[0].close()
        assert steps_in(folder) == [1, 2, 3]


WRITERS = {
    "csv": lambda path, new: write_csv(path, ["a"], [{"a": new}]),
    "summary": lambda path, new: write_summary(path, []),
    "checkpoint": lambda path, new: save_checkpoint(path, {"a": torch.full((3,), float(new))}),
    "parquet": lambda path, new: write_history(filled(new), path),
    "factors": lambda path, new: factorize({"a.weight": torch.full((4, 6), float(new))}, path, error=0.1),
}


def filled(step):
    history = make()
    record(history, step)
    return history.to_arrow()


@pytest.mark.parametrize("name", WRITERS)
def test_of_a_file_that_replaces_another(tmp_path, name):
    write = WRITERS[name]
    for code in CODES:
        (here := tmp_path / f"{code}").mkdir()
        for i, call, folder in every_call(lambda folder: write(folder / "x", 2), here):
            path = folder / "x"
            write(path, 1)
            old = path.read_bytes()
            if call == "mkdir":
                continue  # the folder is there
            with pytest.raises(OSError) as caught:
                failing(lambda path=path: write(path, 2), i, code)
            assert caught.value.errno == code
            assert caught.value.filename == str(path) or call in UNNAMED
            assert [entry.name for entry in folder.iterdir()] == ["x"]
            if call not in UNNAMED:
                assert path.read_bytes() == old
            write(path, 2)


def test_of_a_checkpoint_training_goes_on(tmp_path):
    path = tmp_path / "checkpoints" / "x.pt"
    save_checkpoint(path, {"epoch": 1})
    for i in range(1, len(names_of(lambda: save_checkpoint(path, {"epoch": 1})))):
        told = []
        failing(lambda told=told: told.extend(keep_checkpoint(path, {"epoch": 2})), i)
        assert [f"{path}: cannot be written: No space left on device" in event.text for event in told] == [True]
        load_checkpoint(path)


@pytest.mark.parametrize("trouble", ["gone", "file", "full"])
def test_of_a_folder_that_is_not_one_any_more(tmp_path, trouble):
    folder = tmp_path / "run"
    history = make(folder)
    record(history, 1)
    history.flush()
    record(history, 2)
    shutil.move(folder, tmp_path / "elsewhere")
    if trouble == "file":
        folder.touch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HistoryWarning)
        if trouble == "full":
            shutil.move(tmp_path / "elsewhere", folder)
            with full_disk(0), pytest.raises(OSError, match=r"run.part-00001\.parquet"):
                history.flush()
        else:
            with pytest.raises(OSError, match="run"):
                history.flush()
            folder.unlink(missing_ok=True)
            shutil.move(tmp_path / "elsewhere", folder)
        history.close()
    assert steps_in(folder) == [1, 2]


def under(size, run, error):
    """The outcome of `run` on a disk where no file may be larger."""
    with full_disk(size):
        return outcome(run, error)


def test_of_a_ledger_at_every_size(tmp_path):
    for size in range(0, 26_000, 1900):
        folder = tmp_path / f"{size}"
        folder.mkdir()
        _, said = under(size, partial(Ledger.create, folder, {"a": 1}, {"one": {}, "two": {}}), LedgerError)
        if said is not None:
            assert str(folder) in said
            with pytest.raises(LedgerError, match="no such ledger"):
                Ledger.open(folder)
            Ledger.create(folder, {"a": 1}, {"one": {}, "two": {}})
        ledger = Ledger(Layout(folder).ledger)
        _, said = under(size, partial(ledger.crash, ["one", "two"], "e" * 5000), LedgerError)
        assert said is None or str(ledger.path) in said
        errors = [record.error for record in Ledger.open(folder).trials()]
        assert errors == ["e" * 5000 if said is None else None] * 2
        ledger.finish("one", Status.DONE, {"host": "here"}, 1.0)
        assert Ledger.open(folder).trials()[0].status is Status.DONE


def test_of_a_data_set_at_every_size(tmp_path):
    part = Part(np.zeros((3, 1, 8, 8), dtype=np.uint8), np.arange(3))
    info = DataInfo("x", "here", "0", ("a",), 1, 8, 8, 3, 0, (0.5,), (0.5,), ())
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"earlier")
    for size in range(0, 500, 50):
        (scratch := tmp_path / f"{size}").mkdir()
        with full_disk(size), pytest.raises(DataError, match=r"x\.safetensors: cannot be written: File too large"):
            write_set(path, scratch, info, {"train": part})
        assert path.read_bytes() == b"earlier"


@pytest.mark.parametrize("size", [0, 100, 1000])
def test_of_storage_elsewhere(tmp_path, size):
    url = f"file://{tmp_path / 'place'}"
    storage, place = Storage(url, Layout(tmp_path / "own")), Place(url)
    (source := tmp_path / "source").mkdir()
    (source / "part-00000.parquet").write_bytes(b"." * 3000)
    with full_disk(size), pytest.raises(OSError):
        place.push(source, place.history("one"))
    assert list((tmp_path / "place").rglob("*.parquet")) == []
    place.push(source, place.history("one"))
    with full_disk(size), pytest.raises(StorageError, match="the history of one cannot be fetched"):
        storage.fetch("one")
    assert not Layout(tmp_path / "own").history("one").exists()
    storage.fetch("one")
    assert (Layout(tmp_path / "own").history("one") / "part-00000.parquet").stat().st_size == 3000
