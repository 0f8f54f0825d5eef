"""Tridiagonal: eigenvalues and vectors of known matrices and of hard ones."""

from __future__ import annotations

import numpy as np
import pytest
from panels import callable_


def solved(alpha, beta, value=np.inf):
    """The largest eigenvalue, its vector, its last element's size, and whether one at most is above `value`."""
    from fastrank.kernels.cpu import tridiagonal

    r = len(alpha)
    scratch = np.full(max(2 * tridiagonal.WAYS, 3 * r), np.nan)
    beta = np.append(beta, np.nan)  # one more, which nobody is to read
    theta = callable_(tridiagonal.top_of)(alpha, beta, r, scratch)
    last = callable_(tridiagonal.vector_of)(alpha, beta, r, theta, scratch)
    return theta, scratch[:r].copy(), last, callable_(tridiagonal.is_alone)(alpha, beta, r, value)


def dense(alpha, beta):
    return np.diag(alpha) + np.diag(beta, 1) + np.diag(beta, -1)


@pytest.mark.parametrize("r", [1, 2, 3, 16, 47, 48])
def test_the_second_difference(r):
    """2 on the diagonal and 1 beside it: 2 + 2 cos(pi / (r + 1)), with the first half of a sine."""
    theta, x, last, alone = solved(np.full(r, 2.0), np.ones(r - 1), 2.25)
    assert theta == pytest.approx(2 + 2 * np.cos(np.pi / (r + 1)), rel=1e-14)
    sine = np.sin(np.arange(1, r + 1) * np.pi / (r + 1))
    assert x * np.sign(x[0]) == pytest.approx(sine / np.linalg.norm(sine), abs=1e-10)
    assert last == pytest.approx(sine[-1] / np.linalg.norm(sine), abs=1e-10)
    assert alone == (r < 4)


@pytest.mark.parametrize("seed", range(30))
def test_random_ones(seed):
    """Of Lanczos' kind: positive, couplings from 1 to 1e-12, also none."""
    generator = np.random.default_rng(seed)
    r = int(generator.integers(1, 49))
    alpha = generator.random(r)
    beta = generator.random(r - 1) * 10.0 ** generator.integers(-12, 1, r - 1) * (generator.random(r - 1) < 0.95)
    shifted = alpha + 2.0
    exact = np.linalg.eigvalsh(dense(shifted, beta))
    for value in (exact[0] - 0.1, (exact[-1] + exact[-2]) / 2 if r > 1 else 0.0, exact[-1] + 0.1):
        theta, x, _, alone = solved(shifted, beta, value)
        assert alone == ((exact > value).sum() <= 1)
    assert theta == pytest.approx(exact[-1], rel=1e-14)
    assert np.linalg.norm(x) == pytest.approx(1.0)
    assert np.linalg.norm(dense(shifted, beta) @ x - theta * x) <= 1e-13 * theta


def test_a_diagonal_matrix():
    theta, x, last, _ = solved(np.array([1.0, 3.0, 2.0]), np.zeros(2))
    assert theta == pytest.approx(3.0, rel=1e-15)
    assert abs(x) == pytest.approx([0, 1, 0], abs=1e-15)
    assert last == 0
