"""Noise: the published generator, normal numbers, and other ones for every counter."""

import pytest
import torch

from fastrank.reference.noise import _philox, normal


@pytest.mark.parametrize(
    ("key", "counter", "words"),
    [(0, 0, (0x6627E8D5, 0xE169C58D)), (2**64 - 1, 2**32 - 1, (0x408F276D, 0x41C83B0E))],
)
def test_philox_is_the_published_one(key, counter, words):
    """Known answers of Random123, the first two words of four."""
    assert tuple(int(word) for word in _philox(key, *[torch.tensor([counter])] * 4)) == words


def test_noise_is_standard_normal():
    """Each moment of 50,000 numbers within four of its standard errors."""
    x = normal(5, 1000, 50, 3, 7).double().flatten()
    for power, moment, spread in ((1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)):
        assert abs(x.pow(power).mean() - moment) < 4 * (spread / len(x)) ** 0.5, power
    assert (x.abs() > 3).sum().item() == pytest.approx(0.0027 * len(x), rel=0.4)


def test_each_field_of_the_counter_makes_numbers_of_its_own():
    """No field, and neither half of the seed, is forgotten; more rows or columns do not change the first ones."""
    rows = {(seed, matrix, step): normal(seed, 40, 25, matrix, step) for seed in (0, 1, 2**32) for matrix in (0, 1)
            for step in (0, 1)}  # fmt: skip
    numbers = torch.stack([x.flatten() for x in rows.values()])
    assert (numbers.double().corrcoef() - torch.eye(len(rows)).double()).abs().max() < 4.5 / 1000**0.5
    x = rows[1, 1, 1].double()
    assert (x.corrcoef() - torch.eye(40).double()).abs().max() < 4.5 / 25**0.5
    assert torch.equal(normal(1, 7, 3, 1, 1), normal(1, 40, 25, 1, 1)[:7, :3])
    assert torch.equal(normal(1, 7, 3, 1, -1), normal(1, 7, 3, 1, 2**32 - 1))
