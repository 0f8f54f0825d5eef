"""svd_lowrank by the kernels: as near as the CPU's, as orthonormal as FP32 is, with a bound that holds."""

from __future__ import annotations

import pytest
import torch

from fastrank import backend, linalg, testing
from fastrank.kernels.limits import NARROW
from fastrank.linalg import lowrank
from fastrank.reference.noise import normal
from fastrank.reference.orthonormal import orthonormal, unit_gram
from fastrank.reference.sketch import DEAD, UNIT, factor

pytest.importorskip("triton")
from fastrank.kernels.lowrank.range_finder import RangeFinder
from fastrank.kernels.lowrank.range_table import Layout
from fastrank.kernels.sketch.table import View

pytestmark = pytest.mark.usefixtures("served")


@pytest.fixture
def by_cpu(monkeypatch):
    """The same call, without the kernels."""

    def call(*args, **options):
        with monkeypatch.context() as without:
            without.setattr(backend, "kernels_serve", lambda device: False)
            return linalg.svd_lowrank(*args, **options)

    return call


@pytest.fixture
def passes(monkeypatch):
    """Lists the widths of the stacks that the kernels are given."""
    seen = []
    find = lowrank._find

    def noted(matrices, keys, width, search):
        seen.append(width)
        return find(matrices, keys, width, search)

    monkeypatch.setattr(lowrank, "_find", noted)
    return seen


def each(svd):
    return list(zip(*svd, strict=True))


def assert_factors(matrix, u, s, vh, error):
    """Orthonormal to FP32, in order, and the bound is that of these factors, to FP64 rounding of the matrix's norm."""
    k, matrix, norm = s.shape[-1], matrix.double(), torch.linalg.matrix_norm(matrix.double())
    assert (u.shape, vh.shape) == ((matrix.shape[0], k), (k, matrix.shape[1]))
    assert u.dtype == s.dtype == vh.dtype == torch.float32
    identity = torch.eye(k, dtype=torch.float64, device=u.device)
    for gram in (u.double().mT @ u.double(), vh.double() @ vh.double().mT):
        torch.testing.assert_close(gram, identity, rtol=0, atol=1e-6)
    assert (s.diff() <= 0).all()
    assert (s >= 0).all()
    spectral, frobenius = testing.factor_error(matrix, u, s, vh)
    assert spectral <= error
    assert frobenius <= error
    assert error <= frobenius * (1 + 1e-6) + 1e-13 * norm


def assert_nearly_same(matrix, ours, theirs):
    """FP64 sums in another order may round FP32 factors the other way, by an ulp, and turn signs; nothing more."""
    ulp = 2.0**-23 * torch.linalg.matrix_norm(matrix.double()).item()
    (u, s, vh, error), (v, t, wh, other) = ours, theirs
    torch.testing.assert_close(s, t, rtol=2**-22, atol=0)
    torch.testing.assert_close((u * s).double() @ vh.double(), (v * t).double() @ wh.double(), rtol=0, atol=4 * ulp)
    torch.testing.assert_close(error, other, rtol=0, atol=4 * ulp)


def pivot_error(gram, rows):
    """Bounds `(b, k)` on the difference of two LDL^T of a unit Gram, each summed and factored in an order of its own.

    A factorisation is exact for some G + E, where no |E_ij| is over (k + 4) u, and sums of `rows` products add rows u.
    Pivot j is w G w^T, with w row j of L^-1, and where it is least for all w with a 1 at j: it moves by w E w^T.
    """
    k = gram.shape[-1]
    lower, _ = factor(gram, torch.full_like(gram[:, 0, 0], UNIT * k))
    inverse = torch.linalg.solve_triangular(lower, torch.eye(k, dtype=gram.dtype), upper=False, unitriangular=True)
    return 2 * UNIT * (rows + k + 4) * inverse.abs().sum(-1).square()


