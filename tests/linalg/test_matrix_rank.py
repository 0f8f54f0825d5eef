"""matrix_rank: `torch.linalg.matrix_rank`'s answer for each matrix alone, on every input both accept."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrank import linalg, testing

DTYPES = [torch.float32, torch.float64]
SHAPES = [
    (1, 1),
    (1, 7),
    (6, 1),
    (5, 5),
    (3, 11),
    (12, 4),
    (0, 3),
    (3, 0),
    (2, 0, 3),
    (0, 4, 3),
    (2, 4, 4),
    (2, 3, 6, 5),
]


def random_matrices(shape, dtype, seed, deficient):
    generator = torch.Generator().manual_seed(seed)
    *batch, m, n = shape
    if not deficient:
        return torch.randn(shape, generator=generator, dtype=dtype)
    inner = max(1, min(m, n) // 2)
    left = torch.randn(*batch, m, inner, generator=generator, dtype=dtype)
    return left @ torch.randn(*batch, inner, n, generator=generator, dtype=dtype)


def alone(A, **tolerances):
    """torch's rank of each matrix alone: of a batch, it may be another where rounding decides."""
    batch = A.shape[:-2]
    each = {k: t.expand(batch).flatten() if isinstance(t, torch.Tensor) else t for k, t in tolerances.items()}
    ranks = [
        torch.linalg.matrix_rank(m, **{k: t[i] if isinstance(t, torch.Tensor) else t for k, t in each.items()})
        for i, m in enumerate(A.reshape(batch.numel(), *A.shape[-2:]))
    ]
    return torch.tensor(ranks, dtype=torch.int64).view(batch)


def assert_same(A, **tolerances):
    ours, theirs = linalg.matrix_rank(A, **tolerances), alone(A, **tolerances)
    assert torch.equal(ours, theirs), (A.shape, A.dtype, tolerances, ours, theirs)
    assert ours.dtype == torch.int64


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_scalar_tolerances(shape, dtype):
    for seed in range(4):
        for deficient in (False, True):
            A = random_matrices(shape, dtype, seed, deficient)
            assert_same(A)
            for atol in (None, 0.0, 1e-12, 1e-3, 1.5, 100, float("inf")):
                for rtol in (None, 0.0, 1e-7, 0.3, 0.99, 2, float("inf")):
                    assert_same(A, atol=atol, rtol=rtol)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 5), (2, 4, 4), (2, 3, 6, 5), (0, 4, 3)])
