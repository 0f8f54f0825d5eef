"""Grams from INT8 slices: the twin's, bit for bit, for every dtype, stride and size, and an error that is one."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from exact_slices import BITS, CASES, Exact, noise, squares

from fastrank.reference import slices as twin

pytest.importorskip("triton")
from fastrank.kernels.count import cut, gram, grams, integer_gram
from fastrank.kernels.count.launches import Launches
from fastrank.kernels.device import capability
from fastrank.kernels.inertia.table import TOPS, Shape, rows_of

pytestmark = pytest.mark.int8

# One element, one row, primes, an exact tile, one more and one less, more than one tile, tall, several chunks.
SIZES = [(1, 1), (1, 9), (7, 7), (31, 40), (32, 32), (65, 33), (64, 64), (65, 70), (5, 520)]
SUBNORMAL = [name for name in CASES if name == "least, BF16"]
"""Cases with numbers that Triton's interpreter takes for others, which no GPU does."""


class Made:
    """Whole Grams, traces and errors of a batch by the kernels, in memory that was NaN before."""

    def __init__(self, matrices, keep=True, decided=(), products=10):
        device, self.products = matrices[0].device, products
        self.launches = Launches(matrices, 2, keep=keep, products=products)
        self.launches.decided[list(decided)] = 1
        self.launches.error.fill_(torch.nan)
        self.workspace = torch.full((self.launches.size,), torch.nan, dtype=torch.float64, device=device)
        self.trace = torch.full((len(matrices),), torch.nan, dtype=torch.float64, device=device)
        scale = torch.ones_like(self.trace) if self.launches.scaled else None
        self.launches.sum_grams(self.workspace, self.trace, scale)

    def lost(self, i):
        """Four sums of squares of a matrix, see `count.cut`."""
        strip, table = cut.STRIP.value, self.launches.table
        first, strips = int(table[i, TOPS.value]) // strip, self.launches.shapes[i].order // strip
        return self.launches._grams._lost.view(-1, 4)[first : first + strips].sum(0).tolist()

    def whole(self, i):
        offset, shape = self.launches.offsets[i], self.launches.shapes[i]
        return self.workspace[offset : offset + shape.order**2].view(shape.order, shape.order)


def same(made, i, matrix, keep=True):
    """The Gram of the twin bit for bit, at least on and below the diagonal; the trace, but for the order of its sum."""
    wide = (matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT).cpu()
    expected, whole, r = twin.integer_gram(wide[None], made.products), made.whole(i).cpu(), len(wide)
    part = whole if keep else whole.tril()
    assert torch.equal(part[:r, :r], expected.matrix[0] if keep else expected.matrix[0].tril())
    assert not part[r:].any()
    assert not part[:, r:].any()
    torch.testing.assert_close(made.trace[i].cpu(), expected.trace[0], rtol=r * 2.0**-53, atol=0)
    torch.testing.assert_close(made.launches.error[i].cpu(), expected.error[0], rtol=1e-2, atol=0)


@pytest.mark.parametrize(("products", "keep"), [(10, True), (13, False)], ids=["10, keep", "13"])
def test_every_size_in_one_batch(products, keep, device):
    dtypes = (torch.float32, torch.bfloat16, torch.float32, torch.float16)
    matrices = [noise(*size, seed=i).to(dtypes[i % 4]).to(device) for i, size in enumerate(SIZES)]
    made = Made(matrices, keep, products=products)
    assert made.launches._partial > 0
    for i, matrix in enumerate(matrices):
        same(made, i, matrix, keep)


@pytest.mark.parametrize("products", [10, 13])
def test_matrices_that_are_hard_to_cut(products, device):
    """Each is the twin's, and its error is not less than the true one, which whole numbers of any length know."""
    names = [name for name in CASES if name not in SUBNORMAL]
    assert len(names) >= len(CASES) - 1
    names = names[:: 1 if products == 10 else 3]
    matrices = [CASES[name].to(device) for name in names]
    made = Made(matrices, products=products)
    for i, name in enumerate(names):
        same(made, i, matrices[i])
        wide = CASES[name] if len(CASES[name]) <= CASES[name].shape[1] else CASES[name].mT
        e, said = Exact(wide), Fraction(float(made.launches.error[i])) * 4**BITS
        assert said**2 >= squares(e.error(products))
        assert said >= abs(sum(e.error(products).diagonal().tolist()))
        off, *others = made.lost(i)
        assert (lost := squares(e.lost)) <= Fraction(off) * 4**BITS
        assert Fraction(off) * 4**BITS <= lost * (1 + Fraction(2) ** -6) + squares(e.last * wide.shape[1]) // 2**72
        assert others == pytest.approx(twin.cut(wide[None]).norms()[0, 1:].square().tolist(), rel=1e-12)
        assert (made.trace[i] > 0) == wide.bool().any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_any_strides(dtype, device):
    """Transposed, every other row, every other column, both, a row again and again, a kernel, one row, one column."""
    base, kernel = noise(34, 50).to(dtype).to(device), noise(9, 18).view(9, 2, 3, 3).to(dtype).to(device)
    views = [base.mT, base[::2], base[:, ::2], base[::3, ::2].mT, base[:1].expand(40, 50), kernel.flatten(1)]
    views += [kernel[0, 0], base[3:4], base[:, 3:4]]
    made = Made(views, products=13)
    for i, view in enumerate(views):
        same(made, i, view)


