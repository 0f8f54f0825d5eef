"""LDL: counts of planted spectra at sizes that hurt; growth and counts are those of the twins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ldl_by_columns import ldl_by_columns
from panels import inertia_of

from fastrank.counting.growth import recounted
from fastrank.reference import UNIT, unpivoted_inertia

# around a tile, around the order from which columns are made four at a time, and a sum that begins anew every 512
SIZES = [1, 7, 8, 9, 15, 16, 17, 63, 64, 65, 100, 511, 512, 513, 545]


def symmetric(r, seed=0):
    """Eigenvalues 1, 2, ... r, in some order on the diagonal, turned by two reflections."""
    generator = np.random.default_rng(seed)
    dense = np.diag(generator.permutation(np.arange(1.0, r + 1)))
    for _ in range(2):
        v = generator.standard_normal(r)
        v /= np.linalg.norm(v)
        dense -= 2 * np.outer(v, v @ dense)
        dense -= 2 * np.outer(dense @ v, v)
    return (dense + dense.T) / 2


@pytest.mark.parametrize("r", SIZES)
def test_counts_and_growth_of_planted_eigenvalues(r):
    dense = symmetric(r)
    for above in sorted({0, 1, r // 2, r - 1, r}) if r < 500 else (r // 2,):
        shift = r - above + 0.5
        count, growth = inertia_of(dense, shift)
        twin_count, twin_growth = unpivoted_inertia(torch.from_numpy(dense - shift * np.eye(r))[None])
        assert count == twin_count.item() == above
        # of the same factors, rounded otherwise, which matters the more the larger they are
        size = np.trace(dense) + r * shift
        assert growth == pytest.approx(twin_growth.item(), rel=1e-9 * max(1.0, twin_growth.item() / size))
        if r < 500:
            lower, d = ldl_by_columns(torch.from_numpy(dense - shift * np.eye(r)))
            assert growth == pytest.approx((d.abs() * lower.square().sum(0)).sum().item(), rel=1e-6)


@pytest.mark.parametrize("r", [20, 64, 523])
def test_a_count_is_exact_for_a_matrix_within_what_growth_allows(r):
    """An eigenvalue so near the shift that only the bound decides: the count is that of a shift within it."""
    dense, wrong = symmetric(r, seed=1), 0
    exact = np.linalg.eigvalsh(dense)
    for distance in (1e-10, 1e-13, 1e-15, 0.0, -1e-15, -1e-14):
        for at in range(r // 8, r, r // 8):
            shift = exact[at] * (1 + distance)
            count, growth = inertia_of(dense, shift)
            size = np.trace(dense) + r * shift
            terms = float(recounted(r).terms)
            far = UNIT * terms * (size + growth) + UNIT * 4 * r * exact[-1]
            assert (exact > shift + far).sum() <= count <= (exact > shift - far).sum()
            wrong += count != (exact > shift).sum()
    assert wrong  # negative control: it is near enough for rounding to matter


def test_a_pivot_of_zero_is_replaced_and_tells():
    """[[1, 2], [2, 1]] - I has the eigenvalues 2 and -2 and a first pivot of zero: growth says how little it means."""
    count, growth = inertia_of(np.array([[1.0, 2.0], [2.0, 1.0]]), 1.0)
    assert count == 1
    assert growth > 2.0 / UNIT / 10
    assert inertia_of(np.ones((1, 1)), 1.0)[0] in (0, 1)
    assert inertia_of(np.zeros((9, 9)), 1.0) == (0, 9.0)


@pytest.mark.parametrize("r", [1, 5, 8, 12, 40])
def test_what_is_not_finite_is_not_believed(r):
    for value in (np.nan, np.inf, -np.inf):
        dense = symmetric(r)
        dense[r - 1, r - 1] = value
        _, growth = inertia_of(dense, 1.5)
        assert not growth < np.inf
        dense = symmetric(r)
        dense[r - 1, 0] = dense[0, r - 1] = value
        _, growth = inertia_of(dense, 1.5)
        assert not growth < np.inf


def test_only_the_lower_triangle_is_read():
    dense = symmetric(21)
    expected = inertia_of(dense, 3.5)
    marred = np.where(np.triu(np.ones_like(dense), 1) > 0, 1e9, dense)
    assert inertia_of(marred, 3.5) == expected


@pytest.mark.parametrize("scale", [1e-160, 1e-90, 1e75, 1e150])
def test_any_scale(scale):
    r = 19
    count, growth = inertia_of(symmetric(r) * scale, 7.5 * scale)
    _, expected = inertia_of(symmetric(r), 7.5)
    assert count == r - 7
    assert growth == pytest.approx(expected * scale, rel=1e-6)
