"""What tests find in memory that nobody has written."""

import types

import pytest
import torch
import torch._dynamo  # before a test: it knows functions of PyTorch by their identity
from torch._subclasses.fake_tensor import FakeTensorMode


@pytest.fixture(scope="module", autouse=True)
def _not_around_a_test():
    """Set up before any fixture of a test, torn down after all of them."""
    assert not any(isinstance(make, types.FunctionType) for make in factories())
    yield
    assert not any(isinstance(make, types.FunctionType) for make in factories())


def factories():
    of_tensors = (torch.Tensor.new_empty, torch.Tensor.new_empty_strided)
    return [torch.empty, torch.empty_like, torch.empty_strided, *of_tensors]


def test_all_are_others_in_a_test():
    assert all(isinstance(make, types.FunctionType) for make in factories())


@pytest.fixture(params=["empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"])
def make(request):
    """`make(dtype)`: 2 x 3 elements without values."""

    def made(dtype):
        like = torch.zeros(2, 3, dtype=dtype)
        calls = {
            "empty": lambda: torch.empty(2, 3, dtype=dtype),
            "empty_like": lambda: torch.empty_like(like),
            "empty_strided": lambda: torch.empty_strided((2, 3), (4, 1), dtype=dtype),
            "new_empty": lambda: like.new_empty(2, 3),
            "new_empty_strided": lambda: like.new_empty_strided((2, 3), (4, 1)),
        }
        return calls[request.param]()

    return made


FLOATING = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128]
INTEGERS = [torch.int8, torch.int16, torch.int32, torch.int64]


@pytest.mark.parametrize("dtype", [*FLOATING, *INTEGERS], ids=str)
def test_what_is_read_before_it_is_written_shows(make, dtype):
    tensor = make(dtype)
    assert (tensor.shape, tensor.dtype) == ((2, 3), dtype)
    if dtype in INTEGERS:
        assert (tensor == torch.iinfo(dtype).max).all()
    else:
        assert tensor.isnan().all()


def test_a_sum_over_a_forgotten_element_is_nan():
    out = torch.empty(3)
    out[:2] = 1.0
    assert out.sum().isnan()
    out[2] = 1.0
    assert out.sum() == 3


def test_options_are_those_of_torch(make):
    assert make(torch.bool).dtype == torch.bool
    leaf = torch.empty(2, requires_grad=True)
    assert leaf.requires_grad
    assert leaf.is_leaf
    assert torch.empty(0).numel() == 0
    assert torch.empty(2, 3, device="meta").is_meta
    with FakeTensorMode():
        assert torch.empty(2, 3).shape == (2, 3)


@pytest.mark.parametrize("again", [False, True])
def test_what_is_compiled_is_not_touched(make, again):
    """Nor does Dynamo remember what it has seen in another test."""
    torch._dynamo.reset()
    assert torch.compile(lambda: make(torch.float32).zero_(), backend="eager", fullgraph=True)().sum() == 0
    assert not any(isinstance(function, types.FunctionType) for function in factories())
    torch._dynamo.reset()
