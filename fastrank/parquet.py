"""Histories on disk: Parquet files that are whole or not there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


class HistoryError(RuntimeError):
    """A history on disk is missing, damaged, or another run's. The message names the file or folder."""


def part_path(directory: Path, index: int) -> Path:
    return directory / f"part-{index:05d}.parquet"


def list_parts(directory: Path) -> list[Path]:
    """The parts in a folder, in order."""
    return sorted(directory.glob("part-*.parquet"))


def write_table(table: pa.Table, path: Path) -> None:
    """Write `table` to `path`, replacing what is there, at once: temporary file, fsync, rename, fsync of the folder.

    Raises:
        OSError: nothing was written, and what was there before is still there.
    """
    import pyarrow.parquet as pq

    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            pq.write_table(table, file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_history(path: str | os.PathLike[str] | Sequence[Path]) -> pa.Table:
    """Read a history back.

    Args:
        path: a Parquet file that `RankTracker.write_parquet` wrote, a folder of parts, or a list of parts.

    Returns:
        A `pyarrow.Table`, rows in the order they were measured.

    Raises:
        HistoryError: nothing there, or a file that is truncated or not Parquet; the message names it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if isinstance(path, str | os.PathLike):
        single = Path(path)
        files: Sequence[Path] = list_parts(single) if single.is_dir() else [single]
    else:
        files = path
    if not files:
        raise HistoryError(f"{path}: holds no part of a history")
    tables = []
    for file in files:
        try:
            tables.append(pq.read_table(file))
        except (OSError, pa.ArrowException) as error:
            reason = "not there" if not file.exists() else f"truncated or not a Parquet file ({error})"
            raise HistoryError(f"{file}: {reason}") from error
    return concat(tables)


def concat(tables: Sequence[pa.Table]) -> pa.Table:
    """Tables of one history, one after the other, as one."""
    import pyarrow as pa

    return pa.concat_tables(tables).unify_dictionaries().combine_chunks()
