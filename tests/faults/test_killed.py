"""A writer that dies at any of its calls of the system leaves all that was finished, nothing half, and no lock."""

from __future__ import annotations

import os
import signal
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_history import make, record, steps_in
from system_calls import every_call, killed, killed_at

from fastrank.experiments.data.info import DataInfo
from fastrank.experiments.data.store import Part, digest_of, read_info, read_parts, write_set
from fastrank.experiments.files import write_atomically
from fastrank.experiments.records import Layout, Ledger, Status
from fastrank.experiments.records.ledger import LedgerError
from fastrank.experiments.training.checkpoint import load_checkpoint, save_checkpoint

TAKE = ["open", "flock"]
REPLACE = ["fsync", "replace", "open", "fsync"]
RESULT = {"host": "here", "average_rank": 5.5}


def write_a_history(folder: Path) -> None:
    """A part that is written twice, by the alarm and at the end; what is certain is noted in a file of its own."""
    history = make(folder / "run")
    record(history, 1)
    history._on_alarm()
    (folder / "certain").touch()
    record(history, 2)
    history.close()


def test_of_a_history_at_every_call(tmp_path):
    names = []
    for i, name, folder in every_call(write_a_history, tmp_path):
        names.append(name)
        for when in ("before",) if name == "write" else ("before", "after"):
            run = folder / when
            run.mkdir()
            killed(lambda run=run: write_a_history(run), i, when)
            certain = (run / "certain").exists()
            steps = steps_in(run / "run") if (run / "run").exists() else []
            assert steps == list(range(1, len(steps) + 1))
            assert len(steps) >= certain
            assert {path.suffix for path in (run / "run").glob("[!.]*")} <= {".parquet"}
            again = make(run / "run", overwrite=True)  # the lock is free at once
            record(again, 8, 9)
            again.close()
            assert steps_in(run / "run") == [8, 9]
    kinds = [name for i, name in enumerate(names) if (name, *names[i - 1 : i]) != ("write", "write")]
    part = ["create", "write", *REPLACE]
    assert kinds == ["mkdir", *TAKE, *part, "open", *part, "unlink"]
    assert names.count("write") > 20


@pytest.mark.parametrize("there", [False, True])
def test_of_a_small_file_at_every_call(tmp_path, there):
    names = []
    for i, name, folder in every_call(lambda folder: write_atomically(folder / "x", b"new"), tmp_path):
        names.append(name)
        for when in ("before", "after"):
            (folder / when).mkdir()
            path = folder / when / "x"
            if there:
                path.write_bytes(b"old")
            killed(lambda path=path: write_atomically(path, b"new"), i, when)
            place = names.index("replace") if "replace" in names else i + 1
            new = i > place or (i == place and when == "after")
            assert (path.read_bytes() if path.exists() else None) == (b"new" if new else b"old" if there else None)
    assert names == ["mkdir", "create", "write", *REPLACE]


def test_of_a_checkpoint_at_every_call(tmp_path):
    old, new = {"epoch": 1, "w": torch.ones(3)}, {"epoch": 2, "w": torch.ones(3)}
    seen = set()
    for i, _, folder in every_call(lambda folder: save_checkpoint(folder / "x.pt", new), tmp_path):
        for when in ("before", "after"):
            path = folder / f"{when}.pt"
            save_checkpoint(path, old)
            killed(lambda path=path: save_checkpoint(path, new), i, when)
            seen.add(load_checkpoint(path)["epoch"])
    assert seen == {1, 2}


def test_of_a_ledger_wherever_a_file_grows(tmp_path):
    """SQLite's writes are not Python's: the system kills it in the midst of each that makes a file larger."""
    deaths = 0
    for size in range(0, 30_000, 2900):
        folder = tmp_path / f"{size}"
        folder.mkdir()
        died = killed_at(lambda folder=folder: Ledger.create(folder, {"a": 1}, {"one": {}, "two": {}}), size)
        deaths += died
        if died:
            with pytest.raises(LedgerError, match="no such ledger"):
                Ledger.open(folder)
        ledger = Ledger.create(folder, {"a": 1}, {"one": {}, "two": {}})
        ledger.start(["one"])

        def finish_both(ledger=ledger, folder=folder):
            for name in ("one", "two"):
                ledger.finish(name, Status.DONE, RESULT, 1.0)
                (folder / name).touch()

        deaths += killed_at(finish_both, size)
        done = [record.id for record in Ledger.open(folder).trials() if record.result == RESULT]
        assert done in ([], ["one"], ["one", "two"])
        assert done >= [name for name in ("one", "two") if (folder / name).exists()]
        ledger.finish("two", Status.DONE, RESULT, 1.0)
        assert Ledger.open(folder).trials()[1].result == RESULT
    assert deaths > 8


def test_of_a_ledger_at_every_instruction(tmp_path, monkeypatch):
    """Of SQLite's own machine, on which a transaction runs."""
    Ledger.create(tmp_path, {}, {"one": {}, "two": {}})
    connect = sqlite3.connect

    def finished(left: int) -> bool:
        def dying(*args, **options):
            connection = connect(*args, **options)

            def count():
                nonlocal left
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGXFSZ)

            connection.set_progress_handler(count, 1)
            return connection

        def finish():
            monkeypatch.setattr(sqlite3, "connect", dying)
            Ledger(Layout(tmp_path).ledger).crash(["one", "two"], f"error {left}")

        return not killed_at(finish, 10**9)

    left = 0
    while not finished(left):  # every fifth one
        errors = {record.error for record in Ledger.open(tmp_path).trials()}
        assert len(errors) == 1, "both trials are changed, or none"
        left += 5
    assert left > 50
    assert {record.error for record in Ledger.open(tmp_path).trials()} == {f"error {left}"}


def test_of_a_data_set_wherever_its_file_grows(tmp_path):
    part = Part(np.arange(3 * 64, dtype=np.uint8).reshape(3, 1, 8, 8), np.arange(3))
    info = DataInfo("x", "here", "", ("a", "b", "c"), 1, 8, 8, 3, 0, (0.5,), (0.5,), ())
    info = replace(info, digest=digest_of(info, {"train": part}))

    def write(folder: Path) -> None:
        write_set(folder / "x.safetensors", folder / "scratch", info, {"train": part})

    deaths = 0
    for size in range(0, 1000, 100):
        folder = tmp_path / f"{size}"
        (folder / "scratch").mkdir(parents=True)
        died = killed_at(lambda folder=folder: write(folder), size)
        deaths += died
        assert (folder / "x.safetensors").exists() == (not died)
        write(folder)
        assert read_info(folder / "x.safetensors", "x").train == 3
        assert len(read_parts(folder / "x.safetensors", read_info(folder / "x.safetensors", "x"))["train"].y) == 3
    assert deaths > 3
