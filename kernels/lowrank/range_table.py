"""Range table: the tables and lists of work that the launches of a range finder read, for matrices of one dtype and k.

The rows have the fields of `sketch.table`. Unlike there the sides alternate for every matrix: there are no complete
bases, and a matrix with a side of at most k gets its basis like any other. Products and bases stand in the order of the
matrices, with those of one shape side by side, so that they can be viewed as stacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch

from ..device import capability, to_device
from ..inertia import Factors, Shape, rows_of
from ..sketch import order_of, sketch
from ..sketch.table import (
    BASIS,
    BLOCK_ROW,
    CHUNK,
    CHUNKS,
    COLUMNS,
    FIELDS,
    FIRST_NORM,
    GRAM,
    KEY,
    NEXT,
    NORMS,
    PARTIAL,
    PRODUCT,
    ROWS,
    SMALL,
    SPAN,
    STRIDE_COLUMN,
    STRIDE_ROW,
    STRIPS,
    WIDTH,
    Pass,
    View,
    Work,
    both_sides,
    chunk_of,
    gram_work,
    strip_of,
)


class Run(NamedTuple):
    """Matrices of one shape that stand side by side in the batch."""

    place: int
    """Index of the first."""
    length: int
    """How many there are."""
    shape: tuple[int, int]
    """Rows and columns (m, n)."""

    @property
    def matrices(self) -> slice:
        """Indices of these matrices in the batch."""
        return slice(self.place, self.place + self.length)


class Layout:
    """Tables on the device, and the sizes of what the launches write. It depends on shapes, not on values or addresses:
    one serves every search over matrices like these.

    Args:
        views: strides and shape of each of the b matrices, those of one shape side by side; see `sketch.table.View`.
        dtype, k: of the matrices, one of `limits.NARROW`, and number of columns, one of `limits.KS`.

    Attributes:
        tables: `(2, b, FIELDS)` int64, see `sketch.table`.
        whole: the same, except that every product is its own only chunk, for products that are summed already.
        every: the pass that multiplies all matrices.
        strips, blocks: lists of work on what a product gives; see `sketch.table.Tables`.
        problems: `(b, inertia.table.FIELDS)` int64, of a (k, k) Gram of each matrix. factors: of these.
        sizes: elements of the products of side 0 and of side 1, and of the bases made from them.
        partial, norms, grams: elements of the products over single chunks, programs of a product, elements of the
            strips' Grams.
        small: elements of the Grams of all matrices.
        runs: `Run` of each shape.
    """

    def __init__(self, views: Sequence[View], dtype: torch.dtype, k: int, device: torch.device) -> None:
        b, block = len(views), sketch.config(k, capability(device)).block
        records: tuple[list[list[int]], list[list[int]]] = ([], [])
        work: tuple[Work, Work] = ([], [])
        strips: tuple[Work, Work] = ([], [])
        solved: tuple[Work, Work] = ([], [])
        partial, product, grams = [0, 0], [0, 0], [0, 0]
        for side in (0, 1):
            for i, given in enumerate(views):
                view = given.transposed if side else given
                chunk = chunk_of(view, block)
                across, chunks, span = -(-view.rows // block), -(-view.columns // chunk), strip_of(k)
                down = -(-view.rows // span)
                fields = {
                    ROWS: view.rows, COLUMNS: view.columns, STRIDE_ROW: view.stride_row,
                    STRIDE_COLUMN: view.stride_column, CHUNK: chunk, CHUNKS: chunks, PARTIAL: partial[side],
                    PRODUCT: product[side], FIRST_NORM: len(work[side]), NORMS: across * chunks, GRAM: grams[side],
                    SPAN: span, STRIPS: down, SMALL: i * order_of(k) ** 2, WIDTH: k, KEY: view.key,
                }  # fmt: skip
                values = {field.value: value for field, value in fields.items()}
                records[side].append([values.get(field, 0) for field in range(FIELDS.value)])
                work[side].extend((i, s, c) for s in range(across) for c in range(chunks))
                strips[side].extend(gram_work(i, view.rows, k))
                solved[side].extend((i, s, 0) for s in range(-(-view.rows // BLOCK_ROW)))
                partial[side] += chunks * view.rows * k
                product[side] += view.rows * k
                grams[side] += down * k * k
        small, self.small, _ = rows_of([0] * b, [Shape(k, k, k, 1)] * b, [k] * b, range(b))
        rows = torch.tensor(records, dtype=torch.int64)
        for side in (0, 1):
            rows[side, :, NEXT.value] = rows[side, :, PRODUCT.value] + side * product[0]
            rows[1 - side, :, BASIS.value] = rows[side, :, NEXT.value]
        whole = rows.clone()
        whole[:, :, CHUNKS.value] = 1
        whole[:, :, PARTIAL.value] = whole[:, :, PRODUCT.value]
        lists = (both_sides(each) for each in (work, strips, solved))
        on_device = [to_device(x, device) for x in (rows, whole, small, *lists)]
        self.tables, self.whole, self.problems, tiles, self.strips, self.blocks = on_device
        self.factors = Factors([k] * b, range(b), device, 1, inverses=True)
        self.every = Pass(dtype, k, list(range(b)), tiles)
        self.count, self.dtype, self.k, self.device = b, dtype, k, device
        self.sizes, self.partial, self.norms, self.grams = product, max(partial), tiles.shape[1], max(grams)
        self.runs: list[Run] = []
        for shape, members in groupby((view.rows, view.columns) for view in views):
            place = self.runs[-1].matrices.stop if self.runs else 0
            self.runs.append(Run(place, len(list(members)), shape))
