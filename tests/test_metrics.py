"""Definitions: tolerances, bounds, and the metrics of a spectrum."""

import math
import pickle
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch

from fastrank import RankBounds, Status, Tolerance, metrics

ENERGY_RANKS = [partial(metrics.energy_rank, energy=energy) for energy in (1e-14, 0.9, 1.0)]


def sigma_of(*values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype)


def test_tolerance_is_the_papers_by_default():
    assert Tolerance() == Tolerance(1e-3, "frobenius")
    assert Tolerance(1) == Tolerance(1.0)
    assert hash(Tolerance(1)) == hash(Tolerance(1.0))
    assert pickle.loads(pickle.dumps(Tolerance(0.5, "spectral"))) == Tolerance(0.5, "spectral")


@pytest.mark.parametrize(
    ("tolerance", "suffix"),
    [
        (Tolerance(0.04), "0.04"),
        (Tolerance(1), "1"),
        (Tolerance(0), "0"),
        (Tolerance(1e-5, "absolute"), "1e-05-absolute"),
        (Tolerance(0.04, "spectral"), "0.04-spectral"),
        # Two tolerances that differ at all have columns that differ.
        (Tolerance(0.1234567), "0.1234567"),
    ],
)
def test_suffix(tolerance, suffix):
    assert tolerance.suffix == suffix


NUMBERS = [np.float16(0.1), np.float32(1e-3), np.float64(1e-3), np.longdouble(0.5), np.int64(2), np.uint8(0)]
ARRAYS = [np.array(1e-3, dtype=np.float32), torch.tensor(1e-3), torch.tensor(1e-3).bfloat16(), torch.tensor(3)]


@pytest.mark.parametrize("value", [*NUMBERS, *ARRAYS], ids=lambda v: f"{type(v).__name__}-{v.dtype}")
def test_tolerance_takes_numbers_of_numpy_and_torch_at_their_values(value):
    tolerance = Tolerance(value, "spectral")
    assert type(tolerance.value) is float
    assert tolerance == Tolerance(float(value), "spectral")
    assert hash(tolerance) == hash(Tolerance(float(value), "spectral"))
    assert float(tolerance.suffix.removesuffix("-spectral")) == float(value)


NO_NUMBERS = [np.bool_(True), np.array([0.1]), np.float32("nan"), np.float32(-1), torch.tensor(True), torch.ones(1)]
NO_NUMBERS += [np.complex64(1), np.str_("0.1"), np.datetime64(1, "s"), torch.tensor(1j), torch.tensor(-math.inf)]


@pytest.mark.parametrize(
    "value", [-1e-9, math.nan, math.inf, -math.inf, "0.1", None, True, 1j, 10**400, *NO_NUMBERS], ids=repr
)
def test_tolerance_refuses_what_is_no_threshold(value):
    with pytest.raises(ValueError, match="Tolerance: value must be"):
        Tolerance(value)


@pytest.mark.parametrize("relative_to", ["nuclear", "Frobenius", "", None, ["frobenius"]])
def test_tolerance_refuses_an_unknown_reference(relative_to):
    with pytest.raises(ValueError, match="Tolerance: relative_to must be one of 'frobenius', 'spectral', 'absolute'"):
        Tolerance(0.1, relative_to)


def test_certified_needs_bounds_that_meet_and_a_finite_matrix():
    status = torch.tensor([Status.OK, Status.FALLBACK, Status.NONFINITE, Status.FALLBACK], dtype=torch.int8)
    bounds = RankBounds(torch.tensor([3, 2, -1, 0]), torch.tensor([3, 3, -1, 0]), status)
    assert bounds.certified.tolist() == [True, False, False, True]


def test_numerical_rank_counts_strictly_above():
    sigma = sigma_of(4.0, 2.0, 1.0).expand(3, 3)
    assert metrics.numerical_rank(sigma, torch.tensor([2.0, 1.9, 0.0])).tolist() == [1, 2, 3]
    assert metrics.numerical_rank(sigma, 4.0).tolist() == [0, 0, 0]
    # The float 0.1 is below FP32's, and 1e-60 is not zero.
    assert metrics.numerical_rank(sigma_of(0.1, 0.0, dtype=torch.float32), 0.1) == 1
    assert metrics.numerical_rank(sigma_of(0.1, 0.0, dtype=torch.float32), 1e-60) == 1


