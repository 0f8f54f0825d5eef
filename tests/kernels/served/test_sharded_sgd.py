"""`fastrank.SGD` of DTensors where the kernel serves it: it takes their local tensors."""

from __future__ import annotations

import pytest
import torch
from sgd_steps import MOMENTUM, parameters
from torch.nn import Parameter
from world_of_one import world_of_one

import fastrank
from fastrank.measuring.bases import Bases
from fastrank.optim.descent import Descent
from fastrank.weights import Source

pytest.importorskip("triton")
pytestmark = pytest.mark.usefixtures("served")


@pytest.fixture
def mesh(device):
    with world_of_one(device) as made:
        yield made


@pytest.fixture
def launched(monkeypatch):
    """The descents that have stepped."""
    found = []
    stock = Descent.launch

    def noted(self, **given):
        found.append(self)
        stock(self, **given)

    monkeypatch.setattr(Descent, "launch", noted)
    return found


def distributed(value, mesh, index):
    """Every third tensor stays a plain one."""
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    placement = Shard(0) if index % 3 == 0 and value.ndim else Replicate()
    return value if index % 3 == 2 else distribute_tensor(value.detach(), mesh, [placement], src_data_rank=None)


def plain(tensors):
    return [x.full_tensor() if hasattr(x, "full_tensor") else x for x in tensors]


def both_step(optimizers, mesh, device, number, missing=()):
    """A step of each optimizer, and whether they are then alike."""
    results = []
    for optimizer, cut in zip(optimizers, (True, False), strict=True):
        params = optimizer.param_groups[0]["params"]
        fresh = parameters(device, [p.shape for p in params], seed=1 + number)
        for i, (param, grad) in enumerate(zip(params, fresh, strict=True)):
            grad = distributed(grad.detach(), mesh, i) if cut else grad.detach()
            param.grad = None if i in missing else grad
        optimizer.step()
        buffers = [own["momentum_buffer"] for own in optimizer.state.values() if "momentum_buffer" in own]
        results.append(plain([*(p.detach() for p in params), *buffers]))
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("options", [MOMENTUM, {"lr": 0.1}], ids=["momentum", "plain"])
def test_late_and_missing_gradients(options, device, mesh, launched, monkeypatch):
    monkeypatch.setattr(fastrank.SGD, "_step_group", None)
    sharded = [Parameter(distributed(p, mesh, i)) for i, p in enumerate(parameters(device))]
    optimizers = [fastrank.SGD(sharded, **options), torch.optim.SGD(parameters(device), **options)]
    for number, missing in enumerate([{1, 3}, {3}, {0, 1, 2, 3}, set(), set(), set()]):
        versions = [p._version for p in sharded]
        both_step(optimizers, mesh, device, number, missing)
        assert [p._version > old for p, old in zip(sharded, versions, strict=True)] == [
            i not in missing for i in range(4)
        ]
    assert len(launched) == 6
    for param, own in optimizers[0].state.items():
        if own:
            assert type(own["momentum_buffer"]) is (torch.Tensor if type(param) is Parameter else type(param))


def test_a_partial_gradient_is_no_local_tensor(device, mesh, launched):
    """PyTorch's forms take the step, also after one that the kernel has taken."""
    from torch.distributed.tensor import DTensor, Partial

    (value,) = parameters(device, [(5, 3)])
    (param,) = sharded = [Parameter(distributed(value, mesh, 1))]
    optimizer = fastrank.SGD(sharded, **MOMENTUM)
    for number in range(5):
        grad = torch.ones(5, 3, device=device)
        param.grad = DTensor.from_local(grad, mesh, [Partial()]) if number == 3 else distributed(grad, mesh, 1)
        optimizer.step()
        assert len(launched) == min(number + 1, 3) + (number == 4)


def test_the_step_of_a_sharded_parameter_is_fused_with_no_sketch(device, mesh, launched, small_bases):
    """It is taken all the same."""
    sharded = [Parameter(distributed(p, mesh, 0)) for p in parameters(device, [(20, 24)])]
    optimizers = [fastrank.SGD(sharded, **MOMENTUM), torch.optim.SGD(parameters(device, [(20, 24)]), **MOMENTUM)]
    bases = Bases(torch.tensor([[0.0, 1e-6]], dtype=torch.float64), device)
    source = Source(sharded[0].to_local().detach(), sharded[0])
    assert source.offset is None
    optimizers[0].companion = bases
    for number in range(2):
        assert bases.prepare([source])
        both_step(optimizers, mesh, device, number)
    assert len(launched) == 2
    assert bases.fuse(launched[0], None, None) == set()
