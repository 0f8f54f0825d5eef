"""Packed Grams of parts add up to the Gram of the whole."""

from __future__ import annotations

import itertools

import pytest
import torch

from fastrank.reference import gram, packed_gram, packed_size, unpacked
from fastrank.reference.packed import packed_diagonal


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("order", "inner"), [(1, 1), (1, 9), (5, 7), (127, 200), (128, 128), (129, 4100), (300, 301)])
def test_the_sum_over_parts_is_the_gram(order, inner, dtype):
    torch.manual_seed(0)
    whole = torch.randn(order, inner).to(dtype)
    cuts = sorted({0, inner // 3, inner - 1, inner})
    parts = [whole[:, low:high] for low, high in itertools.pairwise(cuts)]
    packed = torch.stack([packed_gram([part], order) for part in parts]).sum(0)
    assert packed.shape == (packed_size(order),)
    found, expected = unpacked(packed, order, inner), gram(whole[None])
    scale = expected.trace.item()
    assert (found.matrix - expected.matrix).abs().max() <= 4 * inner * 2.0**-53 * scale
    assert torch.equal(found.matrix, found.matrix.mT)
    assert torch.allclose(packed_diagonal(packed, order), whole.double().square().sum(1), rtol=1e-13)
    assert (found.inner, found.scale.item(), found.finite.item()) == (inner, 1.0, True)
    assert torch.allclose(unpacked(packed_gram(parts, order), order, inner).matrix, expected.matrix, atol=1e-12 * scale)


def test_little_more_than_half_is_packed():
    assert packed_size(128) == 128 * 128
    assert packed_size(4096) / (4096 * 4097 / 2) < 1.04


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_shows_in_the_sum(bad):
    whole = torch.randn(150, 160)
    whole[149, 3] = bad
    packed = packed_gram([whole[:, :80]], 150) + packed_gram([whole[:, 80:]], 150)
    found = unpacked(packed, 150, 160)
    assert not found.finite.item()
    assert found.trace.item() == 0
    assert (found.matrix == 0).all()


def test_subnormal_numbers_count_where_a_cpu_flushes_them():
    whole = torch.full((3, 8), 2.0**-140)
    torch.set_flush_denormal(True)
    try:
        packed = packed_gram([whole], 3)
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal(unpacked(packed, 3, 8).matrix[0], torch.full((3, 3), 8 * 2.0**-280, dtype=torch.float64))


def test_a_part_without_columns_adds_nothing():
    assert torch.equal(packed_gram([torch.empty(4, 0)], 4), torch.zeros(packed_size(4), dtype=torch.float64))
    assert torch.equal(packed_gram([], 4), torch.zeros(packed_size(4), dtype=torch.float64))
