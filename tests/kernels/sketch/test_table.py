"""Table of sketches: every strip of every chunk is somebody's work, and no two matrices share memory."""

from __future__ import annotations

from itertools import pairwise

import pytest

pytest.importorskip("triton")
from fastrank.kernels.sketch import table
from fastrank.kernels.sketch.table import View, chunk_of, gram_work, is_complete, tables

# Many columns, a basis that is complete for each orientation, one element, as many rows as a strip has.
VIEWS = [View(0, 100, 1100, 1100, 1, 0), View(0, 9, 25, 25, 1, 1), View(3, 25, 9, 1, 25, 2), View(0, 1, 1, 1, 1, 3),
         View(0, 64, 40, 40, 1, 4)]  # fmt: skip


KS = (16, 16, 32, 64, 32)
"""Of each view, where they are not all 16."""


def at_16():
    """Tables of all views, in one group."""
    return tables(VIEWS, [16] * 5, [64] * 5, [range(5)])


def listed(work, side):
    return [tuple(x) for x in work[side].tolist() if x[0] >= 0]


def test_work_is_each_strip_of_each_chunk_once():
    """Of both sides, whose rows are the other's columns but where the basis is complete; the shorter is filled up."""
    made = at_16()
    (tiles,) = made.tiles
    assert tiles.shape[1] == 18 + 4
    # Side 0 multiplies 100 rows with three chunks of 1100 columns, side 1 1100 rows with the one of 100.
    longest = [[(0, s, c) for s in range(2) for c in range(3)], [(0, s, 0) for s in range(18)]]
    for side, own in enumerate(longest):
        assert listed(tiles, side) == [*own, (1, 0, 0), (2, 0, 0), (3, 0, 0), (4, 0, 0)]
        assert listed(made.strips, side) == [(0, s, 0) for s in range((2, 18)[side])] + [
            (i, 0, 0) for i in (1, 2, 3, 4)
        ]
        assert listed(made.blocks, side) == [(0, s, 0) for s in range((4, 35)[side])] + [(4, s, 0) for s in range(2)]


def test_a_wide_gram_has_tiles_on_and_below_the_diagonal():
    assert gram_work(7, 300, 128)[:10] == [(7, 0, t) for t in (0, 4, 5, 8, 9, 10, 12, 13, 14, 15)]
    assert len(gram_work(7, 513, 128)) == 20  # of 512 rows each
    assert gram_work(7, 300, 64) == [(7, s, t) for s in range(2) for t in (0, 4, 5)]


def test_each_group_has_the_work_of_its_own_matrices():
    groups = [[0, 2], [1, 3, 4]]
    made = tables(VIEWS, KS, [64] * 5, groups)
    whole = listed(tables(VIEWS, KS, [64] * 5, [range(5)]).tiles[0], 0)
    for group, tiles in zip(groups, made.tiles, strict=True):
        assert listed(tiles, 0) == [each for each in whole if each[0] in group]
        assert listed(tiles, 0)


@pytest.mark.parametrize("ks", [(16,) * 5, KS], ids=["one k", "several"])
def test_nothing_overlaps(ks):
    made = tables(VIEWS, ks, [64] * 5, [range(5)])
    fields = {name: getattr(table, name).value for name in ("ROWS", "COLUMNS", "BASIS", "NEXT", "PRODUCT")}
    for side in (0, 1):
        bases, products = [], []
        norms, grams = [], []
        for view, k, row in zip(VIEWS, ks, made.rows[side].tolist(), strict=True):
            rows, columns, basis, after, product = (row[at] for at in fields.values())
            assert sorted([rows, columns]) == sorted([view.rows, view.columns])
            bases.append((basis, basis + k * columns))
            if is_complete(view, k):
                assert columns == min(rows, columns)
                assert after == basis
            else:
                assert columns == (view.rows if side else view.columns)
                bases.append((after, after + k * rows))
            products.append((product, product + k * rows))
            at = {name: row[getattr(table, name).value] for name in ("FIRST_NORM", "NORMS", "GRAM", "STRIPS", "WIDTH")}
            assert at["WIDTH"] == k
            norms.append((at["FIRST_NORM"], at["FIRST_NORM"] + at["NORMS"]))
            grams.append((at["GRAM"], at["GRAM"] + at["STRIPS"] * k * k))
        spans_of = ((bases, made.bases), (products, made.product), (norms, made.norms), (grams, made.grams))
        for spans, size in spans_of:
            ordered = sorted(spans)
            assert all(end <= start for (_, end), (start, _) in pairwise(ordered))
            assert ordered[-1][1] <= size


def test_a_basis_of_one_side_is_the_other_sides_next():
    made = at_16()
    basis, after = table.BASIS.value, table.NEXT.value
    for side in (0, 1):
        assert made.rows[side, :, basis].tolist() == made.rows[1 - side, :, after].tolist()


@pytest.mark.parametrize(
    ("rows", "columns", "chunk"), [(64, 100, 512), (64, 264 * 512, 512), (64, 10**6, 3840), (10**5, 10**6, 10**6)]
)
def test_chunks_are_few_but_enough_for_a_device(rows, columns, chunk):
    assert chunk_of(View(0, rows, columns, columns, 1, 0), 64) == chunk
