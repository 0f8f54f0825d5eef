"""A second count where factors have grown too much: at which shifts, what it mends, and what it leaves alone."""

from __future__ import annotations

import pytest
import torch

from fastrank import Status, Tolerance, linalg, testing
from fastrank.counting import ragged
from fastrank.counting.bounds import shifts
from fastrank.counting.growth import unpivoted
from fastrank.reference import Moments, again

pytest.importorskip("triton")
from counting_steps import FP64, Step, noise

from fastrank.kernels.count import Answers, launches, row_
from fastrank.kernels.count import again as module
from fastrank.kernels.count.again import again_
from fastrank.kernels.inertia import Problems, factors
from fastrank.kernels.inertia.table import FIELDS


def as_if_large(order):
    """What factors of small matrices are allowed here, so that shifts are moved as far as those of large ones."""
    return unpivoted(order)._replace(widening=1e-5)


@pytest.fixture
def large(monkeypatch):
    """Every matrix that is not tiny is factored by many programs, and counted again where that is asked for."""
    monkeypatch.setattr(factors, "ONE_PROGRAM_UP_TO", 0)
    monkeypatch.setattr(module, "ABOVE", 0)
    monkeypatch.setattr(ragged, "unpivoted", as_if_large)


def shifts_of(matrices, tolerance):
    """The two shifts, and the limits of growth, `(b, 2)` each, with which the matrices are counted first."""
    of = torch.tensor([[float(m.double().square().sum()), *m.shape] for m in matrices], dtype=FP64)
    ones = torch.ones_like(of[:, 0])
    moments = Moments(of[:, 0], ones, ones.bool(), *of[:, 1:].unbind(-1))
    upper, lower, limit = (x.at(of[:, 0]) for x in shifts(moments, tolerance, as_if_large(of[:, 1])))
    return torch.stack([upper, lower], -1), torch.stack([limit, limit], -1)


def touching(matrix, which):
    """An absolute tolerance for `matrix` whose shift number `which` is the first element of the Gram: the first pivot
    vanishes, and growth is beyond belief."""
    first = float(matrix[0].double().square().sum())
    value = first**0.5
    for _ in range(5):
        delta = float(shifts_of([matrix], Tolerance(value, "absolute"))[0][0, which]) - value**2
        value = (first - delta) ** 0.5
    return Tolerance(value, "absolute")


@pytest.mark.parametrize("pairs", [0, 1, 3])
def test_shifts_and_limits_are_those_of_the_twin(pairs, device):
    b, parts, count = 60, 70, 6
    generator = torch.Generator().manual_seed(pairs)

    def pick(*shape, of):
        return torch.tensor(of, dtype=FP64)[torch.randint(len(of), shape, generator=generator)]

    rows = pick(b, of=[3.0, 600.0, 5000.0])
    table = torch.zeros(b, FIELDS.value, dtype=torch.int64)
    table[:, 1] = rows
    decided = pick(b, of=[0.0, 0.0, 0.0, 1.0]).int()
    trace = pick(b, of=[2.0, 2.0, 2.0, 0.0, torch.nan, torch.inf])
    coefficients = torch.stack([pick(b, count, of=[0.0, 0.5]), pick(b, count, of=[0.1, 0.2, torch.nan])], -1)
    counts = torch.where(pick(b, count, of=[0.0, 1.0]) == 1, rows[:, None], 2.0).long()
    growth = pick(b, count, parts, of=[0.0, 1.0]) * pick(b, count, 1, of=[0.0, 0.5, 1.0, 100.0, torch.nan, torch.inf])
    limits = pick(b, count, of=[0.0, 20.0, 40.0, -1.0])
    places = coefficients[..., 0] * trace[:, None] + coefficients[..., 1]
    finite = trace.isfinite() & (decided == 0)
    moments = Moments(trace.where(finite, 0.0), torch.ones_like(rows), finite, rows, rows)
    expected, believed = again(moments, places, limits, counts, growth.sum(-1), pairs)
    redone = ~expected.isnan()
    assert 20 < redone.sum() < b * count / 2

    on_device = [x.to(device) for x in (table, decided, coefficients, trace, counts, growth, limits)]
    problems = Problems(*on_device[:4], trace, trace, *on_device[4:6], pairs)
    again_(problems, on_device[6], torch.arange(b, dtype=torch.int32, device=device))
    found = problems.coefficients.cpu()
    torch.testing.assert_close(found[..., 1], expected, rtol=1e-14, atol=0, equal_nan=True)
    assert not found[redone][:, 0].any()
    torch.testing.assert_close(on_device[6].cpu(), believed, rtol=1e-15, atol=0)
    assert torch.equal(problems.counts.cpu(), counts.masked_fill(redone, 0))
    left = growth.masked_fill(redone[..., None], 0.0)
    torch.testing.assert_close(problems.growth.cpu(), left, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("which", [0, 1], ids=["upper", "lower"])
def test_a_pivot_that_vanishes_at_one_shift_is_none_at_another(which, large, device):
    """In a step of a plan. Its neighbours were right the first time, and nothing of theirs changes by a bit."""
    matrices = [noise(66, 90, seed=i).float() for i in range(3)]
    tolerance = touching(matrices[1], which)
    step = Step([m.to(device) for m in matrices], (tolerance,))
    (chunk,) = step.chunks
    step.shift(chunk)
    places, limits = shifts_of(matrices, tolerance)
    step.answers.coefficients[:, :2, 1] = places.to(device)
    step.answers.limits[:, :2] = limits.to(device)
    problems = chunk.problems(step.workspace, *step.answers.counted)
    chunk.factor(problems)
    before = Answers(*(x.clone() for x in step.answers))
    grown = before.growth.sum(-1)
    assert grown[1, which] > 1e4 * before.limits[1, which]  # how near to 0 a pivot comes is for the Gram's last bits
    others = grown <= before.limits
    assert others[[0, 2]].all()
    assert others[1, 2:].all(), "sigma_1 has no part in it"
    chunk.recount(problems, step.answers.limits)
    assert (step.answers.growth.sum(-1) <= step.answers.limits).all()
    assert step.answers.limits[1, which] == 64 * before.limits[1, which]
    for name in ("counts", "growth", "limits"):
        assert torch.equal(getattr(step.answers, name)[others], getattr(before, name)[others])
    row_(step.values, chunk.table, step.decided, step.proof, step.answers, step.step, step.skip)
    for matrix, found in zip(matrices, step.values.tolist(), strict=True):
        assert found[:2] == [testing.true_rank(matrix, tolerance).lower] * 2
        assert found[5] == Status.OK


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize("which", [0, 1], ids=["upper", "lower"])
def test_the_librarys_own_counts_are_mended_too(which, large, device, monkeypatch):
    """Negative control: counted once, the matrix falls back."""
    matrices = [noise(80, 90, seed=i).float() for i in range(2)]
    tolerance = touching(matrices[0], which)
    on_device = [m.to(device) for m in matrices]
    bounds = linalg.rank_bounds(on_device, tolerance, resolve=False)
    ranks = [int(testing.true_rank(m, tolerance).lower) for m in matrices]
    assert bounds.lower.tolist() == bounds.upper.tolist() == ranks
    assert bounds.status.tolist() == [Status.OK] * 2
    monkeypatch.setattr(launches.Launches, "recount", lambda *_: None)
    bounds = linalg.rank_bounds(on_device, tolerance, resolve=False)
    assert bounds.status.tolist() == [Status.FALLBACK, Status.OK]
    assert (bounds.lower[0], bounds.upper[0]) == (0, 80)