@pytest.mark.heavy
def test_a_large_matrix(device):
    """Tiles of 64 far from the diagonal, the last of 8 rows, and more strips than a program of errors takes at once."""
    matrix = noise(200, 210).to(device)
    same(Made([matrix]), 0, matrix)


def test_the_bits_are_the_same_in_any_chunks_and_beside_any_matrices(device, monkeypatch):
    """Sums of integers are exact, so that not even the chunks show."""
    matrices = [noise(33, 300, 1).to(device), noise(40, 90, 2).bfloat16().to(device)]
    made = Made(matrices)
    alone = Made(matrices[1:])
    assert torch.equal(alone.whole(0), made.whole(1))
    assert alone.launches.error[0] == made.launches.error[1]
    monkeypatch.setattr(integer_gram, "LONGEST", 128)
    shorter = Made(matrices)
    assert shorter.launches._partial == 2 * 64**2
    assert made.launches._partial == 0
    monkeypatch.setattr(integer_gram, "LONGEST", 64)
    others = Made([noise(5, 6, 3).to(device), *matrices])
    for i in range(2):
        assert torch.equal(shorter.whole(i), made.whole(i))
        assert torch.equal(others.whole(i + 1), made.whole(i))
        assert others.launches.error[i + 1] == made.launches.error[i] == shorter.launches.error[i]


def test_fp64_matrices_beside_them_are_not_cut_and_those_decided_not_read(device):
    matrices = [noise(9, 20).double(), noise(9, 20), noise(33, 50), noise(40, 50, 1), noise(1, 3).bfloat16()]
    matrices = [matrix.to(device) for matrix in matrices]
    made = Made(matrices, decided=[2])
    for i in (1, 3, 4):
        same(made, i, matrices[i])
    expected = matrices[0] @ matrices[0].mT
    torch.testing.assert_close(made.whole(0)[:9, :9], expected, rtol=1e-13, atol=1e-13)
    assert made.whole(2).isnan().all()
    assert made.launches.error.isnan().tolist() == [True, False, True, False, False], "nothing is written of others"
    assert Launches(matrices, 2, keep=True, products=10).error.tolist() == [0.0] * 5


def test_what_is_not_finite_shows_in_its_own_trace_only(device):
    """NaN, also with all bits set, Inf and -Inf, anywhere, in wide and in narrow numbers."""
    matrices = [noise(6, 9, i).to(torch.bfloat16 if i > 3 else torch.float32).to(device) for i in range(7)]
    clean = Made(matrices)
    matrices[0].view(torch.int32)[0, 8] = 0x7FFFFFFF
    for i, bad in ((1, -torch.nan), (2, torch.inf), (5, torch.nan), (6, -torch.inf)):
        matrices[i][i - 1, 8 - i] = bad
    made = Made(matrices)
    assert made.trace.isfinite().nonzero().flatten().tolist() == [3, 4]
    for i in (3, 4):
        assert torch.equal(made.whole(i), clean.whole(i))
        assert made.trace[i] == clean.trace[i]
    assert made.launches.error.tolist() == [0, 0, 0, clean.launches.error[3], clean.launches.error[4], 0, 0]


def test_the_longest_chunk_has_room_for_the_largest_products(device):
    """Every slice -128 throughout, but for one row of 127: sums of INT32 do not overflow."""
    products, n = 13, integer_gram.LONGEST
    shape = Shape(32, n, n, 1)
    table, size, _ = rows_of([0], [shape], [integer_gram.chunk_of(n)], [0], [0])
    tiles = gram.tiles_of([shape], [0], [integer_gram.chunk_of(n)], integer_gram.config(capability(device)).block)
    assert len(tiles) == 1
    slices = torch.full((4, 32, n), -128, dtype=torch.int8, device=device)
    slices[:, 1] = 127
    found = torch.full((size + 1,), -7, device=device)
    decided = torch.zeros(1, dtype=torch.int32, device=device)
    integer_gram.integer_gram_(found, found[size:], table.to(device), tiles.to(device), decided, slices, products)
    kept = sum(256 ** (6 - i - j) for i in range(1, 5) for j in range(1, 5) if i + j <= 6)
    values = torch.full((32,), -128)
    values[1] = 127
    assert torch.equal(found[:size].view(32, 32).cpu(), values[:, None] * values * kept * n)
    assert 4 * 2**14 * n < 2**31 <= 4 * 2**14 * (2 * n), "and twice as many columns would"
    assert found[size] == -7


def test_what_can_be_cut():
    """Not FP64, nor more columns than INT64 sums, or the FP32 sums of what is cut off, have room for."""
    assert integer_gram.LAST == twin.LAST
    shape = Shape(2, 3, 3, 1)
    assert not grams.cuttable(torch.float64, shape, 10)
    assert not grams.cuttable(torch.float32, shape, 0)
    for products, most in integer_gram.MOST.items():
        can = [grams.cuttable(torch.bfloat16, Shape(2, n, n, 1), products) for n in (3, most, most + 1)]
        assert can == [True, True, False]
        last = twin.LAST[products]
        largest = sum(256 ** (last - i - j) for i in range(1, 5) for j in range(1, 5) if i + j <= last) * 2**14
        assert most * largest < 2**63
        assert most / 128 * 2.0**-24 < 2.0**-7
