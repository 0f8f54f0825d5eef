"""Input: every kind of array, taken at its values and answered in kind, or refused by name."""

import numpy as np
import pytest
import torch

from fastrank import linalg
from fastrank.arguments import check_count
from fastrank.linalg.arrays import take_matrices, to_kind

VALUES = np.arange(1.0, 13.0).reshape(3, 4) ** 2
EVERY_FUNCTION = [
    linalg.rank_bounds,
    linalg.matrix_rank,
    linalg.spectral_norm,
    linalg.stable_rank,
    linalg.effective_rank,
    linalg.energy_rank,
    linalg.nuclear_norm,
    linalg.participation_ratio,
    lambda A: linalg.svd_lowrank(A, 1),
]
NAMES = ["rank_bounds", "matrix_rank", "spectral_norm", "stable_rank", "effective_rank", "energy_rank"]
NAMES += ["nuclear_norm", "participation_ratio", "svd_lowrank"]
every_function = pytest.mark.parametrize("function", EVERY_FUNCTION, ids=NAMES)


def read_only():
    array = VALUES.copy()
    array.flags.writeable = False
    return array


def field_of_a_structured_array():
    records = np.zeros((3, 4), dtype=[("flag", "i1"), ("value", "f8")])
    records["value"] = VALUES
    return records["value"]


@pytest.mark.parametrize(
    "array",
    [
        VALUES,
        VALUES.astype(">f8"),
        VALUES.astype(">f4"),
        VALUES.astype(np.float16),
        VALUES[::-1, ::-1][::-1, ::-1],
        np.flip(VALUES[::-1]).copy()[:, ::-1],
        np.asfortranarray(VALUES),
        VALUES.T.copy().T,
        np.repeat(VALUES, 2, axis=1)[:, ::2],
        read_only(),
        field_of_a_structured_array(),
        np.broadcast_to(VALUES, (2, 3, 4))[1],
    ],
    ids=lambda a: f"{a.dtype}{a.strides}",
)
def test_numpy_layouts_are_taken_at_their_values(array):
    before = array.copy()
    taken = take_matrices(array)
    assert taken.kind == "numpy"
    assert np.array_equal(taken.data[0].double().numpy(), VALUES)
    norm = linalg.spectral_norm(array)
    assert isinstance(norm, np.ndarray)
    assert norm == pytest.approx(np.linalg.norm(VALUES, 2))
    assert np.array_equal(array, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensor_layouts_are_taken_at_their_values(dtype):
    plain = torch.tensor(VALUES).to(dtype)
    views = [
        plain,
        plain.T.contiguous().T,
        plain.repeat_interleave(2, 1)[:, ::2],
        plain.expand(2, 3, 4)[1],
        plain.clone().requires_grad_(),
        torch.nn.Parameter(plain.clone()),
    ]
    for view in views:
        answer = linalg.effective_rank(view)
        assert torch.equal(answer, linalg.effective_rank(plain))
        assert not answer.requires_grad
    # Broadcast batches and negated views hold no memory of their own.
    assert torch.equal(linalg.spectral_norm(plain.expand(5, 3, 4)), linalg.spectral_norm(plain).expand(5))
    if dtype in (torch.float32, torch.float64):
        negated = torch.complex(plain, plain).conj().imag
        assert negated.is_neg()
        assert linalg.spectral_norm(negated) == linalg.spectral_norm(-plain)


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (2, 1, 3, 4), (0, 3, 4), (2, 0, 4), (2, 0, 3, 4)])
def test_batch_shapes(shape):
    taken = take_matrices(torch.zeros(shape))
    assert taken.batch_shape == shape[:-2]
    assert taken.data.shape == (taken.batch_shape.numel(), *shape[-2:])
    assert taken.answer(torch.zeros(len(taken.data), 5)).shape == (*shape[:-2], 5)


def test_no_copy_is_made_of_what_torch_can_read():
    tensor, array = torch.zeros(2, 3, 4), VALUES.copy()
    assert take_matrices(tensor).data.data_ptr() == tensor.data_ptr()
    assert take_matrices(array).data.data_ptr() == array.ctypes.data


def test_lists_are_ragged_batches():
    taken = take_matrices([torch.zeros(2, 3), torch.zeros(0, 1)])
    assert taken.batch_shape == (2,)
    assert take_matrices((VALUES, VALUES.T)).kind == "numpy"
    assert take_matrices([]).batch_shape == (0,)


