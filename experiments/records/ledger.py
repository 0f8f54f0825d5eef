"""The ledger: which trials a sweep has, how far each has come, and what came out. SQLite, one row a trial.

The driver alone writes the ledger; anybody may read it meanwhile. Every change is one transaction, and a connection
lives only as long as its transaction. So there is nothing to close, and a killed driver leaves nothing half done.
"""

import os
import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastrank.files import sync

from ..errors import UserError
from .layout import Layout
from .sealed import sealed, unsealed

SCHEMA_VERSION = 2
MAX_ATTEMPTS = 2  # a trial that crashes is tried once more
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE trials (
    position INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, spec TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'pending', attempts INTEGER NOT NULL DEFAULT 0,
    stack TEXT, host TEXT, started TEXT, finished TEXT, seconds REAL, error TEXT, result TEXT
);
PRAGMA journal_mode = WAL;
"""


class LedgerError(UserError):
    """The ledger is missing, damaged, of another version or cannot be written. The message names the file."""


class Status(StrEnum):
    """Where a trial stands. ``diverged`` (the loss became non-finite) is a result, as ``done`` is."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    DIVERGED = "diverged"
    FAILED = "failed"

    @property
    def is_result(self) -> bool:
        """Whether the trial has come to its end and has numbers to show."""
        return self in (Status.DONE, Status.DIVERGED)


@dataclass(frozen=True)
class TrialRecord:
    """One row of the ledger: a trial.

    ``stack`` names the stack that the trial is trained in, from its first start on; None for a trial that trains
    alone. ``host`` is the machine that finished it. Times are ISO 8601 in UTC; ``seconds`` is training time, over all
    sessions of the trial.
    """

    id: str
    spec: dict[str, Any]
    status: Status
    attempts: int
    stack: str | None
    host: str | None
    started: str | None
    finished: str | None
    seconds: float | None
    error: str | None
    result: dict[str, Any] | None


class Ledger:
    """Handle of ``trials.sqlite`` in a sweep's folder. Make one with `create` or `open`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, folder: Path, meta: dict[str, Any], trials: dict[str, dict[str, Any]]) -> "Ledger":
        """Write a new ledger with all ``trials`` (id -> specification) pending.

        The file gets its name only when it is complete.
        """
        path, draft = Layout(folder).ledger, Layout(folder).ledger.with_suffix(".draft")
        for leftover in folder.glob(f"{draft.name}*"):  # of a driver that was killed right here
            leftover.unlink()
        meta = {"schema": SCHEMA_VERSION, "created": _now(), **meta}
        with _named(draft), closing(sqlite3.connect(draft)) as connection:
            connection.executescript(_SCHEMA)
            entries = [(key, sealed(value, key)) for key, value in meta.items()]
            rows = [(i, name, sealed(spec, name)) for i, (name, spec) in enumerate(trials.items())]
            connection.executemany("INSERT INTO meta VALUES (?, ?)", entries)
            connection.executemany("INSERT INTO trials (position, id, spec) VALUES (?, ?, ?)", rows)
            connection.commit()
        draft.replace(path)
        sync(folder)
        return cls(path)

    @classmethod
    def open(cls, folder: Path) -> "Ledger":
        """The ledger of a folder. Raises LedgerError where it is missing, damaged or of another version."""
        ledger = cls(Layout(folder).ledger)
        if not ledger.path.is_file():
            raise LedgerError(
                f"{ledger.path}: no such ledger. Is this a sweep's folder? "
                f"'fastrank sweep CONFIG --out {folder}' makes one"
            )
        with ledger._connection() as connection:
            sound = connection.execute("PRAGMA quick_check").fetchone()[0]
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if sound != "ok" or not {"meta", "trials"} <= tables:
            raise LedgerError(_damaged(ledger.path, sound if sound != "ok" else "it has no table of trials"))
        version = ledger.meta.get("schema")
        if version != SCHEMA_VERSION:
            raise LedgerError(
                f"{ledger.path}: written in schema {version}, and this fastrank reads {SCHEMA_VERSION}: "
                "use the fastrank that wrote it, or start a new folder"
            )
        return ledger

    @property
    def meta(self) -> dict[str, Any]:
        """``config`` (canonical), ``data``, ``commit``, ``versions``, ``created`` and ``schema``."""
        with self._connection() as connection:
            entries = connection.execute("SELECT key, value FROM meta")
            return {key: unsealed(value, key) for key, value in entries}

    def trials(self) -> list[TrialRecord]:
        """All trials, in the order of the grid."""
        with self._connection() as connection:
            connection.row_factory = sqlite3.Row
            return [_record(row) for row in connection.execute("SELECT * FROM trials ORDER BY position")]

    def start(self, trials: Iterable[str], stack: str | None = None) -> None:
        """Record that a worker begins these trials, one more attempt of each. ``stack``: its name, if they are one."""
        change = "status = 'running', attempts = attempts + 1, started = ?, finished = NULL, error = NULL, stack = ?"
        self._update(change, (_now(), stack), trials)

    def finish(self, trial: str, status: Status, result: dict[str, Any], seconds: float) -> None:
        """Record that the trial has come to its end, ``done`` or ``diverged``, with this result."""
        host, now, seconds = result.get("host"), _now(), float(seconds)
        values = (status, sealed(result, trial, str(status), seconds, host, now), seconds, host, now)
        self._update("status = ?, result = ?, seconds = ?, host = ?, finished = ?", values, [trial])

    def crash(self, trials: Iterable[str], error: str) -> None:
        """Record that the trials' worker failed or died: they are ``pending``, or ``failed`` after `MAX_ATTEMPTS`."""
        self._update(
            f"status = CASE WHEN attempts < {MAX_ATTEMPTS} THEN 'pending' ELSE 'failed' END, error = ?, finished = ?",
            (error, _now()),
            trials,
        )

    def unstack(self, trials: Iterable[str]) -> None:
        """Give up the stack of these trials: they are pending as if never tried, free for another stack."""
        self._update("status = 'pending', attempts = 0, stack = NULL, started = NULL", (), trials)

    def postpone(self, trials: Iterable[str]) -> None:
        """Make these trials pending: their worker was killed, which is not their fault and counts as no attempt."""
        self._update("status = 'pending', attempts = attempts - 1", (), trials)

    def release(self) -> None:
        """Make running trials pending: an interruption is not the trial's fault and counts as no attempt."""
        self._write("UPDATE trials SET status = 'pending', attempts = attempts - 1 WHERE status = 'running'")

    def reopen_failed(self) -> None:
        """Make failed trials pending, with all their attempts: the user has asked for another run."""
        self._write("UPDATE trials SET status = 'pending', attempts = 0 WHERE status = 'failed'")

    def _update(self, assignments: str, values: tuple[Any, ...], trials: Iterable[str]) -> None:
        """Change the rows of these trials in one transaction, except of those that have a result: a result is final."""
        where = "WHERE id = ? AND status NOT IN ('done', 'diverged')"
        with self._connection() as connection, connection:  # the inner one commits, or rolls back
            rows = [(*values, trial) for trial in trials]
            connection.executemany(f"UPDATE trials SET {assignments} {where}", rows)

    def _write(self, statement: str) -> None:
        with self._connection() as connection, connection:
            connection.execute(statement)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        with _named(self.path), closing(sqlite3.connect(_uri(self.path), uri=True, timeout=30)) as connection:
            yield connection


