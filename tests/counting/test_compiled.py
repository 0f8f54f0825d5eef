"""Compiled batch: its answers depend on the matrices alone, as they are now, and it disturbs nobody."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_map

from fastrank import Status, Tolerance, backend, linalg, testing
from fastrank.counting import CompiledBatch, compiled

pytestmark = pytest.mark.skipif(bool(backend.why_numba_fails()), reason=backend.why_numba_fails())

TOLERANCES = [Tolerance(), Tolerance(1e-2, "spectral"), Tolerance(0.3, "absolute")]


def matrices(seed=0):
    """Of many shapes and dtypes, with zeros and what is not finite among them."""
    made = [
        testing.make(family, *shape, seed=seed + i, dtype=dtype).matrix
        for i, shape in enumerate([(1, 1), (9, 8), (40, 17), (65, 80)])
        for dtype in (torch.float32, torch.float64, torch.bfloat16)
        for family in ("geometric", "low_rank")
    ]
    bad = torch.ones(30, 20)
    bad[3, 4] = torch.nan
    return [*made, torch.zeros(5, 6), bad, torch.full((4, 4), torch.inf), torch.ones(0, 3), made[4].T, made[9][::2]]


def answers(batch):
    """All that a batch has found, as bits."""
    found = (batch.found, batch.values, batch.bounds, batch.status, batch.scale, batch.vectors)
    return [array.view(f"u{array.itemsize}").copy() for array in found]


def measured(taken, **options):
    batch = CompiledBatch(taken, TOLERANCES, **options)
    batch.measure(tops=True)
    return batch


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture
def threads(monkeypatch):
    monkeypatch.setattr(compiled, "FLOPS_A_THREAD", 1e-3)
    yield torch.set_num_threads
    torch.set_num_threads(1)


def test_bits_do_not_depend_on_threads_or_chunks(threads, monkeypatch):
    taken = matrices()
    expected = answers(measured(taken))
    for count in (2, 3, 7):
        threads(count)
        assert_same(answers(measured(taken)), expected)
    for size in (1, 50_000, 10**9):
        monkeypatch.setattr(compiled, "GRAMS_AT_ONCE", size)
        for count in (1, 2):
            threads(count)
            assert_same(answers(measured(taken)), expected)


def test_bits_do_not_depend_on_what_else_is_in_the_batch():
    taken = matrices()
    together = measured(taken)
    for i, matrix in enumerate(taken):
        alone = measured([matrix])
        assert_same(answers(alone)[:5], [array[i : i + 1] for array in answers(together)[:5]])
        stacked = measured(torch.stack([matrix, matrix]))
        assert_same(answers(alone)[:5], [array[1:] for array in answers(stacked)[:5]])


def test_a_batch_measures_its_matrices_as_they_are_now(threads):
    """One batch, over steps that change scales, zeros, subnormals and what is finite; a fresh batch is the truth."""
    taken = matrices()
    batch = measured(taken)
    for step in range(4):
        for i, matrix in enumerate(taken):
            if matrix.numel() and matrix.is_contiguous():
                kind = (i + step) % 4
                matrix.copy_(torch.randn(matrix.shape, generator=torch.Generator().manual_seed(step)))
                matrix.mul_([1e-41, 1.0, 0.0, 1e30][kind] if matrix.dtype != torch.float64 else 10.0 ** (99 * kind))
        threads(1 + step % 2)
        batch.vectors[:] = 0.0  # where a fresh one starts
        batch.measure(tops=True)
        assert_same(answers(batch), answers(measured(taken)))


def test_a_rank_that_falls_is_counted_anew(threads):
    """While one thread counts from below, the other looks whether that count is r: not at the last one."""
    threads(2)
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(300, 310, generator=generator)
    batch = measured([matrix])
    full = matrix.clone()
    for _ in range(5):
        matrix.copy_(full)
        batch.measure(tops=True)
        assert batch.bounds[0, 0].tolist() == [300, 300]
        matrix[0] = matrix[1]
        batch.measure(tops=True)
        assert batch.bounds[0, 0].tolist() == [299, 299]
        assert batch.status[0, 0] == Status.OK


def test_copies_live_as_long_as_they_are_read():
    """What is widened or scaled is read from a copy: memory that is let go meanwhile is overwritten with NaN."""
    stack = torch.randn(40, 30, 30, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.bfloat16, torch.float64):
        batch = CompiledBatch(list(stack.to(dtype)))
        stock = batch._run

        def run(*arguments, stock=stock):
            gc.collect()
            _ = [torch.full((30, 30), torch.nan, dtype=torch.float32) for _ in range(100)]
            _ = [torch.full((30, 30), torch.nan, dtype=torch.float64) for _ in range(100)]
            return stock(*arguments)

        batch._run = run
        batch.measure()
        expected = stack.to(dtype).double().square().sum((1, 2))
        trace = torch.from_numpy(batch.found[:, 0] * batch.scale**2)
        torch.testing.assert_close(trace, expected, rtol=1e-14, atol=0)


def test_other_matrices_of_the_same_kinds():
    one, other = matrices(0), matrices(50)
    batch = measured(one)
    batch.moved(other)
    batch.vectors[:] = 0.0
    batch.measure(tops=True)
    assert_same(answers(batch), answers(measured(other)))


def test_threads_of_the_user_at_the_same_time(threads):
    threads(2)
    sets = [matrices(seed) for seed in range(3)]
    expected = [answers(measured(taken)) for taken in sets]
    with ThreadPoolExecutor(3) as pool:
        for _ in range(2):
            for found, wanted in zip(pool.map(lambda taken: answers(measured(taken)), sets), expected, strict=True):
                assert_same(found, wanted)


def test_modes_of_pytorch():
    matrix = torch.randn(20, 30, generator=torch.Generator().manual_seed(0))
    taken = [matrix, matrix.double(), matrix.bfloat16()]
    functions = (linalg.rank_bounds, linalg.matrix_rank, linalg.spectral_norm, linalg.stable_rank)
    expected = [function(taken) for function in functions]
    learnt = [m.clone().requires_grad_() for m in taken]
    with torch.inference_mode():
        inside = [function(taken) for function in functions]
    graph = [function([m * 1.0 for m in learnt]) for function in functions]
    for found in (inside, graph, [function(learnt) for function in functions]):
        assert all(not x.requires_grad for x in (*found[0], *found[1:]))
        torch.testing.assert_close([torch.stack(list(map(torch.Tensor.long, found[0]))), *found[1:]],
                                   [torch.stack(list(map(torch.Tensor.long, expected[0]))), *expected[1:]],
                                   rtol=0, atol=0)  # fmt: skip
    learnt[0].square().sum().backward()
    assert torch.equal(learnt[0].grad, 2 * matrix)


class Elsewhere(torch.Tensor):
    """A tensor whose numbers are in another one, as those of a DTensor are."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner):
        self.inner = inner

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function, types, arguments=(), options=None):
        def inner(x):
            return x.inner if isinstance(x, cls) else x

        found = function(*tree_map(inner, arguments), **tree_map(inner, options or {}))
        return tree_map(lambda x: cls(x) if type(x) is torch.Tensor else x, found)


