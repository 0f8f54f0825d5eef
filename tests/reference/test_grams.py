"""Grams: FP64 at the values that matrices hold, subnormal numbers included, whatever a thread reads those as."""

from fractions import Fraction

import pytest
import torch

from fastrank import Tolerance
from fastrank.reference.grams import divided, gram, normalized, widened
from fastrank.reference.noise import normal
from fastrank.reference.sketch import next_basis, prove, sketch, start

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.fixture(params=[False, True], ids=["", "flush"])
def flush(request):
    """Called after what is expected has been made: from then on this thread reads subnormal numbers as zero, or not."""
    yield lambda: torch.set_flush_denormal(request.param)
    torch.set_flush_denormal(False)


def every_exponent(dtype):
    """Numbers of both signs from the smallest to the largest, and zeros."""
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    end = torch.tensor(torch.inf, dtype=dtype).view(integers).item()
    values = torch.arange(0, end, end // 30_000 + 7, dtype=integers).view(dtype)
    return torch.cat([values, -values])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_widening_changes_no_value(dtype, flush):
    values = every_exponent(dtype)
    expected = values.double().view(torch.int64)
    flush()
    assert torch.equal(widened(values).view(torch.int64), expected)
    assert torch.equal(widened(torch.stack([values, values]).mT)[:, 1].view(torch.int64), expected)


@pytest.mark.parametrize("exponent", [-1000, -500, -1, 0, 3, 1000])
def test_division_by_a_power_of_two(exponent, flush):
    values = every_exponent(torch.float64)
    scale = torch.tensor(2.0**exponent, dtype=torch.float64)
    quotients = values / scale
    normal_ = quotients.abs() >= 2.0**-1022  # others may become zero, or stay as they are
    expected = torch.where(normal_, quotients, 0.0).view(torch.int64)
    flush()
    found = divided(values, scale).view(torch.int64)
    assert torch.equal(torch.where(normal_, found, expected), expected)


def test_every_scale_is_found(flush):
    """From the smallest number to the largest; beside each of them zero, and an element that is far smaller."""
    tops = [5e-324, 2e-323, 1e-310, 2.0**-1022, 1e-305, 2.0**-1000, 1e-290, 1e-200, 1.0, 1e300, 1.7976931348623157e308]
    stack = torch.tensor([[[t, 0.0], [-t, t * 2.0**-40]] for t in tops], dtype=torch.float64)
    exact = [[Fraction(x) for x in matrix.flatten().tolist()] for matrix in stack]
    flush()
    for given in (stack, torch.cat([stack, torch.zeros(1, 2, 2).double()]), stack[:3]):
        wide, scale = normalized(given)
        torch.set_flush_denormal(False)
        for matrix, power, values in zip(wide, scale.tolist(), exact, strict=False):
            assert [Fraction(x) * Fraction(power) for x in matrix.flatten().tolist()] == values
        assert (wide.abs().amax((1, 2))[: len(exact)] >= 2.0**-75).all()
        flush()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_grams_of_small_matrices_are_exact(dtype, flush):
    """Of few significant bits: among them one that is zero, one that is not finite, and one that is not small."""
    smallest = torch.finfo(dtype).tiny * torch.finfo(dtype).eps
    whole = torch.tensor([[3.0, -4.0, 1.0], [0.0, 2.0, 7.0]], dtype=torch.float64)
    stack = torch.stack([whole * smallest, whole * 0, whole * smallest * 8, whole, whole / 0]).to(dtype)
    expected = whole @ whole.T
    flush()
    g = gram(stack)
    torch.set_flush_denormal(False)
    assert g.finite.tolist() == [True, True, True, True, False]
    for i, factor in enumerate((smallest, 0.0, 8 * smallest, 1.0)):
        ratio = factor / g.scale[i].item()
        assert torch.equal(g.matrix[i], expected * ratio**2)
        assert g.trace[i] == expected.trace() * ratio**2
    assert not g.matrix[4].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_sketches_of_subnormal_matrices(dtype, flush):
    """Rank three above 0.1 of the first, two above 0.6; read as zero, they would seem to be of rank none."""
    smallest = torch.finfo(dtype).tiny * torch.finfo(dtype).eps
    wide = torch.zeros(1, 20, 24, dtype=torch.float64)
    wide[0, :3, :3] = torch.diag(torch.tensor([7.0, 5.0, 3.0]))
    stack = (wide * smallest).to(dtype)
    basis = start(normal(0, 24, 16, 0, -1)[None])
    flush()
    for step in range(4):
        view = stack.mT if step % 2 else stack
        found = sketch(view, basis)
        proof = prove(found, basis, [Tolerance(0.1, "spectral"), Tolerance(0.6, "spectral")])
        assert (proof.rank_lower <= torch.tensor([3, 2])).all()
        assert (proof.rank_upper >= torch.tensor([3, 2])).all()
        basis = next_basis(found, proof.top, normal(0, view.shape[1], 16, 0, step)[None])
    assert proof.rank_lower.tolist() == proof.rank_upper.tolist() == [[3, 2]]
