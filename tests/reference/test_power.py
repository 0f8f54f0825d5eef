"""Power iteration: lower bounds of lambda_1, and certificates that are never false."""

import math

import pytest
import torch

from fastrank import testing
from fastrank.reference.grams import gram
from fastrank.reference.power import (
    COLUMNS,
    SLACK,
    SQUARINGS,
    UNIT,
    exact_start,
    kato_bound,
    power_iteration,
    top_by_squaring,
)

FAMILIES = testing.FAMILIES


def grams(rows=24, cols=30, dtype=torch.float64):
    stack = torch.stack([testing.make(f, rows, cols, seed=i, dtype=dtype).matrix for i, f in enumerate(FAMILIES)])
    matrices = gram(stack).matrix
    return matrices, torch.linalg.eigvalsh(matrices)[:, -1]


def random_basis(b, r, k=COLUMNS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(b, r, k, generator=generator, dtype=torch.float64)).Q


def test_a_certificate_is_true_and_the_value_a_lower_bound():
    matrices, top = grams()
    basis = random_basis(*matrices.shape[:2])
    for _ in range(30):
        found = power_iteration(matrices, basis, iterations=1)
        basis = found.basis
        assert (found.value <= top * (1 + 1e-13)).all()
        assert (top[found.certified] <= found.value[found.certified] * (1 + SLACK)).all()
        identity = torch.eye(basis.shape[-1]).double().expand(len(basis), -1, -1)
        torch.testing.assert_close(basis.mT @ basis, identity)
    assert found.certified.all()


def test_a_basis_that_misses_the_top_is_not_certified():
    matrix = torch.diag(torch.tensor([2.0] + [1.0] * 19, dtype=torch.float64))[None]
    blind = torch.eye(20, dtype=torch.float64)[None, :, 1 : 1 + COLUMNS]
    found = power_iteration(matrix, blind)
    assert not found.certified.item()
    assert found.value.item() <= 2


def test_a_warm_start_follows_a_matrix_that_moves():
    weights = testing.make("arithmetic", 40, 50, dtype=torch.float64).matrix[None]
    step = testing.make("arithmetic", 40, 50, seed=1, dtype=torch.float64).matrix[None] * 1e-3
    basis = exact_start(gram(weights).matrix).basis
    for i in range(1, 20):
        matrices = gram(weights + i * step).matrix
        found = power_iteration(matrices, basis)
        basis = found.basis
        assert found.certified.item()
        assert found.value.item() == pytest.approx(torch.linalg.eigvalsh(matrices)[0, -1].item(), rel=SLACK)


@pytest.mark.parametrize("r", [1, 3, COLUMNS, 20])
def test_exact_start_is_exact_and_has_the_columns_there_are(r):
    matrices, top = grams(r, 30)
    start = exact_start(matrices)
    torch.testing.assert_close(start.value, top, rtol=1e-13, atol=1e-300)
    assert start.certified.all()
    assert start.basis.shape == (len(FAMILIES), r, min(COLUMNS, r))
    again = power_iteration(matrices, start.basis)
    assert again.certified.all()
    torch.testing.assert_close(again.value, top, rtol=1e-12, atol=1e-300)


def test_a_zero_matrix_has_a_certified_zero():
    found = power_iteration(torch.zeros(2, 5, 5, dtype=torch.float64), random_basis(2, 5, 5))
    assert found.certified.all()
    assert found.value.tolist() == [0, 0]
    assert found.basis.isfinite().all()


def quotient(matrices, vectors):
    above = (vectors * (matrices @ vectors[..., None])[..., 0]).sum(-1)
    return above / vectors.square().sum(-1)


@pytest.mark.parametrize("scale", [1e-80, 1e-30, 1.0, 1e30, 1e76])
@pytest.mark.parametrize("k", [1, 2, 8])
def test_squaring_finds_the_largest_eigenvalue_within_its_bound(k, scale):
    """Scales of the Gram of FP32 matrices, which is not scaled."""
    bound = k**2 / (2 * math.e * 2**SQUARINGS)
    for gap in (0.0, 1e-16, 1e-8, 2.0**-20, 1e-6, 1e-3, 1.0):
        eigenvalues = torch.full((k,), 1 - gap, dtype=torch.float64)
        eigenvalues[0] = 1
        q = testing.planted(torch.ones(k, dtype=torch.float64), k, k, seed=k, dtype=torch.float64)
        small = ((q * eigenvalues) @ q.mT)[None] * scale
        top = torch.linalg.eigvalsh(small)[0, -1].item()
        found = quotient(small, top_by_squaring(small)).item()
        assert top * (1 - bound - 1e-13) <= found <= top * (1 + 1e-13)