def layouts(matrix):
    """The same numbers as they may lie in memory."""
    wide = torch.zeros(2 * matrix.shape[0], 3 * matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    wide[::2, 1::3] = matrix
    return {"rows": matrix.contiguous(), "columns": matrix.mT.contiguous().mT, "neither": wide[::2, 1::3]}


def test_a_pass_is_that_of_the_reference(device):
    """Of full rank, of rank 2, zero, not finite; k above the number of rows; several strips and chunks."""
    shapes = [(20, 30), (20, 30), (7, 30), (300, 18), (25, 530)]
    matrices = [testing.make("arithmetic", *shape, seed=i).matrix.to(device) for i, shape in enumerate(shapes)]
    rows, columns = torch.arange(20.0, device=device)[:, None], torch.arange(30.0, device=device)
    matrices[1] = ((rows % 5 - 2) * (columns % 7 - 3) + (rows % 3 - 1) * (columns % 4 - 1)) / 16  # exactly of rank 2
    matrices += [torch.zeros(9, 11, device=device), torch.full((9, 11), torch.inf, device=device)]
    k, seed = 16, 5
    layout = Layout([View(0, *m.shape, *m.stride(), 10 + i) for i, m in enumerate(matrices)], torch.float32, k, device)
    assert [run.length for run in layout.runs] == [2, 1, 1, 1, 2]
    addresses = torch.tensor([m.data_ptr() for m in matrices], device=device)
    finder = RangeFinder(layout, addresses, seed)
    finder.multiply()
    grams, sizes = finder.gram().clone(), finder.size.clone()
    products = [finder.product(run).clone() for run in layout.runs]
    finder.orthonormalise(1)
    for run, product in zip(layout.runs, products, strict=True):
        own = [(i, matrices[i].cpu()) for i in range(run.place, run.place + run.length)]
        omega = torch.stack([normal(seed, run.shape[1], k, 10 + i, 1) for i, _ in own]) / run.shape[1] ** 0.5
        expected = torch.stack([m.double() for _, m in own]) @ omega.double()
        torch.testing.assert_close(product.cpu(), expected, rtol=1e-5, atol=1e-6, equal_nan=True)
        gram, size = unit_gram(product.cpu())
        torch.testing.assert_close(grams[run.matrices].cpu(), gram, rtol=0, atol=1e-13)
        torch.testing.assert_close(sizes[run.matrices].cpu(), size, rtol=1e-12, atol=0, equal_nan=True)
        noise = torch.stack([normal(seed, run.shape[0], k, 10 + i, 2) for i, _ in own])
        twin = orthonormal(product.cpu(), noise)
        assert torch.equal(finder.kept[run.matrices].cpu() != 0, twin.kept)
        torch.testing.assert_close(finder.basis(run).cpu(), twin.columns, rtol=1e-4, atol=1e-4)
        # What a column has beside those before it is rounding or far from it: no rounding decides which are dead.
        there = (size > 0) & size.isfinite()
        ours, theirs = (p / size.square() for p in (finder.pivots[run.matrices].cpu(), twin.pivots))
        error = pivot_error(gram, run.shape[0])
        assert (theirs[twin.kept] > 1e6 * torch.maximum(error[twin.kept], torch.tensor(DEAD))).all()
        assert (theirs[there & ~twin.kept].abs() < 1e-3 * DEAD).all()
        assert ((ours - theirs).abs()[twin.kept] <= error[twin.kept]).all()
    assert finder.kept.sum(1).tolist() == [16, 2, 7, 16, 16, 0, 0]


def test_as_near_as_the_cpu_on_every_family_and_layout(device, by_cpu, passes):
    """1.5 times its residual, which at exact rank is the rounding of the factors."""
    families = ["geometric", "low_rank", "noisy_low_rank", "arithmetic", "one_large"]
    shapes = [(40, 31), (9, 6), (24, 60), (20, 20), (70, 17)]
    matrices = []
    for i, (family, shape) in enumerate(zip(families, shapes, strict=True)):
        made = layouts(testing.make(family, *shape, seed=i, dtype=NARROW[i % 3]).matrix.to(device))
        matrices.append(made[("rows", "neither", "columns")[(i + i // 3) % 3]])
    matrices += [testing.make("geometric", 30, 24, scale=scale).matrix.to(device) for scale in (1e-30, 1e30)]
    ours, theirs = (f(matrices, 5, power_iters=1) for f in (linalg.svd_lowrank, by_cpu))
    assert passes == [16] * 3  # of each dtype
    for matrix, mine, its in zip(matrices, each(ours), each(theirs), strict=True):
        assert_factors(matrix, *mine)
        assert mine[3] <= 1.5 * its[3]


def test_a_wide_sketch_and_a_batch(device, by_cpu, passes):
    A = torch.stack([testing.make("geometric", 50, 40, seed=s).matrix for s in range(2)]).to(device)
    ours, theirs = linalg.svd_lowrank(A.mT, 12, power_iters=0), by_cpu(A.mT, 12, power_iters=0)
    assert passes == [32]
    assert [x.shape for x in ours] == [(2, 40, 12), (2, 12), (2, 12, 50), (2,)]
    for matrix, mine, its in zip(A.mT, each(ours), each(theirs), strict=True):
        assert_factors(matrix, *mine)
        assert mine[3] <= 1.5 * its[3]


def test_power_iterations_matter_where_the_spectrum_decays_slowly(device):
    """Negative control: with none, the same sketch leaves twice as much above the optimum, on every matrix."""
    sigma = torch.linspace(1, 0.5, 90, dtype=torch.float64)
    A = torch.stack([testing.planted(sigma, 90, 100, seed=s) for s in range(2)]).to(device)
    excess = [linalg.svd_lowrank(A, 10, oversample=6, power_iters=n).error - sigma[10:].norm().item() for n in (0, 2)]
    assert (excess[0] > 2 * excess[1]).all()
    assert (excess[1] > 0).all()


@pytest.mark.usefixtures("either_language")
def test_what_is_far_below_the_first_singular_value_is_found(device):
    """Down to 1e-7 sigma_1, where FP32 ends: pivots are held against their own columns, not against the largest."""
    sigma = 10.0 ** -torch.linspace(0, 7, 24, dtype=torch.float64)
    matrix = testing.planted(sigma, 24, 40, seed=1).to(device)
    svd = linalg.svd_lowrank([matrix], 20, power_iters=1)
    (factors,) = each(svd)
    assert_factors(matrix, *factors)
    truth = testing.true_singular_values(matrix.double())[:20].to(device)
    assert ((svd.S[0].double() - truth).abs() <= 3e-8).all()
    assert svd.error[0] <= 1e-6


@pytest.mark.usefixtures("either_language")
def test_zero_and_what_is_not_finite_leave_their_neighbours_alone(device):
    matrix = testing.make("arithmetic", 14, 20).matrix.to(device)
    before = linalg.svd_lowrank([matrix] * 4, 4, power_iters=0)
    bad = matrix.expand(2, 14, 20).clone()
    bad[0, 3, 4], bad[1, 0, 0] = torch.nan, -torch.inf
    matrices = [matrix, torch.zeros_like(matrix), *bad]
    after = linalg.svd_lowrank(matrices, 4, power_iters=0)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(before, after, strict=True))
    assert all(x.isnan().all() for i in (2, 3) for x in each(after)[i])
    assert_factors(matrices[1], *each(after)[1])
    assert after.S[1].tolist() == [0] * 4
    assert after.error[1] == 0


def test_an_answer_depends_on_its_matrix_its_place_and_the_seed_alone(device):
    matrices = [testing.make("arithmetic", *shape, seed=1).matrix.to(device) for shape in [(12, 17), (17, 12)]]
    both = linalg.svd_lowrank(matrices, 2, power_iters=0, seed=2**127 + 1)
    others = [torch.ones(3, 50, device=device), matrices[1], matrices[1].double(), matrices[1].half()]
    beside = linalg.svd_lowrank(others, 2, power_iters=0, seed=2**127 + 1)
    assert all(torch.equal(a[1], b[1]) for a, b in zip(both, beside, strict=True))
    assert beside.U[2].dtype == torch.float64
    stack = linalg.svd_lowrank(matrices[0][None], 2, power_iters=0, seed=2**127 + 1)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(both, stack, strict=True))
    # 16 columns span all that 12 rows can. Of 40 nearly equal singular values each seed finds others.
    flat = testing.planted(torch.linspace(1, 0.9, 40, dtype=torch.float64), 40, 44, seed=0).to(device)
    few = [linalg.svd_lowrank([flat], 2, power_iters=0, seed=s).U[0] for s in (0, 2**127 + 1)]
    assert torch.linalg.svdvals(few[0].mT @ few[1])[0] < 0.9


def test_who_is_served(device, passes):
    """FP64, and what asks for more columns than there are kernels for, goes the way of a CPU."""
    small = torch.ones(3, 4, device=device)
    linalg.svd_lowrank([small.double(), torch.eye(140, device=device)], 1, oversample=139, power_iters=0)
    linalg.svd_lowrank(small.double()[None], 1, power_iters=0)
    assert linalg.svd_lowrank(small.expand(0, 3, 4), 1).U.shape == (0, 3, 1)
    assert passes == []
    linalg.svd_lowrank(small, 1, oversample=10**9, power_iters=0)
    assert passes == [16]


def test_a_small_workspace_gives_the_same_answers(device, monkeypatch, passes):
    A = torch.stack([testing.make("arithmetic", 20, 24, seed=s).matrix for s in range(2)]).to(device)
    whole = linalg.svd_lowrank(A, 2, power_iters=0)
    monkeypatch.setattr(lowrank, "WORKSPACE", 30_000)
    pieces = linalg.svd_lowrank(A, 2, power_iters=0)
    assert len(passes) == 3
    for matrix, mine, its in zip(A, each(whole), each(pieces), strict=True):
        assert_nearly_same(matrix, mine, its)
    with pytest.raises(AssertionError):  # negative control: another key's noise
        assert_nearly_same(A[1], each(linalg.svd_lowrank(A[1:], 2, power_iters=0))[0], each(whole)[1])
