"""How a history's rows are stored in a Parquet file, so that it is small and one matrix can be read without the others.

Rows are sorted by matrix, in the order of the names, and stored in row groups of a few matrices each. The statistics of
the column `name` tell which matrices a row group holds. This column's metadata keeps the order in which the matrices of
a step are measured. From that order and the column `step`, the order of the rows is restored when they are read,
whatever was done to the file in between.

FP64 numbers are stored without loss, and their bytes are split into streams: the signs, exponents and first digits of a
matrix's numbers hardly change from step to step, so their streams compress to almost nothing. `bench/history.py` has
the figures, and what else was tried.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Collection, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

GROUP_ROWS = 8192
"""Least number of rows in a row group, except the last of a window: a smaller one takes longer to find than to
decode."""
WINDOW_ROWS, WINDOW_BYTES = 2**20, 2**28
"""Limits of a window, the steps whose rows are reordered at a time: rows, and their bytes in memory."""
MEASURED = b"measured"
"""Key of the metadata of the column `name`: a JSON list of all names, in the order a step's rows are measured."""


def encodings(schema: pa.Schema) -> dict[str, Any]:
    """Options of `pyarrow.parquet.ParquetWriter` for a history's columns."""
    import pyarrow as pa

    encoding = {"step": "DELTA_BINARY_PACKED"}
    for field in schema:
        if pa.types.is_floating(field.type):
            encoding[field.name] = "BYTE_STREAM_SPLIT"
        elif pa.types.is_list(field.type):
            encoding[f"{field.name}.list.element"] = "BYTE_STREAM_SPLIT"
    return {
        "column_encoding": encoding,
        "use_dictionary": [field.name for field in schema if field.name not in encoding],
        "compression": "zstd",
        "compression_level": 3,
        "write_statistics": ["step", "name"],  # statistics of the other columns would cost more than they could save
        "write_page_checksum": True,  # or a flipped bit would be read as another number
    }


def to_storage(table: pa.Table) -> tuple[pa.Schema, Iterator[pa.Table]]:
    """Bring a table into the form in which it is stored.

    Args:
        table: rows in the order they were measured; `name` is a dictionary in the order of a step's matrices.

    Returns:
        The schema, whose metadata has the order of the names, and the row groups: all rows of some matrices in a
        window.
    """
    table = table.unify_dictionaries()
    i = table.schema.get_field_index("name")
    words = table["name"].combine_chunks().dictionary.to_pylist()
    field = table.schema.field(i).with_metadata({MEASURED: json.dumps(words, ensure_ascii=False)})
    return table.schema.set(i, field), _row_groups(table, words)


def _row_groups(table: pa.Table, words: list[str]) -> Iterator[pa.Table]:
    """Yield row groups. Each has a dictionary of its own names only: for a large stack of models, all names in every
    group would take more room than the rows."""
    import pyarrow as pa

    by_name = np.array(sorted(range(len(words)), key=words.__getitem__), np.int64)
    place = np.argsort(by_name)
    i = table.schema.get_field_index("name")
    ordered = pa.array(words, pa.string()).take(by_name)
    for window in _windows(table):
        places = place[window["name"].combine_chunks().indices.to_numpy()]
        order = np.argsort(places, kind="stable")
        stored = window.take(order)
        places = places[order]
        start = first = 0
        counts = np.bincount(places, minlength=len(words))
        for last, end in enumerate(np.cumsum(counts).tolist()):
            if end - start >= GROUP_ROWS or start < end == len(stored):
                codes = (places[start:end] - first).astype(np.int32)
                names = pa.DictionaryArray.from_arrays(codes, ordered.slice(first, last + 1 - first))
                group = stored.slice(start, end - start)
                yield group.set_column(i, group.schema.field(i), names)
                start, first = end, last + 1


def _windows(table: pa.Table) -> Iterator[pa.Table]:
    """Cut a table into windows: as many whole steps as may be reordered at a time, at least one."""
    rows = len(table)
    ends = np.append(np.flatnonzero(np.diff(table["step"].to_numpy())) + 1, rows)  # of each step
    limit = min(WINDOW_ROWS, WINDOW_BYTES * rows // max(table.nbytes, 1))
    start = 0
    while start < rows:
        fitting = np.searchsorted(ends, start + limit, "right") - 1
        end = int(ends[max(fitting, np.searchsorted(ends, start, "right"))])
        yield table.slice(start, end - start)
        start = end


def holding(file: pq.ParquetFile, names: Collection[str]) -> list[int]:
    """Numbers of the row groups that, by their statistics, may hold rows of the matrices `names`."""
    metadata, column, ordered = file.metadata, file.schema.names.index("name"), sorted(names)

    def may(i: int) -> bool:
        statistics = metadata.row_group(i).column(column).statistics
        if statistics is None or not statistics.has_min_max:
            return True
        nearest = bisect_left(ordered, statistics.min)
        return nearest < len(ordered) and ordered[nearest] <= statistics.max

    return [i for i in range(metadata.num_row_groups) if may(i)]


def to_measured(table: pa.Table, names: Collection[str] | None) -> pa.Table:
    """Bring the rows of a file, or those of some of its matrices, into the order in which they were measured.

    Args:
        table: as stored, with the columns `step` and `name`.
        names: names of the matrices whose rows are wanted; None: all.
    """
    import pyarrow as pa

    i = table.schema.get_field_index("name")
    column = table.column(i).combine_chunks()
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    numbered, named = table.schema.field("step").type, column.type.value_type
    if not pa.types.is_integer(numbered) or not (pa.types.is_string(named) or pa.types.is_large_string(named)):
        raise ValueError("its columns step and name are not whole numbers and names")
    if table["step"].null_count or column.null_count:
        raise ValueError("it has rows without a step or a name")
    found, codes = column.dictionary.to_pylist(), column.indices.to_numpy()
    if names is not None:
        rows = np.flatnonzero(np.array([word in names for word in found], bool)[codes])
        table, codes = table.take(rows), codes[rows]
    key = table.column("step").to_numpy()
    words, place = _words((table.schema.field(i).metadata or {}).get(MEASURED, b"[]"))
    if place.keys() >= set(found):
        codes = np.array([place[word] for word in found], np.int32)[codes]
        table = table.set_column(i, "name", pa.DictionaryArray.from_arrays(codes, words))
        key = key * len(words) + codes
    if np.all(key[:-1] <= key[1:]):
        return table
    return table.take(np.argsort(key, kind="stable"))


@lru_cache(maxsize=1)
def _words(measured: bytes) -> tuple[pa.Array, dict[str, int]]:
    """All names in the order they are measured, and the place of each. Cached, because all parts of a history have the
    same."""
    import pyarrow as pa

    words = json.loads(measured)
    return pa.array(words, pa.string()), {word: i for i, word in enumerate(words)}
