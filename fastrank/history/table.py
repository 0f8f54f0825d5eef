"""Turn blocks of measured numbers into Arrow tables with the history's schema, or a step of them into plain rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..metrics import Status
from .block import Block
from .extra import check_installed

if TYPE_CHECKING:
    import pyarrow as pa


WHOLE = ("rank_", "energy_rank")
"""How the names of columns of whole numbers begin."""


@dataclass(frozen=True)
class Layout:
    """The matrices and columns of a history. A step has one row for each matrix."""

    names: tuple[str, ...]
    columns: tuple[str, ...]
    """Measured columns, see `fastrank.measuring.row.columns`."""
    singular_values: bool
    """Whether there is a column of singular values."""
    weights: int = 0
    """How many of the matrices, the first ones, are weights; the others are gradients and the like, beside these."""

    @cached_property
    def schema(self) -> pa.Schema:
        """`step, name, rows, cols`, the measured columns, `singular_values`."""
        check_installed("a table of the history")
        import pyarrow as pa

        text = pa.dictionary(pa.int32(), pa.string())
        fields = [("step", pa.int64()), ("name", text), ("rows", pa.int32()), ("cols", pa.int32())]
        for column in self.columns:
            if column == "status":
                fields.append((column, text))
            else:
                fields.append((column, pa.int32() if column.startswith(WHOLE) else pa.float64()))
        if self.singular_values:
            fields.append(("singular_values", pa.list_(pa.float64())))
        return pa.schema(fields)


def block_table(layout: Layout, block: Block) -> pa.Table:
    """The rows of a block. Numbers that a matrix does not have are null: it is not finite, or they were not due."""
    import pyarrow as pa

    steps, count = len(block.steps), len(layout.names)
    values = block.values.numpy().reshape(steps * count, len(layout.columns))
    rows, cols = np.array(block.shapes, dtype=np.int32).reshape(count, 2).T
    arrays: list[pa.Array] = [
        pa.array(np.repeat(block.steps.numpy(), count)),
        _dictionary(np.tile(np.arange(count, dtype=np.int32), steps), layout.names),
        pa.array(np.tile(rows, steps)),
        pa.array(np.tile(cols, steps)),
    ]
    for i, column in enumerate(layout.columns):
        data = values[:, i]
        if column == "status":
            arrays.append(_dictionary(data.astype(np.int32), [status.name for status in Status]))
        elif column.startswith(WHOLE):
            missing = ~(data >= 0)  # bounds are -1, and other metrics NaN
            arrays.append(pa.array(np.where(missing, 0, data).astype(np.int32), mask=missing))
        else:
            arrays.append(pa.array(data, mask=np.isnan(data)))
    if layout.singular_values:
        arrays.append(_singular_values(block))
    return pa.Table.from_arrays(arrays, schema=layout.schema)


def step_rows(layout: Layout, block: Block) -> dict[str, dict[str, Any]]:
    """The rows of a block of one step, `{name: {column: value}}`, as plain numbers and texts: this takes no pyarrow.

    They are those of `block_table`, with None for null.
    """
    step, sigma, end, rows = int(block.steps[0]), block.spectra.get(0), 0, {}
    values = block.values[0].tolist()
    for name, (height, width), measured in zip(layout.names, block.shapes, values, strict=True):
        row: dict[str, Any] = {"step": step, "rows": height, "cols": width}
        for column, value in zip(layout.columns, measured, strict=True):
            if column == "status":
                row[column] = list(Status)[int(value)].name
            elif column.startswith(WHOLE):
                row[column] = int(value) if value >= 0 else None  # bounds that are missing are -1, other metrics NaN
            else:
                row[column] = None if value != value else value
        if layout.singular_values:
            begin, end = end, end + min(height, width)
            piece = None if sigma is None else sigma[begin:end]
            row["singular_values"] = None if piece is None or bool(piece.isnan().any()) else piece.tolist()
        rows[name] = row
    return rows


def _dictionary(indices: np.ndarray[tuple[int], np.dtype[np.int32]], words: Sequence[str]) -> pa.Array:
    import pyarrow as pa

    return pa.DictionaryArray.from_arrays(pa.array(indices), pa.array(list(words), type=pa.string()))


def _singular_values(block: Block) -> pa.Array:
    """One list of singular values for each row; null where they were not due, or the matrix is not finite."""
    import pyarrow as pa

    sizes = [min(shape) for shape in block.shapes]
    ends = np.cumsum(sizes)
    lists: list[np.ndarray[tuple[int], np.dtype[np.float64]] | None] = []
    for i in range(len(block.steps)):
        sigma = block.spectra.get(i)
        if sigma is None:
            lists += [None] * len(sizes)
        else:
            pieces = np.split(sigma.numpy(), ends[:-1])
            lists += [None if np.isnan(piece).any() else piece for piece in pieces]
    return pa.array(lists, type=pa.list_(pa.float64()))
