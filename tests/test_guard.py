"""Guards of tensors, PyTorch's and Python's: they see all but values and addresses."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import Tensor

from fastrank import guard


class Subclass(Tensor):
    pass


@pytest.fixture(params=["torch", "python"], autouse=True)
def _both(request, monkeypatch):
    known = torch.__version__.startswith(guard.VERSIONS)
    assert known, "this version of PyTorch is not among those whose guards are used: see whether it can be"
    if request.param == "python":
        monkeypatch.setattr(guard, "VERSIONS", ("none",))


def tensor():
    return torch.rand(2, 3)


OTHERS = {
    "shape": lambda: torch.rand(3, 2),
    "dimensions": lambda: torch.rand(6),
    "strides": lambda: torch.rand(3, 2).T,
    "dtype": lambda: tensor().half(),
    "device": lambda: tensor().to("meta"),
    "sparse": lambda: tensor().to_sparse(),
    "compressed": lambda: tensor().to_sparse_csr(),
    "negated": lambda: torch._neg_view(tensor()),
    "parameter": lambda: torch.nn.Parameter(tensor(), requires_grad=False),
    "subclass": lambda: tensor().as_subclass(Subclass),
    "none": lambda: None,
    "number": lambda: 1.0,
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_what_is_different_is_seen(other):
    alike = guard.guard([tensor(), torch.ones(4)])
    assert alike([tensor(), torch.zeros(4)])
    assert not alike([other(), torch.zeros(4)])


def test_more_or_fewer_are_not_alike():
    one, none = guard.guard([tensor()]), guard.guard([])
    assert not one([])
    assert not one([tensor(), tensor()])
    assert none([])
    assert not none([tensor()])


def test_no_tensor_is_kept_alive():
    kept = tensor()
    alike, gone = guard.guard([kept]), weakref.ref(kept)
    del kept
    assert gone() is None
    assert alike([tensor()])
