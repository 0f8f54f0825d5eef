"""Parts: the folder of a run's Parquet parts, which has one writer at a time.

The writer holds a lock on a hidden file in the folder. A resumed run is made in the folder of the run before it, and
only then loads its state, so the parts that are there are not touched before the first step, or the state, has come.

Ranks of one job that were given the same folder do not race. Rank 0 has the lock from the beginning, and a rank that
finds it taken keeps its rows in memory.
"""

from __future__ import annotations

import gc
import os
import warnings
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import distributed

from ..files import Lock
from .extra import check_installed
from .parquet import HistoryError, list_parts, part_path, write_history

if TYPE_CHECKING:
    import pyarrow as pa


Stamp = tuple[int, int]


class HistoryWarning(UserWarning):
    """Rows could not be written to a folder. As long as training goes on, they are kept in memory."""


class Parts:
    """A run's parts in `directory`, of which the first `count` are complete; a later one is written again.

    Args:
        directory: the folder, made if missing.
        overwrite: whether parts of an earlier run are removed before the first step, unless a state is loaded before.

    Raises:
        HistoryError: another tracker writes there. OSError: the folder cannot be made. ImportError: pyarrow is missing.
    """

    def __init__(self, directory: Path, overwrite: bool) -> None:
        check_installed("directory=, a folder of Parquet files,")
        import_module("pyarrow.parquet")  # now, because nothing can be imported when the last part is written at exit
        # It looks for pandas when it makes its first array, under a lock: let that be here, and not in the alarm's
        # thread, or a process that is forked meanwhile waits for ever when it makes its own.
        import_module("pyarrow").array(np.zeros(1))
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.count = 0
        self._own: dict[Path, Stamp | None] = {}  # the complete parts, and a later one if it is there
        self._replaces = overwrite  # whether parts that are not its own are removed by the next claim
        self._rank = _rank()
        self._lock = Lock(directory / ".writer.lock")
        self._unlocked = False  # whether the folder was found to have no locks
        self._shared = False  # whether another rank was found to write there
        self._claimed_by = 0  # the process; one that is forked off it has not claimed the folder
        if self._rank == 0:
            self._take()

    @property
    def claimed(self) -> bool:
        """Whether `claim` was called, since the run began or was last closed."""
        return self._claimed_by == os.getpid()

    @property
    def free(self) -> bool:
        """Whether a part can be written without harm to an earlier run, even if no step has claimed the folder."""
        return self.claimed or (self._lock.held and not list_parts(self.directory))

    def claim(self) -> bool:
        """Take the folder for this run; returns whether this process writes there, and not another rank.

        Raises:
            HistoryError: another tracker writes there, or has written parts that are not to be removed.
        """
        if self._shared or (self.claimed and self._lock.held):
            return not self._shared
        if self._take():
            others = [path for path in list_parts(self.directory) if self._own.get(path) != _stamp(path)]
            if others and not self._replaces:
                raise HistoryError(
                    f"{self.directory}: holds parts of an earlier run; load that run's tracker state to continue it, "
                    "make the tracker with overwrite=True to remove them, or choose another folder"
                )
            for path in reversed(others):
                path.unlink(missing_ok=True)
        self._replaces, self._claimed_by = False, os.getpid()
        return not self._shared

    def continue_after(self, count: int) -> None:
        """Count on the first `count` parts, which a state names; later ones are removed, at the latest by `claim`.

        Raises:
            HistoryError: one of them is missing, or another tracker writes there.
        """
        own = {path: _stamp(path) for path in (part_path(self.directory, i) for i in range(count))}
        for path, stamp in own.items():
            if stamp is None:
                raise HistoryError(f"{path}: missing, but the state counts on it")
        self.count, self._own = count, own
        self._replaces, self._claimed_by = True, 0
        if self._rank == 0:
            self.claim()

    def write(self, table: pa.Table) -> None:
        """Write the part that comes after the complete ones, in place of what was written there before."""
        path = part_path(self.directory, self.count)
        write_history(table, path)
        self._own[path] = _stamp(path)

    def release(self) -> None:
        """Let others write to the folder."""
        self._lock.release()
        self._claimed_by = 0

    def _take(self) -> bool:
        """Take the lock; returns whether this process may write. False: another rank does."""
        reason = "another rank writes there"
        try:
            if not self._lock.take():
                gc.collect()  # a tracker that was forgotten in a cycle of references keeps its lock until then
            if self._lock.take():
                return True
        except (OSError, ImportError) as error:
            reason = f"it cannot be locked ({error})"
            if self._rank == 0:
                if not self._unlocked:
                    self._warn(f"{reason}; make sure that nobody else writes there")
                self._unlocked = True
                return True
        if self._rank == 0:
            raise HistoryError(
                f"{self.directory}: another tracker is writing there; close() it first, and then load its state to "
                "continue its history, or make the new tracker with overwrite=True to start over"
            )
        self._shared = True
        self._warn(
            f"rows of rank {self._rank} stay in memory, because {reason}: make the tracker on rank 0 alone, or give "
            "each rank a folder of its own"
        )
        return False

    def _warn(self, message: str) -> None:
        warnings.warn(f"{self.directory}: {message}", HistoryWarning, stacklevel=6)


def _stamp(path: Path) -> Stamp | None:
    """What tells a file from one that another run has put in its place; None if there is none."""
    with suppress(FileNotFoundError):
        status = path.stat()
        return status.st_size, status.st_mtime_ns
    return None


def _rank() -> int:
    """This process's number in its job; 0 outside a job."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank()
    launched = os.environ.get("RANK", "")
    return int(launched) if launched.isdecimal() else 0
