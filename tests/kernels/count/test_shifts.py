"""Shifts: those of the twin, from vectors that the power iteration has left, and what that leaves to count."""

from __future__ import annotations

import pytest
import torch

from fastrank import reference
from fastrank.counting import growth
from fastrank.counting.bounds import LARGEST_TAU, Affine, Shifts, shifts, shifts_around
from fastrank.counting.growth import unpivoted
from fastrank.counting.ragged import ShiftPair
from fastrank.metrics import Status
from fastrank.reference import UNIT, Moments, kato_bound
from fastrank.reference.grams import gram as gram_of
from fastrank.reference.slices import integer_gram

pytest.importorskip("triton")
from counting_steps import FP64, TOLERANCES, Step, noise, nothing_known, with_spectrum

from fastrank.kernels.count import Answers, again, row
from fastrank.kernels.count import answers as module
from fastrank.kernels.count import shifts as shifts_module
from fastrank.kernels.count.power import PRODUCTS, SHIFTS, SMALL
from fastrank.kernels.sketch import proof as proofs

TIGHT, SLACK = module.TIGHT.value, module.SLACK.value


def moments_of(matrices, made=gram_of):
    grams = [made((m if m.shape[0] <= m.shape[1] else m.mT)[None].cpu()) for m in matrices]
    trace = torch.tensor([float(g.trace) for g in grams], dtype=FP64)
    order = torch.tensor([float(min(m.shape)) for m in matrices], dtype=FP64)
    inner = torch.tensor([float(max(m.shape)) for m in matrices], dtype=FP64)
    ones = torch.ones_like(trace)
    return Moments(trace, ones, torch.cat([g.finite for g in grams]), order, inner), [g.matrix[0] for g in grams]


def certificates(moments, low):
    """Shifts near - delta and far - delta, for sigma_1^2 at most near or far."""
    near, far = Affine(0.0, low * (1 + SLACK)), Affine(0.0, low * (1 + TIGHT))
    found = shifts_around(moments, near, far, Affine(0.0, 0.0), unpivoted(moments.order))
    return Shifts(found.upper, far * 2.0 - found.lower, found.limit)


def test_constants_are_those_of_the_library():
    assert pytest.approx(shifts_module.LARGEST.value, rel=1e-15) == LARGEST_TAU**2
    assert (shifts_module.WIDENING.value, shifts_module.AGAIN_ABOVE.value) == (growth.WIDENING, growth.AGAIN_ABOVE)
    assert shifts_module.SPARE.value == reference.SPARE
    assert (again.MARGIN.value, again.MOST.value) == (reference.MARGIN, reference.MOST)
    assert again.ABOVE == growth.AGAIN_ABOVE
    assert SLACK == reference.SLACK
    for name in ("FROBENIUS", "SPECTRAL", "ABSOLUTE"):
        assert getattr(shifts_module, name).value == getattr(proofs, name).value
    assert [row.OK.value, row.NONFINITE.value, row.FALLBACK.value] == [Status.OK, Status.NONFINITE, Status.FALLBACK]
    assert len(SHIFTS) % 2 == 1, "the last product is where the first vector was not"
    assert SHIFTS[-1] == 0, "the last product is that with the Gram itself"


SIZES = [(1, 1), (1, 9), (7, 7), (40, 33), (64, 90), (SMALL, SMALL), (SMALL + 1, 140), (20, 1100)]


@pytest.mark.parametrize(
    ("sketched", "products"),
    [(False, 0), (True, 0), pytest.param(True, 10, marks=pytest.mark.int8)],
    ids=["first", "sketched", "integers"],
)
def test_shifts_are_those_of_the_twins(sketched, products, device):
    """With nothing known, and with a sketch that knows sigma_1 better than the power iteration, or worse. Slices are
    off by more than all roundings, and that is part of every delta."""
    matrices = [noise(*size, seed=i).float().to(device) for i, size in enumerate(SIZES)]
    matrices.append(with_spectrum([3.0, 1.0, 0.5], 5).to(device))
    exact = torch.stack([torch.linalg.eigvalsh(g)[-1] for g in moments_of(matrices)[1]])
    moments, grams = moments_of(matrices, integer_gram if products else gram_of)
    proof = nothing_known(len(matrices))
    if sketched:
        near = torch.tensor([1e-7 if i % 2 else 0.3 for i in range(len(matrices))], dtype=FP64)
        proof[:, :3] = torch.stack([moments.trace, exact * (1 - near), exact * (1 + near)], -1)
    step = Step(matrices, proof=proof, products=products)
    step.shift(step.chunks[0])
    moments = moments._replace(error=step.chunks[0].error.cpu())
    assert (moments.error > 1e-10 * moments.trace).all() if products else not moments.error.any()
    a = Answers(*(x.cpu() for x in step.answers))
    x, y = step.last.cpu().nan_to_num()  # beyond its order nothing is written

    torch.testing.assert_close(a.trace, moments.trace, rtol=1e-13, atol=0)
    for i, g in enumerate(grams):
        r = len(g)
        torch.testing.assert_close(y[i, :r], g @ x[i, :r] / x[i].norm(), rtol=0, atol=1e-13 * float(moments.trace[i]))
        assert not y[i, r:].any()
        v = step.noise[i, :r].cpu()
        for s in [0.0] * PRODUCTS if r <= SMALL else SHIFTS:
            v = (g @ v - s * proof[i, 1] * v) / v.norm()
        torch.testing.assert_close(y[i, :r], v, rtol=0, atol=1e-11 * float(moments.trace[i]))
    length = x.norm(dim=-1)
    theta = (x * y).sum(-1) / length
    rho = (y - x * (theta / length)[:, None]).norm(dim=-1)
    error = UNIT * (moments.inner + 4 * moments.order + 64) * moments.trace + moments.error
    square = torch.stack([g.square().sum() for g in grams])
    bound = kato_bound(theta, rho, square, error, moments.order)
    low = torch.maximum(proof[:, 1], theta - error)
    first = moments.trace * (1 + UNIT * (moments.inner + moments.order + 64)) + moments.error
    high = torch.minimum(proof[:, 2] if sketched else first, bound)
    torch.testing.assert_close(a.top[:, 0], low, rtol=1e-13, atol=0)
    torch.testing.assert_close(a.top[:, 1], high, rtol=1e-12, atol=0)
    assert (a.top[:, 0] <= exact * (1 + 1e-14)).all()
    assert (a.top[:, 1] >= exact * (1 - 1e-14)).all()
    known = high <= low * (1 + TIGHT)
    assert known.any()
    assert not known.all()

    found = [shifts(moments, t, unpivoted(moments.order), (low, high)) for t in TOLERANCES]
    pairs = [ShiftPair.of(s, moments.trace) for s in [*found, certificates(moments, low)]]
    for i, pair in enumerate(pairs):
        expected = (pair.coefficients[..., 0] * moments.trace[:, None]) + pair.coefficients[..., 1]
        limit = (pair.limits[..., 0] * moments.trace[:, None]) + pair.limits[..., 1]
        if i == len(TOLERANCES):
            expected[known], limit[known] = torch.nan, -1.0
        torch.testing.assert_close(
            a.coefficients[:, 2 * i : 2 * i + 2, 1], expected, rtol=1e-11, atol=0, equal_nan=True
        )
        torch.testing.assert_close(a.limits[:, 2 * i : 2 * i + 2], limit, rtol=1e-11, atol=0)
    assert not a.coefficients[..., 0].any()
    assert not a.growth.any()
    assert not a.counts.any()
    torch.testing.assert_close(step.vectors[0].cpu(), y / y.norm(dim=-1, keepdim=True), rtol=1e-14, atol=0)