def test_a_tensor_without_an_address_is_not_read_from_memory():
    matrix = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    wrapped = Elsewhere(matrix)
    assert wrapped.data_ptr() == 0  # negative control: reading there would end the process
    found = linalg.spectral_norm(wrapped).inner
    torch.testing.assert_close(found, linalg.spectral_norm(matrix), rtol=1e-8, atol=0)


def test_thresholds_that_are_given(counting):
    """As `torch.linalg.matrix_rank` has them, of a planted spectrum: 10 a value, from 1 to 1e-4."""
    sigma = torch.logspace(0, -4, 5, dtype=torch.float64).repeat_interleave(10)
    for dtype in (torch.float32, torch.float64):
        matrix = testing.planted(sigma, 50, 60, seed=0, dtype=dtype)
        for threshold, rank in ((0.3, 10), (0.03, 20), (3e-3, 30), (3e-4, 40), (3.0, 0)):
            assert linalg.matrix_rank([matrix, matrix * 4], atol=threshold).tolist()[0] == rank
            assert linalg.matrix_rank([matrix, matrix * 4], rtol=threshold).tolist() == [rank, rank]


@pytest.mark.parametrize(("distance", "closed"), [(1e-8, True), (1e-10, False)])
def test_brackets_are_narrow(distance, closed):
    """Singular values on either side of tau = 1e-3 ||W||_F, as near as 1e-8 of it: counted, without an SVD."""
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(n, 96, generator=generator, dtype=torch.float64)).Q for n in (96, 128))
    sigma = torch.logspace(0, -1.5, 96, dtype=torch.float64)
    tau = 1e-3 * torch.linalg.vector_norm(sigma[:60]).item()
    sigma[60:] = 1e-2 * tau
    sigma[60:66] = tau * (1 + distance * torch.tensor([1.0, 1.5, 2.0, -1.0, -1.5, -2.0], dtype=torch.float64))
    batch = CompiledBatch([u * sigma @ v.T], [Tolerance(tau, "absolute")])
    batch.measure()
    bounds = batch.rank_bounds()
    assert bounds.lower.item() <= 63 <= bounds.upper.item()
    assert (bounds.lower.item() == bounds.upper.item()) == closed
