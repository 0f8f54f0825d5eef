"""Range table: matrices of one dtype and k, as the launches of a range finder see them, on the device.

The rows are those of `sketch.table`, whose sides alternate whatever a matrix' shape: a basis that is
complete is found like any other. Products and bases stand in the order of the matrices, those of one shape together, so
that they can be viewed as stacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from ..count import Shape, rows_of
from ..device import capability, to_device
from ..sketch import sketch
from ..sketch.table import (
    BASIS,
    CHUNK,
    CHUNKS,
    COLUMNS,
    FIELDS,
    FIRST_STRIP,
    KEY,
    NEXT,
    PARTIAL,
    PRODUCT,
    ROWS,
    STRIDE_COLUMN,
    STRIDE_ROW,
    STRIP,
    STRIPS,
    TILE_FIELDS,
    View,
    chunk_of,
)

Work = list[tuple[int, int, int]]
"""Matrix, strip and chunk of each program."""


class Run(NamedTuple):
    """Matrices of one shape, at `place` and on."""

    place: int
    length: int
    shape: tuple[int, int]

    @property
    def matrices(self) -> slice:
        return slice(self.place, self.place + self.length)


class Layout:
    """Tables, and the sizes of what the launches write: for as many calls as there are with such matrices.

    Args:
        views: where each matrix stands, those of one shape together; see `sketch_table.View`.
        dtype, k: of `limits.NARROW` and `limits.KS`.

    Attributes:
        tables, whole: `(2, b, FIELDS)` int64; of the second, products are their own only chunk.
        tiles, strips: work of a product, and on what it gives; see `sketch_table.Tables`.
        sizes: elements of the products, and of the bases made from them, of both sides.
    """

    def __init__(self, views: Sequence[View], dtype: torch.dtype, k: int, device: torch.device) -> None:
        b, block = len(views), sketch.config(k, capability(device)).block
        records: tuple[list[list[int]], list[list[int]]] = ([], [])
        work: tuple[Work, Work] = ([], [])
        strips: tuple[Work, Work] = ([], [])
        partial, product = [0, 0], [0, 0]
        for side in (0, 1):
            for i, given in enumerate(views):
                view = given.transposed if side else given
                chunk = chunk_of(view, block)
                across, chunks, down = -(-view.rows // block), -(-view.columns // chunk), -(-view.rows // STRIP)
                fields = {
                    ROWS: view.rows, COLUMNS: view.columns, STRIDE_ROW: view.stride_row,
                    STRIDE_COLUMN: view.stride_column, CHUNK: chunk, CHUNKS: chunks, PARTIAL: partial[side],
                    PRODUCT: product[side], FIRST_STRIP: len(strips[side]), STRIPS: down, KEY: view.key,
                }  # fmt: skip
                values = {field.value: value for field, value in fields.items()}
                records[side].append([values.get(field, 0) for field in range(FIELDS.value)])
                work[side].extend((i, s, c) for s in range(across) for c in range(chunks))
                strips[side].extend((i, s, 0) for s in range(down))
                partial[side] += chunks * view.rows * k
                product[side] += view.rows * k
        rows = torch.tensor(records, dtype=torch.int64)
        for side in (0, 1):
            rows[side, :, NEXT.value] = rows[side, :, PRODUCT.value] + side * product[0]
            rows[1 - side, :, BASIS.value] = rows[side, :, NEXT.value]
        whole = rows.clone()
        whole[:, :, CHUNKS.value] = 1
        whole[:, :, PARTIAL.value] = whole[:, :, PRODUCT.value]
        small, self.small, _ = rows_of([0] * b, [Shape(k, k, k, 1)] * b, [k] * b, range(b))
        on_device = [to_device(x, device) for x in (rows, whole, _both(work), _both(strips), small)]
        self.tables, self.whole, self.tiles, self.strips, self.problems = on_device
        self.count, self.dtype, self.k, self.device = b, dtype, k, device
        self.sizes, self.partial = product, max(partial)
        self.norms, self.grams = self.tiles.shape[1], self.strips.shape[1]
        self.runs: list[Run] = []
        for shape, members in groupby((view.rows, view.columns) for view in views):
            place = self.runs[-1].matrices.stop if self.runs else 0
            self.runs.append(Run(place, len(list(members)), shape))


def _both(work: tuple[Work, Work]) -> Tensor:
    """Of both sides, the shorter filled up with nothing."""
    longest = max(map(len, work))
    nothing = (-1, 0, 0)
    filled = [[*side, *[nothing] * (longest - len(side))] for side in work]
    return torch.tensor(filled, dtype=torch.int32).view(2, longest, TILE_FIELDS.value)
