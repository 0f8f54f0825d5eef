"""The probe: it passes here, and each of its tests fails where its own assumption is broken, one by one."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from fastrank import probing
from fastrank.counting import singular
from fastrank.metrics import RankBounds
from fastrank.probing import counts, products, required, rounding, ways
from fastrank.reference import widened

CPU = torch.device("cpu")
ORDERS = (1, 4, 16, 64)


def failing(findings):
    return [finding.assumption for finding in findings if not finding.passed]


def test_all_assumptions_hold_here():
    found = probing.probe(CPU, ORDERS)
    assert failing(found) == []
    assert len(found) >= 18
    for finding in found:
        assert finding.seen
        assert not finding.cure


def cut(x, bits):
    """FP64 numbers rounded to fewer bits."""
    mantissa, exponent = torch.frexp(x)
    return torch.ldexp((mantissa * 2.0**bits).round(), exponent - bits)


def in_fp32(a, b):
    return (a.float() @ b.float()).double()


def in_tf32(a, b):
    return cut(a, 11) @ cut(b, 11)


def in_51_bits(a, b):
    return cut(a, 51) @ cut(b, 51)


def in_fixed_point(a, b):
    """As an emulation on integers: 60 bits below the largest element of each row of A and column of B."""
    ends = a.abs().amax(-1, keepdim=True), b.abs().amax(-2, keepdim=True)
    units = [torch.frexp(end).exponent - 60 for end in ends]
    a, b = (torch.ldexp(torch.ldexp(x, -unit).round(), unit) for x, unit in zip((a, b), units, strict=True))
    return a @ b


def strassen(a, b):
    """One level of Strassen's algorithm where all sides are even."""
    if a.ndim > 2 or any(side % 2 for side in (*a.shape, *b.shape)):
        return a @ b
    (a11, a12), (a21, a22) = (x.chunk(2, 1) for x in a.chunk(2, 0))
    (b11, b12), (b21, b22) = (x.chunk(2, 1) for x in b.chunk(2, 0))
    m1, m2, m3 = (a11 + a22) @ (b11 + b22), (a21 + a22) @ b11, a11 @ (b12 - b22)
    m4, m5 = a22 @ (b21 - b11), (a11 + a12) @ b22
    m6, m7 = (a21 - a11) @ (b11 + b12), (a12 - a22) @ (b21 + b22)
    return torch.cat([torch.cat([m1 + m4 - m5 + m7, m3 + m5], 1), torch.cat([m2 + m4, m1 - m2 + m3 + m6], 1)])


WHOLE = "FP64 products of PyTorch are exact where their sums are"


@pytest.mark.parametrize(
    ("product", "caught"),
    [
        (in_fp32, {products.FULL, products.GRADED, WHOLE}),
        (in_tf32, {products.FULL, products.GRADED, WHOLE}),
        (in_51_bits, {products.FULL}),
        (in_fixed_point, {products.GRADED}),
        (strassen, {products.GRADED}),
    ],
)
def test_products_that_are_not_in_fp64_are_caught(product, caught, monkeypatch):
    monkeypatch.setattr(torch, "matmul", lambda a, b: product(a, b) if a.dtype == torch.float64 else a @ b)
    found = products.findings(CPU)
    assert caught <= set(failing(found))
    assert all(finding.cure for finding in found if not finding.passed)
    assert (WHOLE in failing(found)) == (WHOLE in caught)


def in_bf16(a, b):
    return a @ b if a.dtype == torch.float64 else (a.bfloat16() @ b.bfloat16()).float()


def test_narrower_products_than_fp32_are_caught_unless_nobody_relies_on_them(monkeypatch):
    monkeypatch.setattr(torch, "matmul", in_bf16)
    assert failing(products.findings(CPU)) == ["FP32 products of PyTorch are FP32, where svd_lowrank relies on them"]
    monkeypatch.setattr(products, "full_precision", lambda: False)
    assert failing(products.findings(CPU)) == []


def twice(x):
    """Rounded to 64 bits or so, as in some registers, and then to FP64."""
    unit = Fraction(2) ** (abs(x.numerator).bit_length() - x.denominator.bit_length() - 64)
    return rounding.rounded(round(x / unit) * unit)


def each(operation):
    def on_tensors(x, y):
        pairs = zip(map(Fraction, x.tolist()), map(Fraction, y.tolist()), strict=True)
        return torch.tensor([operation(*pair) for pair in pairs], dtype=torch.float64)

    return on_tensors


@pytest.mark.parametrize(
    ("name", "operation"),
    [
        ("add", lambda x, y: (x.float() + y.float()).double()),
        ("add", each(lambda x, y: twice(x + y))),
        ("mul", lambda x, y: cut(x * y, 52)),
        ("div", lambda x, y: x * y.reciprocal()),
        ("div", each(lambda x, y: twice(x / y))),
    ],
)
def test_operations_that_are_not_rounded_to_nearest_are_caught(name, operation, monkeypatch):
    monkeypatch.setattr(torch, name, operation)
    assert failing(rounding.findings(CPU)) == [rounding.NEAREST]


