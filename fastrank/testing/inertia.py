"""The number of positive eigenvalues of a symmetric matrix, proven in ball arithmetic, and the roots of polynomials
that have no other roots than real ones.

A matrix is brought near to a diagonal by eigenvectors Q of FP64, and what follows holds whatever Q is. By Sylvester's
law Q^T A Q has as many positive eigenvalues as A, if it is not singular. The rows of it that are dominated by their
diagonal element make a block that has as many positive eigenvalues as positive diagonal elements (Gershgorin, along the
way from the block's diagonal to the block). What is left is the Schur complement of that block, whose positive
eigenvalues are those that the block does not count (Haynsworth 1968). It is smaller, as are its elements, and it is
treated in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from flint import arb, arb_mat, fmpq, fmpq_poly


@contextmanager
def precision(bits: int) -> Iterator[None]:
    """Have balls computed with so many bits."""
    from flint import ctx

    before = ctx.prec
    ctx.prec = bits
    try:
        yield
    finally:
        ctx.prec = before


def positive_eigenvalues(matrix: arb_mat) -> int | None:
    """How many eigenvalues of a symmetric matrix of balls are positive, for every matrix that the balls hold; None
    where the precision does not tell, as it never does of a singular matrix."""
    from flint import arb_mat

    r = matrix.nrows()
    if r == 0:
        return 0
    near = _near_diagonal(matrix)
    if near is None:
        return None
    rows = near.tolist()
    sure: list[int] = []
    rest: list[int] = []
    count = 0
    for i, row in enumerate(rows):
        others = sum((abs(x) for j, x in enumerate(row) if j != i), abs(row[i]) * 0)
        dominated = bool(abs(row[i]) > others)
        (sure if dominated else rest).append(i)
        count += dominated and bool(row[i] > 0)
    if not sure or not rest:
        return count if sure else None
    block, edge, corner = (
        arb_mat([[rows[i][j] for j in columns] for i in lines])
        for lines, columns in ((sure, sure), (sure, rest), (rest, rest))
    )
    try:
        complement = corner - edge.transpose() * block.solve(edge)
    except ZeroDivisionError:
        return None
    more = positive_eigenvalues(complement)
    return None if more is None else count + more


def _near_diagonal(matrix: arb_mat) -> arb_mat | None:
    """Q^T A Q for eigenvectors Q of FP64; None where the balls are so wide that they hold no number of theirs."""
    from flint import arb, arb_mat

    r = matrix.nrows()
    entries = matrix.entries()
    if not all(x.is_finite() for x in entries):
        return None
    sizes = [_exponent(x) for x in entries]
    largest = max((size for size in sizes if size is not None), default=None)
    if largest is None:
        return None
    matrix = matrix * arb((1, -largest))
    middle = np.array([float(x.mid()) for x in matrix.entries()]).reshape(r, r)
    vectors = arb_mat(np.linalg.eigh((middle + middle.T) / 2)[1].tolist())
    return vectors.transpose() * matrix * vectors


def _exponent(ball: arb) -> int | None:
    """Of the power of two above the midpoint of a ball; None of zero."""
    mantissa, exponent = ball.mid().man_exp()
    return int(exponent) + int(mantissa).bit_length() if mantissa else None


def roots_above(polynomial: fmpq_poly, shift: fmpq) -> int:
    """How many roots are above a number, with their multiplicity, of a polynomial all of whose roots are real.

    Of such a polynomial Descartes' rule of signs counts the positive roots exactly.
    """
    from flint import fmpq_poly

    signs = [x > 0 for x in polynomial(fmpq_poly([shift, 1])).coeffs() if x != 0]
    return sum(a != b for a, b in pairwise(signs))


def squarefree(polynomial: fmpq_poly) -> fmpq_poly:
    """The polynomial that has each root of another one once."""
    return polynomial // polynomial.gcd(polynomial.derivative())
