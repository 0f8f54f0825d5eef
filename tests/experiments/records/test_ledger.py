"""The ledger: a trial's life, and what is said of a file that is not, or not any more, a ledger."""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fastrank.experiments.records.ledger import Ledger, LedgerError, Status

RESULT = {"host": "here", "steps": 10, "average_rank": 5.5, "full_rank": 8.0, "train_accuracy": 1.0}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Ledger.create(tmp_path, {"config": {"a": [1]}, "commit": "c", "versions": {}}, {"one": {"lr": 1.0}, "two": {}})
    return tmp_path


@pytest.fixture
def unwritable(folder: Path) -> Iterator[Path]:
    """The folder, for a user who may only read it; root may do anything, so it becomes nobody for the while."""
    for place in (folder, *folder.parents):
        if place.owner() != "root" or place.stat().st_mode & 0o005 != 0o005:
            place.chmod(0o755)
        if place == Path("/tmp"):
            break
    (folder / "trials.sqlite").chmod(0o444)
    folder.chmod(0o555)
    is_root = os.geteuid() == 0
    if is_root:
        os.setresuid(65534, 65534, 0)  # the saved one is the way back
    yield folder
    if is_root:
        os.setresuid(0, 0, 0)
    folder.chmod(0o755)


def test_a_new_ledger_has_every_trial_pending_in_order(folder: Path) -> None:
    ledger = Ledger.open(folder)
    assert [(r.id, r.spec, r.status, r.attempts) for r in ledger.trials()] == [
        ("one", {"lr": 1.0}, Status.PENDING, 0),
        ("two", {}, Status.PENDING, 0),
    ]
    assert ledger.meta["config"] == {"a": [1]}
    assert ledger.meta["commit"] == "c"
    assert {path.name for path in folder.iterdir()} == {"trials.sqlite"}


def test_a_trial_that_ends_well(folder: Path) -> None:
    ledger = Ledger.open(folder)
    ledger.start(["two"])
    running = ledger.trials()[1]
    assert (running.status, running.attempts, running.finished) == (Status.RUNNING, 1, None)
    assert running.started
    assert running.started.endswith("+00:00")
    ledger.finish("two", Status.DIVERGED, RESULT, seconds=2.5)
    ended = Ledger.open(folder).trials()[1]
    assert (ended.status, ended.result, ended.seconds, ended.error) == (Status.DIVERGED, RESULT, 2.5, None)
    assert ended.host == RESULT["host"]
    assert ended.finished
    assert ledger.trials()[0].status is Status.PENDING


def test_a_crash_is_retried_once_and_an_interruption_does_not_count(folder: Path) -> None:
    ledger = Ledger.open(folder)
    ledger.start(["one"])
    ledger.release()
    assert (ledger.trials()[0].status, ledger.trials()[0].attempts) == (Status.PENDING, 0)
    ledger.start(["one"])
    ledger.crash(["one"], "first")
    assert ledger.trials()[0].status is Status.PENDING
    ledger.start(["one"])
    ledger.crash(["one"], "second")
    assert ledger.trials()[0].status is Status.FAILED
    assert (ledger.trials()[0].error, ledger.trials()[0].attempts) == ("second", 2)
    ledger.reopen_failed()
    assert (ledger.trials()[0].status, ledger.trials()[0].attempts) == (Status.PENDING, 0)


def test_what_is_finished_stays_finished(folder: Path) -> None:
    ledger = Ledger.open(folder)
    ledger.start(["one", "two"], "stack-0")
    ledger.finish("one", Status.DONE, RESULT, seconds=2.5)
    before = ledger.trials()[0]
    ledger.start(["one", "two"], "stack-0")  # the stack is resumed for the sake of the other
    ledger.finish("one", Status.DIVERGED, {}, seconds=9.0)
    ledger.crash(["one"], "late")
    ledger.unstack(["one"])
    assert ledger.trials()[0] == before
    assert (ledger.trials()[1].stack, ledger.trials()[1].attempts) == ("stack-0", 2)


def test_a_stack_that_is_split_is_as_if_never_tried(folder: Path) -> None:
    ledger = Ledger.open(folder)
    ledger.start(["one", "two"], "stack-0")
    ledger.unstack(["two"])
    assert [(r.status, r.attempts, r.stack) for r in ledger.trials()] == [
        (Status.RUNNING, 1, "stack-0"),
        (Status.PENDING, 0, None),
    ]
    ledger.postpone(["one"])
    assert (ledger.trials()[0].status, ledger.trials()[0].attempts) == (Status.PENDING, 0)


def test_a_missing_ledger_is_named(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="no such ledger") as caught:
        Ledger.open(tmp_path)
    assert str(tmp_path / "trials.sqlite") in str(caught.value)


@pytest.mark.parametrize("damage", ["text", "truncated", "overwritten", "empty"])
def test_a_damaged_ledger_is_named_with_the_remedy(folder: Path, damage: str) -> None:
    path = folder / "trials.sqlite"
    content = path.read_bytes()
    match damage:
        case "text":
            path.write_text("this is no database " * 500)
        case "truncated":
            path.write_bytes(content[: len(content) // 2])
        case "overwritten":
            path.write_bytes(content[:4096] + b"\xa5" * (len(content) - 4096))
        case "empty":
            path.write_bytes(b"")
    with pytest.raises(LedgerError, match="damaged") as caught:
        Ledger.open(folder)
    assert str(path) in str(caught.value)
    assert "backup" in str(caught.value)


def test_a_value_that_cannot_be_read_is_damage_too(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "trials.sqlite")) as connection, connection:
        connection.execute("UPDATE trials SET status = 'napping'")
    with pytest.raises(LedgerError, match="damaged"):
        Ledger.open(folder).trials()


def test_another_version_is_refused(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "trials.sqlite")) as connection, connection:
        connection.execute("UPDATE meta SET value = '99' WHERE key = 'schema'")
    with pytest.raises(LedgerError, match="schema 99"):
        Ledger.open(folder)


def test_a_full_disk_is_named_and_the_ledger_stays_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger.open(folder)
    real = sqlite3.connect

    def on_a_full_disk(*args: object, **kwargs: object) -> sqlite3.Connection:
        connection: sqlite3.Connection = real(*args, **kwargs)  # type: ignore[call-overload]
        connection.execute("PRAGMA max_page_count = 1")  # SQLite's own way to have no room
        return connection

    monkeypatch.setattr(sqlite3, "connect", on_a_full_disk)
    with pytest.raises(LedgerError, match="full"):
        ledger.crash(["one"], "e" * 100_000)
    monkeypatch.undo()
    assert [record.error for record in Ledger.open(folder).trials()] == [None, None]


def test_a_read_only_folder_can_be_read_and_says_so_when_written(unwritable: Path) -> None:
    ledger = Ledger.open(unwritable)
    assert len(ledger.trials()) == 2
    with pytest.raises(LedgerError, match="permissions") as caught:
        ledger.start(["one"])
    assert "trials.sqlite" in str(caught.value)


def test_a_driver_killed_while_making_the_ledger_leaves_none(tmp_path: Path, folder: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(folder / "trials.sqlite", other / "trials.draft")
    (other / "trials.draft-wal").write_bytes(b"half a log")
    with pytest.raises(LedgerError, match="no such ledger"):
        Ledger.open(other)
    Ledger.create(other, {}, {"three": {}})
    assert [record.id for record in Ledger.open(other).trials()] == ["three"]