def test_vectors_that_are_of_no_use_give_way_to_noise(device):
    matrices = [torch.zeros(6, 8, device=device), noise(6, 8).float().to(device), noise(200, 210).float().to(device)]
    matrices[1][2, 3] = torch.nan
    matrices[2][5, 5] = torch.inf
    step = Step(matrices)
    step.run()
    assert torch.equal(step.vectors[0], step.noise)
    assert step.values[:, -1].tolist() == [Status.OK, Status.NONFINITE, Status.NONFINITE]
    assert step.values[0].tolist() == [0.0] * 10
    assert step.values[1:, :6].unique().tolist() == [-1.0]
    assert step.values[1:, 6:9].isnan().all()


def test_a_second_step_starts_from_the_vectors_of_the_first(device):
    """The growth of the first step is forgotten, and the vector has come nearer."""
    matrices = [with_spectrum([1.0, 0.9, 0.8, *[0.3] * 20], 30).to(device)]
    step = Step(matrices, TOLERANCES[:1])
    step.run()
    low, grown = step.answers.top[0, 0].clone(), step.answers.growth.clone()
    step.run()
    assert step.answers.top[0, 0] > low
    torch.testing.assert_close(step.answers.growth[:, :2], grown[:, :2], rtol=1e-12, atol=0)
    for _ in range(3):
        step.run()
    assert step.values[0, 3].item() == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("second", [0.5, 0.8, 0.9])
def test_few_products_with_shifts_do_more_than_many_without(second):
    """A vector that a step has disturbed evenly, with lambda_1 known to 3 %; by the twin's arithmetic alone."""
    eigenvalues = torch.cat([torch.linspace(0, second, 511, dtype=FP64), torch.ones(1, dtype=FP64)])
    start = torch.cat([0.01 * noise(511), torch.ones(1, dtype=FP64)])

    def missing(shifts):
        x = start
        for s in shifts[:-1]:
            x = (eigenvalues - s * 0.97) * x
        return 1 - float((eigenvalues * x.square()).sum() / x.square().sum())

    assert missing(SHIFTS) < TIGHT / 2
    plain = missing([0.0] * PRODUCTS)
    assert missing(SHIFTS) < plain or plain < TIGHT / 100, "what lies far below lambda_1 is gone anyway"


@pytest.mark.int8
def test_a_step_by_integers_says_what_is_true(device):
    """Ranks relative to ||W||_F, to sigma_1 and to nothing, and both norms, of planted spectra and of hard rows."""
    spectra = [
        torch.logspace(0, -5, 20),
        [1.0, *torch.linspace(0.6, 0.1, 8)],
        torch.tensor([2.0, 1.0, 0.6, 4e-3, 1e-3, 1e-4]),
    ]
    matrices = [with_spectrum(sigma, 30 + i, seed=i) for i, sigma in enumerate(spectra)]
    matrices += [matrices[0] * 2.0**-70, matrices[2].bfloat16(), matrices[1] * torch.logspace(0, -9, 9)[:, None]]
    step = Step([matrix.to(device) for matrix in matrices], products=13)
    values = step.run().cpu()
    for row_of, matrix in zip(values, matrices, strict=True):
        sigma = torch.linalg.svdvals(matrix.double())
        for i, tau in enumerate((1e-3 * sigma.norm(), 0.3 * sigma[0], 0.5)):
            assert row_of[2 * i] == row_of[2 * i + 1] == (sigma > tau).sum()
        torch.testing.assert_close(row_of[7], sigma[0], rtol=2e-4, atol=0)
        torch.testing.assert_close(row_of[8], sigma.norm(), rtol=1e-8, atol=0)
        assert row_of[9] == Status.OK
    assert step.chunks[0].error.gt(0).tolist() == [True] * 4 + [False, True], "a slice holds what BF16 does"