def _uri(path: Path) -> str:
    """The database as a URI, which tells SQLite to write nothing where it cannot.

    Even to read a WAL database SQLite makes files beside it. In a folder that is read-only, and has no file of changes
    yet to be merged (``-wal``), ``immutable=1`` keeps it from that.
    """
    settled = not os.access(path.parent, os.W_OK) and not path.with_name(path.name + "-wal").exists()
    return f"file:{quote(str(path.absolute()))}" + ("?immutable=1" if settled else "")


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn SQLite's errors, which name no file, into LedgerError."""
    try:
        yield
    except sqlite3.OperationalError as error:  # disk full, read-only, locked
        raise LedgerError(
            f"{path}: cannot be used: {error}. Check free space and permissions, and run again"
        ) from error
    except (sqlite3.Error, ValueError, TypeError, LookupError, RecursionError) as error:  # not as it is written here
        raise LedgerError(_damaged(path, str(error))) from error


def _damaged(path: Path, reason: str) -> str:
    return (
        f"{path}: the ledger is damaged ({reason}): put a backup of it back, or start again in a new folder; "
        "history and summary.csv beside it are untouched"
    )


def _record(row: sqlite3.Row) -> TrialRecord:
    fields = {key: row[key] for key in row.keys() if key != "position"}  # noqa: SIM118 (a Row iterates over values)
    for name in (fields["id"], fields["stack"]):  # they name files and folders, which are removed as well
        if name is not None and not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} names no trial")
    fields["status"] = Status(fields["status"])
    fields["spec"] = unsealed(fields["spec"], fields["id"])
    if fields["result"] is not None:
        beside = (fields["id"], str(fields["status"]), fields["seconds"], fields["host"], fields["finished"])
        fields["result"] = unsealed(fields["result"], *beside)
    if not isinstance(fields["spec"], dict) or not isinstance(fields["result"] or {}, dict):
        raise ValueError(f"the row of {fields['id']} holds no trial")
    if fields["status"].is_result and fields["result"] is None:
        raise ValueError(f"the row of {fields['id']} says that it has ended, and holds no result")
    return TrialRecord(**fields)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
