"""What lies where in a sweep's folder, and how files get there without ever being half written."""

import csv
import io
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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
        """Held by the driver as long as it lives; holds its process id."""
        return self.folder / "sweep.lock"

    @property
    def summary(self) -> Path:
        """One row a trial, as CSV."""
        return self.folder / "summary.csv"

    def history(self, trial: str) -> Path:
        """Folder of the Parquet parts of one trial; of a stack while it trains."""
        return self.folder / "history" / trial

    def checkpoint(self, trial: str) -> Path:
        """Checkpoint of one trial or stack; it is there only until every trial in it has a result."""
        return self.folder / "checkpoints" / f"{trial}.pt"

    def forget(self, name: str) -> None:
        """Remove the checkpoint and the history of a trial or stack that starts from zero."""
        self.checkpoint(name).unlink(missing_ok=True)
        self.forget_history(name)

    def forget_history(self, name: str) -> None:
        """Remove the history of a trial or stack."""
        if self.history(name).exists():
            shutil.rmtree(self.history(name))


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` so that a reader, or a power cut, sees the old file or the new one whole.

    Raises OSError (disk full, read-only folder) with the old file intact and no temporary file left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)  # mkstemp makes it private; results are to be read by others
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    """Write ``rows`` atomically as CSV; None becomes an empty field."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())