@pytest.mark.parametrize("scale", [5e-324, 1e-300, 1e-30, 1.0, 1e30, 1e300, 1.7e308])
def test_ranks_of_equal_singular_values_are_their_number_on_any_scale(scale):
    """1.7e308: the sum of five such numbers overflows, and is not needed."""
    sigma = sigma_of(*[scale] * 5, 0.0)
    assert float(metrics.effective_rank(sigma)) == pytest.approx(5)
    assert float(metrics.participation_ratio(sigma)) == pytest.approx(5)


def test_effective_rank_and_participation_ratio_by_hand():
    sigma = sigma_of(3.0, 1.0)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert float(metrics.effective_rank(sigma)) == pytest.approx(math.exp(entropy))
    assert float(metrics.participation_ratio(sigma)) == pytest.approx(100 / 82)
    assert float(metrics.nuclear_norm(sigma)) == 4
    assert float(metrics.stable_rank(sigma.norm(), sigma[0])) == pytest.approx(10 / 9)


@pytest.mark.parametrize("length", [0, 1, 4])
def test_every_rank_of_a_zero_matrix_is_zero(length):
    sigma = torch.zeros(2, length, dtype=torch.float64)
    zero = torch.zeros(2, dtype=torch.float64)
    for metric in (*ENERGY_RANKS, metrics.effective_rank, metrics.participation_ratio, metrics.nuclear_norm):
        assert torch.equal(metric(sigma), zero)
    assert torch.equal(metrics.stable_rank(zero, zero), zero)
    assert metrics.numerical_rank(sigma, 0.0).tolist() == [0, 0]


def energy_rank_by_definition(sigma, energy):
    """In exact arithmetic, of integers."""
    squares = sorted((Fraction(int(x)) ** 2 for x in sigma.tolist()), reverse=True)
    return next((k for k in range(len(squares) + 1) if sum(squares[:k]) >= Fraction(str(energy)) * sum(squares)), 0)


@pytest.mark.parametrize("energy", [0.01, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0])
def test_energy_rank_is_the_smallest_number_that_holds_the_energy(energy):
    """Also where the sum is met exactly, as by nine of ten equal singular values at 0.9."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, 50, (100, 8), generator=generator).double().sort(descending=True).values
    equal = torch.ones(10, 10, dtype=torch.float64).tril().flip(0)
    for sigma in (drawn, equal, torch.ones(1, 1000, dtype=torch.float64)):
        expected = [energy_rank_by_definition(row, energy) for row in sigma]
        assert metrics.energy_rank(sigma, energy).tolist() == expected
        assert metrics.energy_rank(sigma.float() * 1e-30, energy).tolist() == expected


def test_energy_rank_leaves_out_what_is_rounding():
    sigma = sigma_of(1.0, 1e-5, 1e-7)
    assert metrics.energy_rank(sigma, 1.0) == 2
    assert metrics.energy_rank(sigma, 1e-14) == 1


def test_nan_stays_nan():
    sigma = torch.full((3,), torch.nan)
    for metric in (*ENERGY_RANKS, metrics.effective_rank, metrics.participation_ratio, metrics.nuclear_norm):
        assert metric(sigma).isnan()
    assert metrics.stable_rank(sigma[0], sigma[0]).isnan()


def test_every_rank_is_at_most_the_number_of_singular_values_and_at_least_one():
    generator = torch.Generator().manual_seed(0)
    sigma = torch.rand(200, 6, generator=generator, dtype=torch.float64).pow(8).sort(descending=True).values
    ranks = [rank(sigma) for rank in ENERGY_RANKS]
    ranks += [metrics.effective_rank(sigma), metrics.participation_ratio(sigma)]
    ranks.append(metrics.stable_rank(sigma.norm(dim=-1), sigma[:, 0]))
    for rank in ranks:
        assert (rank >= 1 - 1e-12).all()
        assert (rank <= 6 + 1e-12).all()
