"""Histories on disk: write Parquet files that are either complete or not there, and read them, whole or in part."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import replacing
from .extra import check_installed
from .row_groups import encodings, holding, to_measured, to_storage
from .seal import BLANK, KEY, seal, verify

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

RETRIES = 2
"""How often a folder is read again if parts were removed while it was read, as a run does when it is resumed."""


class HistoryError(RuntimeError):
    """A history on disk is missing, damaged, of another run, being written by another tracker, or lacks what was asked
    for; the message names it. Or the replays of a CUDA graph were miscounted."""


class _Missing(HistoryError):
    """A part is not there. It may have been removed while the folder was read, or not yet have been visible."""


def part_path(directory: Path, index: int) -> Path:
    """Path of the part with this number."""
    return directory / f"part-{index:05d}.parquet"


def list_parts(directory: Path) -> list[Path]:
    """Paths of the parts in a folder, in order of their numbers."""
    numbers = (re.fullmatch(r"part-(\d{5,})\.parquet", path.name) for path in directory.glob("part-*.parquet"))
    return [part_path(directory, i) for i in sorted(int(number[1]) for number in numbers if number)]


def write_history(table: pa.Table, path: str | os.PathLike[str]) -> None:
    """Write a history to one file, replacing what is there atomically: temporary file, fsync, rename, fsync of folder.

    Args:
        table: rows in the order they were measured, with the columns of `RankTracker.to_arrow` or some of them.
        path: the file. `part-00000.parquet`, `part-00001.parquet`, ... in one folder are one history.

    Raises:
        HistoryError: the table has no column `step` or no column `name`.
        OSError: nothing was written, and what was there before is still there.
    """
    check_installed("write_history")
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path).expanduser()
    for column in ("step", "name"):
        if column not in table.column_names:
            raise HistoryError(_unknown(f"{path}: not written", "column", column, table.column_names))
    if not pa.types.is_dictionary(table.schema.field("name").type):  # a table from another program
        place = table.column_names.index("name")
        table = table.set_column(place, "name", table["name"].dictionary_encode())
    with replacing(path) as file:
        schema, groups = to_storage(table)
        with pq.ParquetWriter(file, schema, **encodings(schema)) as writer:
            for group in groups:
                writer.write_table(group, row_group_size=len(group))
            writer.add_key_value_metadata({KEY: BLANK})
        seal(file)


def read_history(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    names: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """Read a history, or some matrices and columns of it. Hardly more than these are read and held in memory.

    Args:
        path: a Parquet file that `RankTracker.write_parquet` wrote, a folder of parts, or a list of parts. Training may
            go on meanwhile: parts that are added later are not read.
        names: names of the matrices whose rows are wanted (default: all).
        columns: the columns that are wanted, in this order (default: all, in the order they were recorded).

    Returns:
        A `pyarrow.Table`, rows in the order they were measured.

    Raises:
        HistoryError: nothing there, a part missing between others, a file that is truncated or not a history, or no
            such matrix or column; the message names it.
        TypeError: `names` or `columns` is a string. ValueError: a column twice.
    """
    check_installed("read_history")
    for argument, asked in (("names", names), ("columns", columns)):
        if isinstance(asked, str):
            raise TypeError(f"{argument}: expected a list of names, not the string {asked!r}")
    if columns is not None and len(set(columns)) < len(columns):
        raise ValueError(f"columns: one is there twice in {list(columns)}")
    if not isinstance(path, str | os.PathLike):
        return concat(read_parts([Path(file).expanduser() for file in path], names, columns))
    single = Path(path).expanduser()
    if not single.is_dir():
        return concat(read_parts([single], names, columns))
    for _ in range(RETRIES):
        with suppress(_Missing):
            return concat(read_parts(complete_parts(single), names, columns))
    return concat(read_parts(complete_parts(single), names, columns))


def read_parts(
    files: Sequence[Path], names: Sequence[str] | None = None, columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """Yield the rows of each file, in the order they were measured; arguments and errors as in `read_history`."""
    if not files:
        raise HistoryError("an empty list of files: no part of a history")
    chosen = None if names is None else frozenset(names)
    missing, schema = set(chosen or ()), None
    for file in files:
        table = _read(file, chosen, columns)
        if missing:
            missing -= set(table["name"].unique().to_pylist())
        table = table.select(columns) if columns is not None else table
        schema = schema or table.schema
        if not table.schema.equals(schema):
            raise HistoryError(f"{file}: its columns differ from those of {files[0]}: parts of different runs")
        yield table
    if missing:
        known = _read(files[0], None, ["name"])["name"].unique().to_pylist()
        raise HistoryError(_unknown(files[0], "matrix", min(missing), known))


def _read(file: Path, names: Collection[str] | None, columns: Sequence[str] | None) -> pa.Table:
    """Rows of one file, or those of the matrices `names`, with the `columns` asked for and always `step` and `name`."""
    with _opened(file) as stored:
        schema = stored.schema_arrow
        for column in ("step", "name", *(columns or ())):
            if column not in schema.names:
                raise HistoryError(_unknown(file, "column", column, schema.names))
        needed = schema.names if columns is None else list(dict.fromkeys([*columns, "step", "name"]))
        groups = holding(stored, names) if names is not None else range(stored.num_row_groups)
        return to_measured(stored.read_row_groups(groups, needed, use_threads=names is None), names)


def column_names(file: Path) -> list[str]:
    """The columns that a file has. Raises `HistoryError` as `read_history` does."""
    with _opened(file) as stored:
        return list(stored.schema_arrow.names)


@contextmanager
def _opened(file: Path) -> Iterator[pq.ParquetFile]:
    """A Parquet file, whose pages are verified as they are read. What goes wrong in the block is a `HistoryError`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        verify(file)
        with pq.ParquetFile(file, pre_buffer=False, page_checksum_verification=True) as stored:
            yield stored
    # Besides its own errors, pyarrow raises ValueError for names that are not UTF-8, and NumPy for odd columns.
    except (OSError, pa.ArrowException, ValueError, TypeError, LookupError, OverflowError) as error:
        if isinstance(error, MemoryError):
            raise  # one of pyarrow's
        if not file.exists():
            raise _Missing(f"{file}: not there") from error
        raise HistoryError(f"{file}: truncated, damaged or not a history in Parquet ({error})") from error


def complete_parts(directory: Path) -> list[Path]:
    """Paths of the parts in a folder, after a check that there are some and none is missing between them."""
    files = list_parts(directory)
    if not files:
        raise HistoryError(f"{directory}: holds no part of a history")
    for i, file in enumerate(files):
        if file != part_path(directory, i):
            missing = part_path(directory, i)
            raise _Missing(f"{missing}: missing, but {file.name} is there; a list of files reads what is left")
    return files


def _unknown(file: Path | str, kind: str, word: str, known: Sequence[str]) -> str:
    nearest = get_close_matches(word, known, n=3, cutoff=0.4) or known[:3]
    return f"{file}: no {kind} {word!r}; the nearest there: {', '.join(map(repr, nearest)) or 'none'}"


def concat(tables: Iterable[pa.Table]) -> pa.Table:
    """Join the tables of one history, one after the other. If a generator makes them, they are released column by
    column while they are joined."""
    import pyarrow as pa

    joined = pa.concat_tables(list(tables)).unify_dictionaries()
    schema, columns = pa.schema([field.remove_metadata() for field in joined.schema]), joined.columns
    del joined
    for i, column in enumerate(columns):
        columns[i] = column.combine_chunks()
    return pa.Table.from_arrays(columns, schema=schema)