def test_fewer_squarings_are_a_worse_vector_and_zero_is_zero():
    matrices, top = grams(8, 12)
    there = top > 0
    values = [quotient(matrices, top_by_squaring(matrices, n))[there] for n in (0, 1, 4, SQUARINGS)]
    for value, better in zip(values, [*values[1:], top[there]], strict=True):
        assert (value <= better * (1 + 1e-13)).all()
    assert not top_by_squaring(torch.zeros(1, 3, 3, dtype=torch.float64)).any()
    # Negative control: without squarings the answer is well below lambda_1.
    assert (values[0] < 0.9 * top[there]).any()


def test_squarings_bound_is_tighter_than_the_certificates_slack():
    assert COLUMNS**2 / (2 * math.e * 2**SQUARINGS) < SLACK / 2


def spectral(eigenvalues, seed=0):
    """A symmetric matrix with these eigenvalues, and its eigenvectors."""
    eigenvalues = torch.as_tensor(eigenvalues, dtype=torch.float64)
    r = len(eigenvalues)
    q = torch.linalg.qr(torch.randn(r, r, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).Q
    return (q * eigenvalues) @ q.mT, q


def bound_of(matrix, x):
    """`kato_bound` from a vector of any length, and the Rayleigh quotient."""
    x = x / x.norm()
    y = matrix @ x
    theta = x @ y
    error = UNIT * (5 * len(x) + 64) * matrix.trace()
    bound = kato_bound(theta[None], (y - theta * x).norm()[None], matrix.square().sum()[None], error[None], len(x))
    return bound.item(), theta.item()


@pytest.mark.parametrize("scale", [1e-80, 1.0, 1e80])
@pytest.mark.parametrize("off", [0.0, 1e-8, 1e-4, 1e-2, 0.1, 0.5, 2.0])
def test_katos_bound_holds_and_is_tight_near_the_first_eigenvector(off, scale):
    """From vectors that are off by more and more, for spectra that one eigenvalue dominates, and others."""
    claimed = 0
    spectra = [[1.0], [1.0] + [0.0] * 9, [1.0, 0.6, 0.5, 0.3], [1.0] + [0.05] * 300, [1.0, 0.5, 0.5, 0.5, 0.4]]
    spectra += [[1.0, 1 - 1e-9, 0.1], [1.0] * 5, [1.0, 0.99, 0.98, 0.2], torch.rand(40).tolist()]
    for i, spectrum in enumerate(spectra):
        matrix, q = spectral(spectrum, i)
        top = torch.linalg.eigvalsh(matrix)[-1].item()
        side = torch.randn(len(q), generator=torch.Generator().manual_seed(i), dtype=torch.float64)
        bound, _ = bound_of(matrix * scale, q[:, torch.argmax(torch.as_tensor(spectrum))] + off * side / side.norm())
        assert bound >= top * scale * (1 - 1e-14)
        claimed += math.isfinite(bound)
        half = sum(e**2 for e in spectrum) / 2
        if off <= 1e-4 and max(spectrum) ** 2 > half * 1.01:
            assert bound <= top * scale * (1 + 1e-6), "one eigenvalue dominates"
        if max(spectrum) ** 2 < half:
            assert bound == math.inf, "no vector can tell"
    assert claimed >= (4 if off <= 0.01 else 1)


def test_katos_bound_claims_nothing_of_clustered_eigenvalues():
    """The vector of the second of two, whose residual is zero: lambda_1 is above its Rayleigh quotient."""
    matrix, q = spectral([1.0, 0.9, 0.1])
    bound, theta = bound_of(matrix, q[:, 1])
    assert theta == pytest.approx(0.9)
    assert bound == math.inf
    # Negative control: the inequality itself, with a beta that is below lambda_1, would claim 0.9.
    assert theta + 0.0 / (theta - 0.1) < 1.0
    for r in (2, 5, 50):
        assert bound_of(torch.eye(r, dtype=torch.float64), torch.ones(r, dtype=torch.float64))[0] == math.inf


def test_katos_bound_takes_nothing_that_is_not_a_number():
    nan, one = torch.tensor([math.nan], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    for given in ((nan, one, one), (one, nan, one), (one, one, nan), (one * 0, one * 0, one * 0)):
        assert kato_bound(*given, one * 1e-16, 3.0).item() in (math.inf, pytest.approx(1e-16, rel=3))