def test_roots_and_sums_that_are_off_are_caught(monkeypatch):
    stock_root, stock_sum = torch.Tensor.sqrt, torch.Tensor.sum
    monkeypatch.setattr(torch.Tensor, "sqrt", lambda x: stock_root(x) * (1 + 2.0**-51))
    monkeypatch.setattr(torch.Tensor, "sum", lambda x, dim: stock_sum(x.float(), dim).double())
    assert [name.split()[0] for name in failing(rounding.findings(CPU))] == ["roots", "a"]


def test_what_is_neither_fused_nor_rounded_twice_is_caught():
    exact = [known[3] for known in rounding.remainders(4)]
    assert rounding.judge_fused(exact, "a product").passed
    assert "an FMA" in rounding.judge_fused(exact, "a product").seen
    assert rounding.judge_fused([0.0] * 5, "a product").passed
    assert not rounding.judge_fused([*exact[:4], exact[4] * (1 + 2.0**-52)], "a product").passed


def of_grams(change):
    """A way of counting by eigenvalues of Grams that are not what they should be, without any allowance for that."""

    def grams(matrices):
        wide = [m.double() if m.shape[0] <= m.shape[1] else m.double().mT for m in matrices]
        return [change(w @ w.mT) for w in wide]

    def bounds(matrix, tolerances):
        eigenvalues = torch.linalg.eigvalsh(grams([matrix])[0])
        counts = [(eigenvalues > tolerance.value**2).sum() for tolerance in tolerances]
        return [RankBounds(count, count, torch.tensor(0)) for count in counts]

    return ways.Way("a Gram", grams, bounds, True)


EXACT, BOUND, FUSED, TRUE_RANK, SUBNORMAL = range(5)


@pytest.mark.parametrize(
    ("change", "caught"),
    [
        (lambda g: g.float().double(), [EXACT, BOUND, TRUE_RANK, SUBNORMAL]),
        (lambda g: g * (1 + 2.0**-40), [EXACT, BOUND, TRUE_RANK, SUBNORMAL]),
        (lambda g: g + 1e-9 * g.amax(), [EXACT, BOUND, FUSED, TRUE_RANK, SUBNORMAL]),
        (lambda g: g, [TRUE_RANK, SUBNORMAL]),  # counts without an allowance, and subnormal numbers that are flushed
    ],
)
def test_wrong_grams_and_counts_are_caught(change, caught):
    found = counts.findings(of_grams(change), CPU, (1, 4, 16))
    assert [i for i, finding in enumerate(found) if not finding.passed] == caught


def test_bounds_that_say_nothing_do_not_pass():
    nothing = of_grams(lambda g: g)._replace(
        bounds=lambda m, ts: [RankBounds(torch.tensor(0), torch.tensor(min(m.shape)), torch.tensor(0)) for _ in ts]
    )
    found = counts.findings(nothing, CPU, (16,))[TRUE_RANK]
    assert not found.passed
    assert "0 of" in found.seen


def test_flushing_is_left_as_it_was():
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot flush subnormal numbers")
    try:
        way = next(iter(ways.ways(CPU)))
        assert counts.findings(way, CPU, (1,))[SUBNORMAL].passed
        assert counts._SMALLEST + 0.0 == 0.0
    finally:
        torch.set_flush_denormal(False)
    assert counts.findings(way, CPU, (1,))[SUBNORMAL].passed
    assert counts._SMALLEST + 0.0 != 0.0
    assert widened(torch.tensor([[2.0**-149]])).item() == 2.0**-149


def test_decompositions_that_are_off_are_caught(monkeypatch):
    """In FP32 the intervals are wide; where the residual does not show what is wrong, the exact value is outside."""
    stock = torch.linalg.svd
    assert ways.decompositions(CPU, (16,)).passed
    monkeypatch.setattr(torch.linalg, "svd", lambda a, **o: [x.double() for x in stock(a.float(), **o)])
    found = ways.decompositions(CPU, (16,))
    assert not found.passed
    assert "wide" in found.seen
    monkeypatch.setattr(singular, "residual_norm", lambda *a: torch.zeros(len(a[0])).double())
    found = ways.decompositions(CPU, (16,))
    assert not found.passed
    assert "outside" in found.seen


def test_a_setting_that_emulates_fp64_is_read(monkeypatch):
    cuda = torch.device("cuda")
    monkeypatch.delenv("CUBLAS_EMULATE_DOUBLE_PRECISION", raising=False)
    assert required.emulation_of(cuda).passed
    monkeypatch.setenv("CUBLAS_EMULATE_DOUBLE_PRECISION", "0")
    assert required.emulation_of(cuda).passed
    monkeypatch.setenv("CUBLAS_EMULATE_DOUBLE_PRECISION", "1")
    assert not required.emulation_of(cuda).passed
    assert required.emulation_of(CPU).passed
