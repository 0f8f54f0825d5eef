"""Gram: exact where sums are, near `fastrank.reference.gram` elsewhere, from any strides, in any number of tasks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from panels import gram_of

from fastrank.counting import CompiledBatch
from fastrank.counting.growth import blocked_terms
from fastrank.reference import UNIT, gram

# one row, around a tile, two, many; tall and wide; around a chunk of 256 columns and of 128, which r > 512 has
SHAPES = [
    (1, 1),
    (1, 600),
    (7, 7),
    (8, 255),
    (9, 256),
    (257, 9),
    (63, 257),
    (64, 64),
    (65, 513),
    (100, 100),
    (511, 512),
]
SHAPES += [(513, 513), (900, 514)]


def integers(m, n, dtype=torch.float32):
    """Small enough for all sums to be exact."""
    generator = torch.Generator().manual_seed(m + 1000 * n)
    return torch.randint(-9, 10, (m, n), generator=generator).to(dtype)


def exact(matrix):
    wide = matrix.double() if matrix.shape[0] <= matrix.shape[1] else matrix.double().T
    return (wide @ wide.T).tril()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_of_integers_are_exact(shape):
    matrix = integers(*shape)
    g, trace = gram_of(matrix)
    assert torch.equal(g, exact(matrix))
    assert trace == matrix.double().square().sum()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_strides_and_dtypes(dtype):
    base = integers(40, 66, dtype)
    base[0, 0] = 16.0 if dtype == torch.float64 else 1.0  # of FP64, the scale is a power of two above the largest
    views = [base[:, ::3], base[::4], base.T, base[1::2, 5:].T, base[:9, :9].flip(0), base[2].expand(12, -1)]
    views += [base[:, 7, None].expand(-1, 50), base.view(-1)[3:].as_strided((10, 20), (1, 7))]
    for view in views:
        batch = CompiledBatch([view])
        g, trace = gram_of(view)
        batch.measure()
        assert torch.equal(g * float(batch.scale[0]) ** 2, exact(view)), (view.shape, view.stride())
        assert batch.found[0, 0] == trace


def test_rounding_is_within_its_bound():
    generator = torch.Generator().manual_seed(0)
    for m, n, dtype in [(33, 700, torch.float32), (100, 90, torch.float64), (520, 600, torch.float32)]:
        matrix = torch.randn(m, n, generator=generator, dtype=dtype) * torch.logspace(0, -3, n, dtype=dtype)
        g, _ = gram_of(matrix)
        wide = matrix.T if m > n else matrix
        long = wide.double().numpy().astype(np.longdouble)
        scale = float(gram(wide[None]).scale)
        error = np.abs(np.tril(long @ long.T) - g.numpy().astype(np.longdouble) * scale**2)
        limit = (float(blocked_terms(max(m, n))) + 2) * UNIT * np.abs(long) @ np.abs(long).T
        assert (error <= limit).all()
        assert error.max() > 0  # what the bound is for


@pytest.mark.parametrize("shape", [(9, 5), (100, 300), (515, 530)], ids=str)
def test_bits_do_not_depend_on_threads_or_place(shape, threads):
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn(*shape, generator=generator)
    alone, trace = gram_of(matrix)
    for count in (1, 2, 3, 7):
        threads(count)
        batch = CompiledBatch([torch.ones(17, 3), matrix.T, matrix])
        batch.measure()
        assert batch.found[1, 0] == batch.found[2, 0] == trace
        assert torch.equal(gram_of(matrix)[0], alone)


@pytest.mark.parametrize("scale", [2.0**-140, 2.0**120])
def test_squares_stay_in_range(scale):
    """Subnormal FP32 numbers included: 2^-140 times integers."""
    matrix = integers(20, 30) * scale
    g, trace = gram_of(matrix)
    assert torch.equal(g / scale / scale, exact(integers(20, 30)))
    assert trace / scale / scale == integers(20, 30).square().sum()


def test_subnormal_numbers_are_read_where_the_cpu_takes_them_for_zero():
    matrix = integers(20, 30) * 2.0**-140
    half = integers(20, 30, torch.bfloat16) * 2.0**-126 * 2.0**-7
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU has no such mode")
    try:
        assert not (matrix * 1.0).any()  # negative control: arithmetic sees zeros
        g, _ = gram_of(matrix)
        narrow, _ = gram_of(half)
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal(g * 2.0**280, exact(integers(20, 30)))
    assert torch.equal(narrow * 2.0**266, exact(integers(20, 30)))


def test_a_matrix_without_elements_has_no_norm():
    batch = CompiledBatch([torch.ones(0, 5), torch.ones(5, 0), torch.ones(2, 2)])
    batch.measure(tops=True)
    assert batch.found[:, 0].tolist() == [0, 0, 4]