class Unknown:
    """Not an array."""


@every_function
@pytest.mark.parametrize(
    ("A", "message"),
    [
        (torch.ones(3, 3, dtype=torch.int64), "A: dtype int64 is not supported; convert to one of float16"),
        (torch.ones(3, 3, dtype=torch.bool), "A: dtype bool is not supported"),
        (torch.ones(3, 3, dtype=torch.complex64), "A: dtype complex64 is not supported"),
        (torch.ones(3, 3, dtype=torch.float8_e5m2), "A: dtype float8_e5m2 is not supported"),
        (torch.eye(3).to_sparse(), r"A: sparse layout torch.sparse_coo is not supported; pass A.to_dense\(\)"),
        (torch.ones(3, 3, device="meta"), "A: a tensor on the meta device has no values"),
        (np.ones((3, 3), dtype=np.int32), "A: dtype int32 is not supported"),
        (np.ones((3, 3), dtype=bool), "A: dtype bool is not supported"),
        (np.ones((3, 3), dtype=np.complex128), "A: dtype complex128 is not supported"),
        (np.ones((3, 3), dtype=np.longdouble), "A: dtype float128 is not supported; convert to float32 or float64"),
        (np.ones((3, 3), dtype=object), "A: dtype object is not supported"),
        (np.full((3, 3), "a"), "A: dtype <U1 is not supported"),
        ([torch.ones(2, 2), np.ones((2, 2))], "A: one list mixes numpy and torch arrays; use one kind"),
        ([torch.ones(2, 2), torch.ones(2, 2).int()], r"A\[1\]: dtype int32 is not supported"),
        ([torch.ones(2, 2), None], r"A\[1\]: expected a tensor, an array .* not NoneType"),
        ([[1.0, 2.0], [3.0, 4.0]], r"A\[0\]: expected a tensor, an array .* not list"),
        (Unknown(), "A: expected a tensor, an array or a list of 2-D ones, not Unknown"),
        (3.0, "A: expected a tensor, an array .* not float"),
        ("A", "A: expected a tensor, an array .* not str"),
    ],
    ids=lambda p: p[:50] if isinstance(p, str) else "",
)
def test_wrong_types_are_refused_by_name(function, A, message):
    with pytest.raises(TypeError, match=message):
        function(A)


@every_function
@pytest.mark.parametrize(
    ("A", "message"),
    [
        (torch.ones(3), r"A: needs at least two dimensions \(..., m, n\); this has shape \(3,\)"),
        (torch.ones(()), r"A: needs at least two dimensions"),
        (np.float64(3.0), r"A: needs at least two dimensions"),
        (np.ones(3), r"A: needs at least two dimensions"),
        ([torch.ones(2, 2), torch.ones(2)], r"A\[1\]: a list holds 2-D matrices; this has shape \(2,\)"),
        ([torch.ones(1, 2, 2)], r"A\[0\]: a list holds 2-D matrices; this has shape \(1, 2, 2\)"),
    ],
    ids=lambda p: p[:50] if isinstance(p, str) else "",
)
def test_wrong_shapes_are_refused_by_name(function, A, message):
    with pytest.raises(ValueError, match=message):
        function(A)


@pytest.mark.filterwarnings("ignore:.*nested tensors.*:UserWarning")
def test_nested_tensors_are_refused_with_the_remedy():
    nested = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)])
    with pytest.raises(TypeError, match=r"A: a nested tensor is not supported; pass list\(A.unbind\(\)\)"):
        linalg.spectral_norm(nested)
    assert linalg.spectral_norm(list(nested.unbind())).shape == (2,)


def test_answers_in_kind():
    assert isinstance(to_kind(torch.zeros(2), "torch"), torch.Tensor)
    assert isinstance(to_kind(torch.zeros(2), "numpy"), np.ndarray)
    bounds = linalg.rank_bounds(VALUES)
    assert all(isinstance(x, np.ndarray) for x in bounds)
    assert bounds.certified


@pytest.mark.parametrize("value", [5, np.int64(5), np.uint8(5)])
def test_counts_are_integers(value):
    count = check_count(value, "n", 1)
    assert count == 5
    assert type(count) is int
    for wrong in (5.0, "5", None, True, torch.tensor(5)):
        with pytest.raises(TypeError, match="n: expected an integer"):
            check_count(wrong, "n", 1)
    with pytest.raises(ValueError, match="n: must be at least 6, not 5"):
        check_count(value, "n", 6)
