"""fastrank.testing: planted matrices have the spectra they promise, and the judges judge."""

import numpy as np
import pytest
import torch

from fastrank import RankBounds, Tolerance, testing

SHAPES = [(0, 3), (1, 1), (1, 9), (13, 5), (20, 33)]


@pytest.mark.parametrize("family", testing.FAMILIES)
@pytest.mark.parametrize("shape", SHAPES)
def test_planted_spectrum_is_the_one_measured(family, shape):
    case = testing.make(family, *shape, seed=3, dtype=torch.float64)
    measured = testing.true_singular_values(case.matrix)
    assert case.matrix.shape == shape
    assert measured.shape == case.sigma.shape == (min(shape),)
    torch.testing.assert_close(measured, case.sigma, rtol=0, atol=1e-14)
    assert (case.sigma.diff() <= 0).all()


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_scale_changes_no_rank(scale):
    for tolerance in (Tolerance(), Tolerance(0.05, "spectral"), Tolerance(0.05, "absolute")):
        plain = testing.make("clustered", 12, 20, dtype=torch.float64, tolerance=tolerance)
        scaled = testing.make("clustered", 12, 20, dtype=torch.float64, tolerance=tolerance, scale=scale)
        assert testing.true_rank(scaled.matrix, scaled.tolerance) == testing.true_rank(plain.matrix, tolerance)
        torch.testing.assert_close(testing.true_singular_values(scaled.matrix) / scale, plain.sigma)


@pytest.mark.parametrize("relative_to", ["frobenius", "spectral", "absolute"])
@pytest.mark.parametrize("distance", [1e-3, 1e-5, 1e-7])
def test_clusters_have_the_count_they_say(relative_to, distance):
    tolerance = Tolerance(0.01, relative_to)
    sigma, count = testing.clustered(40, tolerance, distance)
    tau = 0.01 * (sigma.norm() if relative_to == "frobenius" else 1.0)
    assert int((sigma > tau).sum()) == count == 25
    close = (sigma / tau - 1).abs() <= 1.001 * distance
    assert int(close.sum()) == 30
    truth = testing.true_rank(testing.planted(sigma, 40, 60, seed=0, dtype=torch.float64), tolerance)
    assert truth == (count, count)


def test_factors_are_orthogonal_and_haar():
    # One column of a Haar factor is uniform on the sphere: its first coordinate has mean 0 and variance 1/m.
    ones = torch.ones(4, dtype=torch.float64)
    draws = torch.stack([testing.planted(ones, 4, 4, seed=s, dtype=torch.float64) for s in range(2000)])
    torch.testing.assert_close(draws @ draws.mT, torch.eye(4).double().expand(2000, 4, 4))
    assert draws.mean(0).abs().max() < 5 * (1 / 4 / 2000) ** 0.5
    assert (draws.square().mean(0) - 1 / 4).abs().max() < 5 * (1 / 8 / 2000) ** 0.5


def test_seeds_and_global_generators():
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, again, other = (testing.make("log_uniform", 9, 7, seed=s).matrix for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002


def test_cases_cover_every_family_and_scale_once():
    made = list(testing.cases(3, 4))
    assert [c.family for c in made] == [f for f in testing.FAMILIES for _ in range(3)]
    peaks = [float(c.matrix.abs().max()) for c in made if c.family == "identity"]
    assert [peak / scale for peak, scale in zip(peaks, (1.0, 1e-30, 1e30), strict=True)] == pytest.approx(
        [0.75] * 3, abs=0.26
    )


def test_true_rank_marks_what_rounding_decides():
    matrix = torch.diag(torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64))
    truth = testing.true_rank(torch.stack([matrix, 2 * matrix]), Tolerance(0.5, "absolute"))
    assert truth.lower.tolist() == [1, 2]
    assert truth.upper.tolist() == [2, 3]
    assert truth.ambiguous.all()
    assert not testing.true_rank(matrix, Tolerance(0.5 + 1e-13, "absolute")).ambiguous


def test_true_rank_of_odd_inputs():
    assert testing.true_rank(torch.full((2, 2), torch.nan)) == (-1, -1)
    assert testing.true_singular_values(torch.tensor([[torch.inf, 0.0]])).isnan().all()
    assert testing.true_rank(torch.zeros(2, 0, 3)).lower.tolist() == [0, 0]
    assert testing.true_rank(torch.zeros(3, 3)) == (0, 0)


def test_count_errors_tells_false_proofs_from_open_ones():
    truth = testing.TrueRank(torch.tensor([3, 3, 3, 2, 2, -1]), torch.tensor([3, 3, 3, 3, 3, -1]))
    lower, upper = torch.tensor([3, 4, 2, 3, 4, -1]), torch.tensor([3, 4, 5, 3, 4, -1])
    errors = testing.count_errors(RankBounds(lower, upper, torch.zeros(6, dtype=torch.int8)), truth)
    assert errors == (6, 2, 1)


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
def test_factor_error_is_the_error(scale):
    sigma = torch.tensor([3.0, 2.0, 0.4, 0.3], dtype=torch.float64) * scale
    matrix = testing.planted(sigma, 6, 4, seed=0, dtype=torch.float64)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    spectral, frobenius = testing.factor_error(matrix, u[:, :2], s[:2], vh[:2])
    assert float(spectral) / scale == pytest.approx(0.4)
    assert float(frobenius) / scale == pytest.approx(0.5)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="family: 'gauss' is none of zero, identity"):
        testing.spectrum("gauss", 3)
    with pytest.raises(ValueError, match="family"):
        testing.make("gauss", 3, 3)
    with pytest.raises(ValueError, match=r"sigma: 3 x 4 has 3 singular values; this has shape \(4,\)"):
        testing.planted(torch.ones(4), 3, 4, seed=0)
    with pytest.raises(ValueError, match=r"tolerance: .* too large for 10 singular values"):
        testing.clustered(10, Tolerance(0.9), 1e-3)


def test_truth_where_subnormals_are_flushed():
    matrix = torch.diag(torch.tensor([4.0, 2.0, 1.0]))
    single, half, double = matrix * 2.0**-149, (matrix * 2.0**-133).bfloat16(), matrix.double() * 2.0**-1074
    tau = Tolerance(1.5e-323, "absolute")
    torch.set_flush_denormal(True)
    try:
        for small in (single, half, double):
            assert testing.true_rank(small, Tolerance(0.3, "spectral")) == (2, 2)
            assert testing.true_rank(small, Tolerance(0.3)) == (2, 2)
        assert testing.true_rank(double, tau) == (1, 1)
    finally:
        torch.set_flush_denormal(False)


def test_factors_that_are_not_finite_have_no_error():
    matrix = torch.eye(3).repeat(2, 1, 1)
    u, s, vh = (
        torch.eye(3).repeat(2, 1, 1),
        torch.tensor([[1.0, 1, 1], [torch.inf, 1, 1]]),
        torch.eye(3).repeat(2, 1, 1),
    )
    for errors in testing.factor_error(matrix, u, s, vh):
        assert errors[0] == 0
        assert errors[1].isnan()
    assert testing.factor_error(matrix[0] * torch.nan, u[0], s[0], vh[0])[0].isnan()
