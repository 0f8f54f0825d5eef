"""How a history's rows are stored in a Parquet file, so that it is small and a series is read without its neighbours.

Rows stand matrix by matrix, in the order of their names, in row groups of a few matrices each: the statistics of the
column `name` tell which. Its metadata keeps the order in which a step's matrices are measured. That order, and the
column `step`, give the rows their places back, whatever was done to the file in between.

FP64 is stored whole, its bytes split into streams: signs, exponents and first digits of a matrix' numbers hardly change
from step to step, and compress to nothing. `bench/history.py` has the figures, and what else was tried.
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
"""Rows of a row group, at least and if there are as many: a smaller one takes longer to find than to decode."""
WINDOW_ROWS, WINDOW_BYTES = 2**20, 2**28
"""Rows, and their bytes in memory, that are reordered at a time."""
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
        "write_statistics": ["step", "name"],  # of the other columns they cost more than they could spare
    }


def to_storage(table: pa.Table) -> tuple[pa.Schema, Iterator[pa.Table]]:
    """A table as it is stored.

    Args:
        table: rows in the order they were measured; `name` is a dictionary in the order of a step's matrices.

    Returns:
        The schema with the names' order, and the row groups: whole matrices of whole steps.
    """
    table = table.unify_dictionaries()
    i = table.schema.get_field_index("name")
    words = table["name"].combine_chunks().dictionary.to_pylist()
    field = table.schema.field(i).with_metadata({MEASURED: json.dumps(words, ensure_ascii=False)})
    return table.schema.set(i, field), _row_groups(table, words)


def _row_groups(table: pa.Table, words: list[str]) -> Iterator[pa.Table]:
    """Each with the dictionary of its own names: all names in every group would outgrow the rows of a large stack."""
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
    """Whole steps, as many as may be reordered at a time."""
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
    """Row groups that, by their statistics, may hold rows of these matrices."""
    metadata, column, ordered = file.metadata, file.schema.names.index("name"), sorted(names)

    def may(i: int) -> bool:
        statistics = metadata.row_group(i).column(column).statistics
        if statistics is None or not statistics.has_min_max:
            return True
        nearest = bisect_left(ordered, statistics.min)
        return nearest < len(ordered) and ordered[nearest] <= statistics.max

    return [i for i in range(metadata.num_row_groups) if may(i)]


def to_measured(table: pa.Table, names: Collection[str] | None) -> pa.Table:
    """Rows of a file, or those of some of its matrices, in the order they were measured.

    Args:
        table: as stored, with the columns `step` and `name`.
        names: of the matrices; None: all.
    """
    import pyarrow as pa

    i = table.schema.get_field_index("name")
    column = table.column(i).combine_chunks()
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
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
    """All names in the order they are measured, and the place of each. The parts of a history have the same."""
    import pyarrow as pa

    words = json.loads(measured)
    return pa.array(words, pa.string()), {word: i for i, word in enumerate(words)}
