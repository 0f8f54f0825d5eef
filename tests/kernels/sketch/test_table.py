"""Table of sketches: every strip of every chunk is somebody's work, and no two matrices share memory."""

from __future__ import annotations

from itertools import pairwise

import pytest

pytest.importorskip("triton")
from fastrank.kernels.sketch import table
from fastrank.kernels.sketch.table import View, chunk_of, is_complete, tables

# Many columns, a basis that is complete for each orientation, one element, as many rows as a strip has.
VIEWS = [View(0, 100, 1100, 1100, 1, 0), View(0, 9, 25, 25, 1, 1), View(3, 25, 9, 1, 25, 2), View(0, 1, 1, 1, 1, 3),
         View(0, 64, 40, 40, 1, 4)]  # fmt: skip


def test_work_is_each_strip_of_each_chunk_once():
    """Of both sides, whose rows are the other's columns but where the basis is complete; the shorter is filled up."""
    made = tables(VIEWS, 16, 64)
    assert made.tiles.shape[1] == 18 + 4
    # Side 0 multiplies 100 rows with three chunks of 1100 columns, side 1 1100 rows with the one of 100.
    longest = [[(0, s, c) for s in range(2) for c in range(3)], [(0, s, 0) for s in range(18)]]
    for side, own in enumerate(longest):
        listed = [tuple(x) for x in made.tiles[side].tolist() if x[0] >= 0]
        assert listed == [*own, (1, 0, 0), (2, 0, 0), (3, 0, 0), (4, 0, 0)]
        down = [tuple(x) for x in made.strips[side].tolist() if x[0] >= 0]
        assert len(down) == (1, 5)[side] + 4


def test_nothing_overlaps():
    made = tables(VIEWS, 16, 64)
    fields = {name: getattr(table, name).value for name in ("ROWS", "COLUMNS", "BASIS", "NEXT", "PRODUCT")}
    for side in (0, 1):
        bases, products = [], []
        for view, row in zip(VIEWS, made.rows[side].tolist(), strict=True):
            rows, columns, basis, after, product = (row[at] for at in fields.values())
            assert sorted([rows, columns]) == sorted([view.rows, view.columns])
            bases.append((basis, basis + 16 * columns))
            if is_complete(view, 16):
                assert columns == min(rows, columns)
                assert after == basis
            else:
                assert columns == (view.rows if side else view.columns)
                bases.append((after, after + 16 * rows))
            products.append((product, product + 16 * rows))
        for spans, size in ((bases, made.bases), (products, made.product)):
            ordered = sorted(spans)
            assert all(end <= start for (_, end), (start, _) in pairwise(ordered))
            assert ordered[-1][1] <= size


def test_a_basis_of_one_side_is_the_other_sides_next():
    made = tables(VIEWS, 16, 64)
    basis, after = table.BASIS.value, table.NEXT.value
    for side in (0, 1):
        assert made.rows[side, :, basis].tolist() == made.rows[1 - side, :, after].tolist()


@pytest.mark.parametrize(
    ("rows", "columns", "chunk"), [(64, 100, 512), (64, 264 * 512, 512), (64, 10**6, 3840), (10**5, 10**6, 10**6)]
)
def test_chunks_are_few_but_enough_for_a_device(rows, columns, chunk):
    assert chunk_of(View(0, rows, columns, columns, 1, 0), 64) == chunk
