"""Slices: what the twin cuts, multiplies and says of its error, against whole numbers of any length."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from exact_slices import BITS, CASES, HALF, Exact, floats, noise, root, squares

from fastrank import Tolerance, linalg
from fastrank.linalg.measures import bounds_of_gram
from fastrank.reference import slices

either = pytest.mark.parametrize("products", [10, 13])
every_case = pytest.mark.parametrize("matrix", CASES.values(), ids=CASES.keys())


@every_case
def test_slices_and_what_is_cut_off_are_the_matrix(matrix):
    """Every slice is a signed byte, and all that is missing is half a unit of the last one at most."""
    e = Exact(matrix)
    for part in e.parts:
        assert part.min() >= -128
        assert part.max() <= 127
    assert len(e.parts) == 4
    assert (2 * abs(e.lost) <= e.last).all()
    largest = abs(e.matrix).max(1)
    assert (abs(e.lost).max(1) * 2 ** (8 * len(e.parts) - 1) * 1000 <= 1005 * largest).all()
    low, high = (e.parts[0].astype(int).min(1), e.parts[0].astype(int).max(1))
    assert (np.maximum(-low, high)[largest > 0] >= 63).all(), "seven bits of the first slice are in use"


@every_case
def test_the_norm_of_what_is_cut_off_is_never_too_small(matrix):
    e = Exact(matrix)
    measured, true = Fraction(float(e.cut.cut)), squares(e.lost)
    assert (measured * 2**BITS) ** 2 >= true
    if not true:
        assert measured == 0
    # What is 2^-37 of a unit may be taken for 2^-36.
    tiny = math.sqrt(squares(np.broadcast_to(e.last, e.matrix.shape))) * 2.0**-36
    assert float(measured) * 2.0**BITS <= 1.02 * math.sqrt(true) + tiny * (true > 0)


@either
@every_case
def test_a_gram_is_the_kept_products_rounded_once(matrix, products):
    e, found = Exact(matrix), slices.integer_gram(matrix[None], products)
    gram = e.gram(products)
    expected = [[math.ldexp(float(Fraction(x)), -2 * BITS) for x in row] for row in gram]
    assert found.matrix[0].tolist() == expected
    assert found.finite.all()
    assert found.inner == matrix.shape[1]
    trace = Fraction(sum(gram.diagonal().tolist()), 4**BITS)
    assert abs(Fraction(float(found.trace)) - trace) <= trace * len(matrix) * Fraction(2) ** -53
    assert (trace == 0) == (not e.matrix.any()), "a trace of 0 is a rank of 0 to whoever counts"


@either
@every_case
def test_the_error_is_never_too_small(matrix, products):
    e, found = Exact(matrix), slices.integer_gram(matrix[None], products)
    said, error = Fraction(float(found.error)) * 4**BITS, e.error(products)
    assert said**2 >= squares(error)
    assert said >= abs(sum(error.diagonal().tolist()))
    if not any(squares(part) for part in (e.lost, *e.values[2:])):
        assert said == 0
        assert not error.any()


def test_no_smaller_error_would_do():
    """Rows alike, with nothing but third, or fourth, slices beside the largest element: all that is left out is the
    product of these."""
    for products, small in ((10, 100 * 2.0**-22), (13, 100 * 2.0**-30)):
        matrix = torch.full((3, 20), small).index_fill(1, torch.tensor([4]), 1.0)
        e, found = Exact(matrix), slices.integer_gram(matrix[None], products)
        assert not e.lost.any()
        true = root(squares(e.error(products)), 2 * BITS)
        assert 0 < true <= float(found.error) <= true * (1 + 2.0**-19)


def test_no_smaller_error_would_do_for_what_is_cut_off():
    """Rows alike, of many elements that lose half a unit each and one that is 128 times as large: dW is nearly
    parallel to W, and no slice but the first two holds anything."""
    matrix = torch.full((2, 2**14), 2.0**-7 * (1 - 2.0**-24)).index_fill(1, torch.tensor([4]), 1.0)
    e, found = Exact(matrix), slices.integer_gram(matrix[None])
    assert e.lost.any()
    assert not any(part.any() for part in e.parts[2:])
    true = root(squares(e.error(10)), 2 * BITS)
    assert 0.7 * float(found.error) < true <= float(found.error)


@pytest.mark.parametrize(("products", "share"), [(10, 5e-9), (13, 2.5e-10)])
@pytest.mark.parametrize("n", [40, 400])
def test_the_error_of_noise_is_as_small_as_promised(n, products, share):
    """Such a share of ||W||_F^2; all norms are taken for the worst that they may come to."""
    e, found = Exact(noise(12, n)), slices.integer_gram(noise(12, n)[None], products)
    true = root(squares(e.error(products)), 2 * BITS)
    assert true < float(found.error) < 100 * true
    assert float(found.error) < share * float(found.trace)


def test_no_row_but_zero_has_a_diagonal_of_zero():
    """What is kept of the square of a number is never negative, and of the largest of a row not 0."""
    byte = torch.arange(-128, 128)
    a_1, a_2, a_3, a_4 = torch.meshgrid(torch.tensor([-2, -1, 0, 1, 2]), byte, byte, torch.tensor([-128, 0, 127]),
                                        indexing="ij")  # fmt: skip
    kept = a_1 * a_1 * 256**3 + 2 * a_1 * a_2 * 256**2 + (2 * a_1 * a_3 + a_2 * a_2) * 256 + 2 * (a_1 * a_4 + a_2 * a_3)
    for last in (kept, kept * 256 + 2 * a_2 * a_4 + a_3 * a_3):
        assert last.min() == 0
        assert last[a_1 != 0].min() > 0
    # With |a_1| of 3 and more the first two terms are larger than all others together.
    mantissas = torch.arange(0, 2**23, 2**10 + 1, dtype=torch.int32)
    for field in (0, 1, 127, 254):
        alone = (mantissas + (field << 23)).view(torch.float32)[1:, None, None]
        for dtype in (torch.float32, *HALF):
            stack = alone.to(dtype)
            found = slices.integer_gram(stack[stack.flatten(1).isfinite().all(1)])
            nonzero = stack[stack.flatten(1).isfinite().all(1)].flatten() != 0
            assert torch.equal(found.trace > 0, nonzero)


@either
@pytest.mark.parametrize("value", [1.0, -(2.0 - 2.0**-23), float(floats([0x3F7EFEFE])), float(floats([0x3F7EFEFF]))])
def test_sums_of_many_columns_have_room(value, products):
    """All of one sign, as large as slices get: the sums are n times one product."""
    n, last = (2**17, 5) if products == 10 else (2**16, 6)
    one = slices.integers(slices.cut(torch.full((1, 1, 1), value)), products)
    cut = slices.cut(torch.full((1, 2, n), value))
    assert slices.integers(cut, products).unique().tolist() == [int(one) * n]
    worst = slices.integers(cut._replace(parts=torch.full_like(cut.parts, -128)), products)
    kept = [(i, j) for i in range(1, 5) for j in range(1, 5) if i + j <= last]
    assert len(kept) == products
    expected = sum(256 ** (last - i - j) for i, j in kept) * 2**14 * n
    assert worst.unique().tolist() == [expected]
    assert expected < 2**63


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_said_and_harms_no_neighbour(bad):
    stack = torch.stack([noise(5, 9, i) for i in range(3)])
    clean = slices.integer_gram(stack)
    stack[1, 2, 3] = bad
    found = slices.integer_gram(stack)
    assert found.finite.tolist() == [True, False, True]
    assert torch.equal(found.matrix[::2], clean.matrix[::2])
    assert torch.equal(found.error[::2], clean.error[::2])
    assert not found.matrix[1].any()
    assert [float(x[1]) for x in (found.trace, found.error)] == [0.0, 0.0]


@either
@pytest.mark.parametrize("tolerance", [Tolerance(), Tolerance(0.05, "spectral"), Tolerance(0.7, "absolute")], ids=str)
def test_bounds_through_slices_hold_and_are_certified(tolerance, products):
    for seed, scale in enumerate((1.0, 2.0**-60, 2.0**60)):
        matrix = noise(30, 50, seed) * torch.logspace(0, -5, 30)[:, None]
        if tolerance.relative_to != "absolute":
            matrix *= scale
        bounds = bounds_of_gram(slices.integer_gram(matrix[None], products), tolerance)
        expected = linalg.rank_bounds(matrix, tolerance)
        assert bounds.lower == bounds.upper == expected.lower == expected.upper


def test_a_thread_that_reads_subnormal_numbers_as_zero_finds_the_same():
    stacks = [CASES[name][None] for name in ("subnormal", "rows of all scales", "least, FP16", "least, BF16")]
    expected = [slices.integer_gram(stack) for stack in stacks]
    torch.set_flush_denormal(True)
    try:
        found = [slices.integer_gram(stack) for stack in stacks]
    finally:
        torch.set_flush_denormal(False)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.matrix, other.matrix)
        assert torch.equal(one.error, other.error)
        assert one.trace > 0
