"""svdvals: every singular value, as near as its docstring says."""

import numpy as np
import pytest
import torch

from fastrank import linalg, testing


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (31, 12), (24, 50)])
def test_values_are_as_near_as_stated(dtype, shape):
    scales = (1.0,) if dtype == torch.float16 else (1.0, 1e-30, 1e30)
    for case in testing.cases(*shape, dtype=dtype, scales=scales):
        exact = testing.true_singular_values(case.matrix)
        computed = linalg.svdvals(case.matrix)
        assert computed.dtype == torch.float64
        top = exact.amax().clamp(min=torch.finfo(torch.float64).tiny)
        own = 2.0**-52 * max(shape)  # of the truth, and of a decomposition that is not squared
        # The docstring's delta, with sigma_1 = 1.
        delta = 1.1e-16 * (max(shape) + 8 * min(shape) + 80) * torch.linalg.vector_norm(exact / top) ** 2
        near = torch.minimum(delta.sqrt(), delta / (exact / top).clamp(min=1e-300))
        limit = torch.zeros(()) if dtype == torch.float64 else near
        assert ((computed - exact).abs() / top <= limit + own).all(), case.family
        assert ((linalg.svdvals(case.matrix, accurate=True) - exact).abs() / top <= own).all(), case.family


def test_the_accurate_path_sees_what_the_gram_cannot():
    """A singular value of about 1e-9 of the first: squared it is below FP64's noise."""
    matrix = testing.planted(torch.cat([torch.linspace(1, 0.5, 19), torch.zeros(1)]), 20, 20, seed=0)
    small = testing.true_singular_values(matrix)[-1]
    assert not torch.isclose(linalg.svdvals(matrix)[-1], small, rtol=0.5, atol=0)
    assert torch.isclose(linalg.svdvals(matrix, accurate=True)[-1], small, rtol=1e-4, atol=0)
    for metric in (linalg.effective_rank, linalg.energy_rank, linalg.nuclear_norm, linalg.participation_ratio):
        assert torch.isclose(metric(matrix), metric(matrix, accurate=True), rtol=1e-5)
        assert torch.equal(metric([matrix], accurate=True), metric(matrix.double(), accurate=True)[None])


def test_one_answer_for_every_form():
    A = torch.stack([testing.make("arithmetic", 9, 5, seed=s).matrix for s in range(6)])
    single = torch.stack([linalg.svdvals(m) for m in A])
    assert single.shape == (6, 5)
    for form in (A, A.view(2, 3, 9, 5), A.mT, A.numpy()):
        answer = linalg.svdvals(form)
        assert answer.shape == (*form.shape[:-2], 5)
        np.testing.assert_allclose(np.asarray(answer).reshape(6, 5), single.numpy(), rtol=1e-12)
    ragged = linalg.svdvals([A[0], A[1][:4], A[2].T])
    assert [s.shape for s in ragged] == [(5,), (4,), (5,)]
    torch.testing.assert_close(ragged[2], single[2], rtol=1e-12, atol=0)
    assert isinstance(linalg.svdvals([A[0].numpy()])[0], np.ndarray)


def test_empty_and_not_finite():
    assert linalg.svdvals(torch.zeros(2, 0, 3)).shape == (2, 0)
    assert linalg.svdvals(torch.zeros(0, 4, 3)).shape == (0, 3)
    assert linalg.svdvals([]) == []
    A = torch.eye(3).repeat(2, 1, 1)
    A[0, 1, 1] = torch.inf
    answer = linalg.svdvals(A)
    assert answer[0].isnan().all()
    assert answer[1].tolist() == [1, 1, 1]
