"""Sketches by integers: how far their products are off, against exact ones, and that what they prove is true."""

from __future__ import annotations

import pytest
import torch
from exact_cases import cases, inside

from fastrank import Tolerance, testing
from fastrank.reference.integer_sketch import CUT, TILE, products, rounded, sketch
from fastrank.reference.noise import normal
from fastrank.reference.sketch import Basis, next_basis, prove, start
from fastrank.reference.slices import fixed_point, top_of

NARROW = (torch.float16, torch.bfloat16, torch.float32)
SHARE = TILE**0.5 * 2.0**-31 * (1 + 2.0**-7.9)  # e of the proof: ||W - W'||_F is at most this times ||W||_F


def gaussian(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def worst(m, n):
    """Of each row of a tile one element is just above a power of two, or just below where one more bit is needed; the
    others are as far from a unit as they can be."""
    matrix = torch.full((m, n), (2.0**9 + 1.0) * 2.0**-32) * (1 + torch.arange(m)[:, None] % 7)
    matrix[:, ::TILE] = torch.where(torch.arange(m) % 2 == 0, 1.0, 2 - 2.0**-23 * 0x10101)[:, None]
    return matrix


def columns_that_read(n, k=16):
    """A basis that is k columns of the identity: exact, and so is its product."""
    basis = torch.zeros(1, n, k)
    basis[0, :k] = torch.eye(k)
    return Basis(basis, torch.ones(1, k, dtype=torch.bool), torch.zeros(1, k, dtype=torch.float64))


def test_a_number_is_off_by_half_a_unit_at_most_and_by_nothing_near_the_largest():
    w = torch.cat([gaussian(500).float() * torch.exp2(torch.arange(500.0) / 2 - 125), torch.tensor([2.0**-149, 3e38])])
    for largest in (2.0**-149, 2.0**-126, 1e-20, 1.0, 1.99, 1.9922, 3e38):
        own = w[w.abs() <= largest]
        top = top_of(torch.tensor([largest]).view(torch.int32).long())
        x, _ = fixed_point(own, top, 4)
        unit = torch.exp2((top - 157).double())
        off = (own.double() - x.double() * unit).abs()
        assert x.abs().max() <= 0x7F7F7F7F
        assert (off <= unit / 2).all()
        assert (off <= 2.0**-31 * (1 + 2.0**-7.9) * torch.tensor(largest).double()).all()
        assert (off[own.abs() >= largest * 2.0**-6] == 0).all()
        assert (x < 0).sum() == ((own < 0) & (x != 0)).sum()


def gaussian_rows(m, n):
    return gaussian(m, n).float()


def of_all_sizes(m, n):
    return (gaussian(m, n) * torch.exp2(gaussian(m, n, seed=1) * 9)).float()


@pytest.mark.parametrize("make", [worst, gaussian_rows, of_all_sizes])
def test_products_are_within_the_bound(make):
    """Against FP64 products with columns that are read exactly, and with a basis: ||dY||_F <= ||dW||_F ||V||_2."""
    matrix = make(40, 90)
    size = torch.linalg.matrix_norm(matrix.double())
    read = torch.cat([products(matrix[None, :, i : i + 16], columns_that_read(16))[0, 0] for i in (0, 32, 64)], -1)
    exact = torch.cat([matrix[:, i : i + 16] for i in (0, 32, 64)], -1).double()
    assert (read - exact).norm() <= SHARE * exact.norm()
    basis = rounded(start(normal(0, 90, 16, 0, 0)[None]))
    v = basis.columns[0].double()
    off = products(matrix[None], basis)[0, 0] - matrix.double() @ v
    assert off.norm() <= SHARE * size * torch.linalg.matrix_norm(v, 2) + 1e-13 * size * v.norm()


def test_a_bound_of_fewer_bits_would_be_false():
    """Negative control: the worst of matrices is off by more than a quarter of what is allowed."""
    matrix = worst(40, 32)
    off = products(matrix[None, :, :], columns_that_read(32, 32))[0, 0] - matrix.double()
    assert off.norm() > SHARE / 4 * matrix.double().norm()
    assert CUT >= 2 * SHARE * (1 + 2 * SHARE)


def test_without_the_cut_a_proof_would_be_false():
    """Two orthogonal columns, of which the second loses the last bit of its elements upwards; tau is in between."""
    a, larger = 2.0**-8 + 2.0**-31, 2.0**-8 + 2.0**-30
    matrix = torch.tensor([[[1.0, a], [1.0, -a]]])
    columns = torch.zeros(1, 2, 8)
    columns[0, :, :2] = torch.eye(2)
    basis = Basis(columns, (torch.arange(8) < 2)[None], torch.zeros(1, 8, dtype=torch.float64))
    found = sketch(matrix, basis)
    assert torch.equal(found.product[0, :, 1], torch.tensor([larger, -larger]).double())
    tolerance = [Tolerance((a * a + larger * larger) ** 0.5, "absolute")]  # sigma_2 is a sqrt(2): the rank is 1
    false, honest = prove(found._replace(cut=0.0), basis, tolerance), prove(found, basis, tolerance)
    assert (false.rank_lower.item(), false.rank_upper.item()) == (2, 2)
    assert (honest.rank_lower.item(), honest.rank_upper.item()) == (1, 2)


@pytest.mark.parametrize("k", [8, 16])
def test_the_exact_rank_and_sigma_1_are_in_the_bounds(k):
    decided = 0
    for i, case in enumerate(cases(48, 60 + k, NARROW, least=1)):
        top = case.exact.singular_values()[0]
        rank = case.exact.rank(case.tolerance)
        basis = rounded(start(normal(i, case.matrix.shape[1], k, 0, -1)[None]))
        for step in range(3):
            view = case.matrix.mT if step % 2 else case.matrix
            found = sketch(view[None], basis, TILE)
            proof = prove(found, basis, [case.tolerance])
            assert proof.rank_lower[0, 0] <= rank <= proof.rank_upper[0, 0], (case.name, step)
            assert inside(float(proof.top_low), top * top, float(proof.top_high)), (case.name, step)
            basis = rounded(next_basis(found, proof.top, normal(i, view.shape[0], k, 0, step)[None]))
        decided += int(proof.rank_lower[0, 0] == proof.rank_upper[0, 0])
    assert decided > 10


@pytest.mark.parametrize("name", testing.FAMILIES)
def test_planted_spectra_are_decided_as_in_fp64(name):
    matrix = testing.make(name, 40, 70, seed=3).matrix[None]
    tolerances = (Tolerance(), Tolerance(0.05), Tolerance(0.01, "spectral"))
    basis = rounded(start(normal(0, 70, 16, 0, -1)[None]))
    for step in range(6):
        view = matrix.mT if step % 2 else matrix
        found = sketch(view, basis)
        proof = prove(found, basis, tolerances)
        for i, tolerance in enumerate(tolerances):
            true = testing.true_rank(matrix, tolerance)
            assert proof.rank_lower[0, i] <= true.upper.item()
            assert proof.rank_upper[0, i] >= true.lower.item()
        basis = rounded(next_basis(found, proof.top, normal(0, view.shape[1], 16, 0, step)[None]))
    if name in ("zero", "low_rank", "noisy_low_rank"):
        assert proof.rank_lower[0, 1] == proof.rank_upper[0, 1]
