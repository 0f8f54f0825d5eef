"""Where everything lies in a sweep's folder."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import fastrank


@dataclass(frozen=True)
class Layout:
    """Paths inside the folder given as ``--out``."""

    folder: Path

    @property
    def config(self) -> Path:
        """Copy of the configuration, byte for byte as it was given."""
        return self.folder / "config.toml"

    @property
    def ledger(self) -> Path:
        """SQLite database of all trials."""
        return self.folder / "trials.sqlite"

    @property
    def lock(self) -> Path:
        """File that the driver locks as long as it lives; it contains the driver's process id."""
        return self.folder / "sweep.lock"

    @property
    def summary(self) -> Path:
        """Results as CSV, one row a trial."""
        return self.folder / "summary.csv"

    def history(self, trial: str) -> Path:
        """Folder of the Parquet parts of one trial's history; also of a stack's, as long as the stack trains."""
        return self.folder / "history" / trial

    def checkpoint(self, trial: str) -> Path:
        """Checkpoint of one trial or stack. It exists only until every trial in it has a result."""
        return self.folder / "checkpoints" / f"{trial}.pt"

    def forget(self, name: str) -> None:
        """Remove the checkpoint and the history of a trial or stack, so that it starts from zero."""
        self.checkpoint(name).unlink(missing_ok=True)
        self.forget_history(name)

    def forget_history(self, name: str) -> None:
        """Remove the history of a trial or stack."""
        if self.history(name).exists():
            shutil.rmtree(self.history(name))


def history_parts(folder: Path) -> list[Path]:
    """The Parquet files of one history, in the order of their steps.

    Raises:
        fastrank.HistoryError: there is none.
    """
    files = sorted(folder.glob("part-*.parquet"), key=lambda file: (len(file.name), file.name))
    if not files:
        raise fastrank.HistoryError(f"{folder}: holds no part of a history")
    return files