def test_tensor_tolerances(shape, dtype):
    generator = torch.Generator().manual_seed(0)
    batch = shape[:-2]
    for seed in range(4):
        A = random_matrices(shape, dtype, seed, seed % 2)
        for threshold in (torch.float32, torch.float64):
            atol = torch.rand(batch, generator=generator, dtype=threshold) * 2
            rtol = torch.rand(batch, generator=generator, dtype=threshold)
            zero = torch.zeros((), dtype=threshold)
            assert_same(A, atol=atol)
            assert_same(A, rtol=rtol)
            assert_same(A, atol=atol, rtol=rtol)
            assert_same(A, atol=zero)
            assert_same(A, atol=zero, rtol=rtol)
    A = random_matrices((2, 3, 6, 5), dtype, 0, True)
    # One threshold a column of the batch, and one that is not given (0) beside one that is.
    assert_same(A, atol=torch.tensor([0.0, 1e-3, 2.0]))
    assert_same(A, rtol=torch.tensor([[0.1], [0.9]]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_family_and_scale_at_torchs_default(dtype):
    """Spectra that reach down to rounding, where torch's own noise decides."""
    for i, shape in enumerate([(1, 5), (9, 9), (30, 17), (40, 90)]):
        for case in testing.cases(*shape, seed=i, dtype=dtype):
            assert_same(case.matrix)
            assert_same(case.matrix, rtol=1e-3)
            assert_same(case.matrix[None], rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("distance", [0.0, 1e-8, 1e-7, 1e-6, 1e-4])
def test_singular_values_at_the_threshold(distance, dtype):
    for seed in range(10):
        sigma = torch.tensor([1.0, 0.1 * (1 + distance), 0.1 * (1 - distance), 0.01], dtype=torch.float64)
        A = testing.planted(sigma, 4, 6, seed=seed, dtype=dtype)
        assert_same(A, rtol=0.1)
        assert_same(A, atol=0.1)
        assert_same(A[None], atol=torch.tensor([0.1]))


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_any_small_matrix_of_simple_numbers(data):
    """Integers and powers of two: ties with the threshold are frequent and exact."""
    m, n = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    numbers = st.sampled_from([0.0, 1.0, -1.0, 2.0, 0.5, 2.0**-24, 2.0**-53, 1e-30, 1e30])
    rows = data.draw(st.lists(st.lists(numbers, min_size=n, max_size=n), min_size=m, max_size=m))
    thresholds = st.sampled_from([None, 0.0, 0.5, 1.0, 2.0, 1e-6, 1e-30])
    A = torch.tensor(rows, dtype=data.draw(st.sampled_from(DTYPES)))
    assert_same(A, atol=data.draw(thresholds), rtol=data.draw(thresholds))


@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_scales(dtype):
    info = torch.finfo(dtype)
    for scale in (info.tiny * info.eps * 8, info.tiny, info.tiny**0.5, info.max**0.5, info.max / 64):
        for seed in range(5):
            for deficient in (False, True):
                A = random_matrices((6, 5), torch.float64, seed, deficient)
                A = (A / A.abs().max() * scale).to(dtype)
                assert_same(A)
                assert_same(A, rtol=1e-3)
                assert_same(A, atol=scale / 10)


def test_ragged_lists_answer_as_singles():
    matrices = [random_matrices(s, d, 0, x) for s in SHAPES[:8] for d in DTYPES for x in (False, True)]
    expected = [torch.linalg.matrix_rank(m).item() for m in matrices]
    assert linalg.matrix_rank(matrices).tolist() == expected
    rtol = torch.linspace(0, 1, len(matrices), dtype=torch.float64)
    expected = [torch.linalg.matrix_rank(m, rtol=t).item() for m, t in zip(matrices, rtol, strict=True)]
    assert linalg.matrix_rank(matrices, rtol=rtol).tolist() == expected
    assert linalg.matrix_rank([]).tolist() == []


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_batch_is_answered_as_its_matrices_are(dtype):
    """Undecided matrices between decided ones, of sizes that put each of them at another place in memory."""
    for seed in range(10):
        A = random_matrices((9, 7, 11), dtype, seed, True)
        A[::3] = torch.eye(7, 11)
        for rtol in (1e-8, 1e-7):
            assert_same(A, rtol=rtol)
            assert linalg.matrix_rank(A, rtol=rtol).tolist() == linalg.matrix_rank(list(A), rtol=rtol).tolist()


@pytest.mark.parametrize("threshold", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["atol", "rtol"])
def test_a_tensor_is_compared_in_its_own_dtype(name, threshold):
    """FP32's product 3 * 0.1 is above the exact one: between them torch decides by the type of the tolerance."""
    tau = torch.tensor(0.1, dtype=threshold)
    product = tau.float() * 3
    for value in (product, product.nextafter(torch.zeros(())), product.nextafter(torch.ones(()))):
        A = torch.diag(torch.stack([torch.tensor(3.0), value]))
        t = tau if name == "rtol" else (tau.double() * 3).to(threshold)
        assert_same(A, **{name: t})
        assert_same(A, **{name: t.item()})
        assert_same(torch.stack([A, A]), **{name: t})
        assert_same(torch.stack([A, A]), **{name: t.expand(2)})
        assert linalg.matrix_rank([A, A.T], **{name: t}).tolist() == [alone(A, **{name: t})] * 2


@pytest.mark.parametrize("atol", [1e-40, 1e-46, 1e-60, 5e-324])
def test_thresholds_that_no_narrower_dtype_holds_are_not_zero(atol):
    """If they were, the default rtol, 2^-7 for the first matrix, would count one singular value less."""
    for dtype in (torch.float16, torch.bfloat16, *DTYPES):
        A = torch.zeros(2, 3000, dtype=dtype)
        A[0, 0], A[1, 1] = 1, 1e-3
        exact = torch.tensor(atol, dtype=torch.float64)
        for batch, threshold in ((A, atol), (A, np.float64(atol)), (A, exact), (A[None], exact[None])):
            assert (linalg.matrix_rank(batch, atol=threshold) == 2).all()
            assert (alone(batch.double(), atol=threshold) == 2).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_counts_its_own_values_with_its_own_eps(dtype):
    """torch refuses half precision; the rank is that of the widened values, the default rtol that of the dtype."""
    for seed in range(5):
        A = random_matrices((6, 9), torch.float32, seed, True).to(dtype)
        rtol = 9 * torch.finfo(dtype).eps
        for atol in (None, 0.0, 0.5):
            default = 0.0 if atol else rtol
            expected = torch.linalg.matrix_rank(A.double(), atol=atol, rtol=default)
            assert linalg.matrix_rank(A, atol=atol) == expected
            assert torch.equal(linalg.matrix_rank(A[None], atol=atol), expected[None])


def test_numpy_in_numpy_out():
    A = random_matrices((2, 6, 5), torch.float64, 0, True).numpy()
    read_only = np.array([0.1, 0.2])
    read_only.flags.writeable = False
    for rtol in (None, 0.1, np.float32(0.1), np.array([0.1, 0.2]), read_only, np.array([0.2, 0.1])[::-1]):
        ranks = linalg.matrix_rank(A, rtol=rtol)
        assert isinstance(ranks, np.ndarray)
        expected = torch.as_tensor(0.1 if rtol is None else np.array(rtol), dtype=torch.float64)
        theirs = torch.linalg.matrix_rank(torch.from_numpy(A), **({} if rtol is None else {"rtol": expected}))
        assert (ranks == theirs.numpy()).all()


def test_a_matrix_that_is_not_finite_is_named():
    A = torch.ones(3, 2, 2)
    A[1, 0, 0] = torch.nan
    A[2, 0, 0] = torch.inf
    with pytest.raises(ValueError, match="A: matrix 1 of the batch holds NaN or Inf"):
        linalg.matrix_rank(A)
    with pytest.raises(ValueError, match="A: matrix 2 of the batch"):
        linalg.matrix_rank([A[0], A[0], A[1]])


@pytest.mark.parametrize("name", ["atol", "rtol"])
@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (-1e-9, ValueError, "must be at least 0"),
        (float("nan"), ValueError, "must be at least 0"),
        (torch.tensor([0.1, -0.1]), ValueError, "must be at least 0 everywhere"),
        (torch.tensor([0.1, torch.nan]), ValueError, "must be at least 0 everywhere"),
        (torch.zeros(3), ValueError, r"shape \(3,\) does not broadcast to the batch \(2,\)"),
        (torch.zeros(2, 2), ValueError, r"shape \(2, 2\) does not broadcast"),
        (torch.zeros(2, dtype=torch.complex64), TypeError, "expected real values"),
        ("0.1", TypeError, "expected a number or a tensor"),
        ([0.1, 0.1], TypeError, "expected a number or a tensor"),
        (1j, TypeError, "expected a number or a tensor"),
        (np.array(["a"]), TypeError, "dtype <U1 is not supported"),
    ],
)
def test_bad_thresholds_are_named(name, value, error, message):
    with pytest.raises(error, match=f"^{name}: .*{message}"):
        linalg.matrix_rank(torch.ones(2, 3, 3), **{name: value})
