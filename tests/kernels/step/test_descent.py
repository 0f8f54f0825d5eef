"""Tables of the SGD kernel: what is written into them and when, and who does not get into them."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from sgd_steps import MOMENTUM, parameters, step
from torch.nn import Parameter

import fastrank
from fastrank.optim import descent as module

pytest.importorskip("triton")
from fastrank.kernels import pointers

pytestmark = pytest.mark.usefixtures("served")


def only(optimizer):
    """The optimizer's one descent."""
    (found,) = optimizer._descents._of.values()
    return found


@pytest.fixture
def pokes(monkeypatch):
    """Values of every launch that writes into a table."""
    seen = []
    stock = pointers._write

    def watched(table, start, stride, group):
        seen.append(group)
        stock(table, start, stride, group)

    monkeypatch.setattr(pointers, "_write", watched)
    return seen


def test_values_of_any_size_arrive_and_only_groups_that_changed_are_written(device, pokes):
    table = pointers.empty_table(135, device)
    values = [(-1) ** i * 3**i for i in range(39)] + [1, 0, 16, 2**63 - 1, -(2**63)] + list(range(91))
    pointers.poke_(table, values)
    assert table.tolist() == values + [0] * (3 * 64 - 135)
    assert len(pokes) == 3
    changed = [*values[:70], 5, *values[71:]]
    pointers.poke_(table, changed, values)
    assert len(pokes) == 4
    assert table[:135].tolist() == changed


@pytest.mark.parametrize("rows", [1, 64, 65])
def test_of_a_table_with_columns_only_those_that_changed_are_written(rows, device, pokes):
    table = pointers.empty_table(3 * rows, device, 3)
    before = list(range(1, 3 * rows + 1))
    pointers.poke_(table, before, None, 3)
    whole = len(pokes)
    assert whole == -(-3 * rows // pointers.GROUP)
    values = list(before)
    values[1::3] = [-i for i in values[1::3]]
    pointers.poke_(table, values, before, 3)
    assert len(pokes) - whole == -(-rows // pointers.GROUP)
    assert table[: 3 * rows].tolist() == values
    assert not table[3 * rows :].any()


def test_a_step_writes_what_has_changed(device, pokes):
    """Nothing where gradients stay, and one group where one moves or a number changes."""
    params = parameters(device)
    optimizer = fastrank.SGD(params, **MOMENTUM)
    step(optimizer, params, 0)
    assert len(pokes) == 3
    for written in (4, 4, 4):  # buffers are not fresh any more; then nothing
        optimizer.step()
        assert len(pokes) == written
    params[1].grad = params[1].grad.clone()
    optimizer.step()
    assert len(pokes) == 5
    optimizer.param_groups[0]["lr"] = 0.2
    optimizer.step()
    assert len(pokes) == 6


def test_tables_are_what_they_are_said_to_be(device):
    params = parameters(device)
    stacks = parameters(device, [(3, 4), (3, 2, 2)])
    rates = torch.tensor([0.1, 0.2, 0.3], device=device)
    groups = [{"params": params}, {"params": stacks, "lr": rates, "weight_decay": 0.5}]
    optimizer = fastrank.SGD(groups, **MOMENTUM)
    step(optimizer, params + stacks, 0, missing={2})
    found = only(optimizer)
    with_gradient = [p for i, p in enumerate(params + stacks) if i != 2]
    assert found.rows == {id(p): i for i, p in enumerate(with_gradient)}
    for p in with_gradient:
        addresses = [p.data_ptr(), p.grad.data_ptr(), optimizer.state[p]["momentum_buffer"].data_ptr()]
        assert found.pointers[found.rows[id(p)]].tolist() == addresses
    assert found.meta.tolist() == [[7, 0, 1], [15, 0, 1], [54, 0, 1], [4, 1, 1], [4, 1, 1]]
    assert torch.equal(found.hyper.cpu(), torch.tensor([[0.1, 0.1], [0.1, 0.5], [0.2, 0.5], [0.3, 0.5]]))
    step(optimizer, params + stacks, 1, missing={0})
    assert found.pointers[0, 1] == 0
    assert found.meta[:, 2].tolist() == [0, 0, 1, 0, 0, 0]


def test_those_that_another_kernel_updates_are_left_out(device):
    params = parameters(device)
    optimizer = fastrank.SGD(params, **MOMENTUM)
    step(optimizer, params, 0)
    found, before = only(optimizer), [p.detach().clone() for p in params]
    part = optimizer._descents.serving(optimizer.param_groups[0], [], optimizer.state)[1]
    with torch.no_grad():
        found.refresh([part], optimizer.state)
        found.launch(besides={id(params[1]), id(params[3]), 12345})
    assert [torch.equal(p, old) for p, old in zip(params, before, strict=True)] == [False, True, False, True]


def test_gradients_do_not_outlive_zero_grad(device):
    params = parameters(device)
    optimizer = fastrank.SGD(params, **MOMENTUM)
    step(optimizer, params, 0)
    grads = [weakref.ref(p.grad) for p in params]
    optimizer.zero_grad()
    gc.collect()
    assert not any(grad() is not None for grad in grads)


def test_a_captured_step_writes_everything_and_so_does_every_step_after_it(device, pokes, captured):
    params = parameters(device)
    optimizer = fastrank.SGD(params, **MOMENTUM)
    with captured(), pytest.raises(RuntimeError, match="take one with the same parameters"):
        step(optimizer, params, 0)
    optimizer.step()
    optimizer.step()
    written = len(pokes)
    with captured():
        optimizer.step()
        assert len(pokes) == written + 3
    optimizer.step()
    assert len(pokes) == written + 6


def test_numbers_are_launched_as_floats(device, monkeypatch):
    """Triton takes an int 1 for a constant, and compiles anew: dampening is 0 by default."""
    seen = []
    monkeypatch.setattr(module.Descent, "launch", lambda self, **flags: seen.extend(self._kinds))
    params = parameters(device)
    step(fastrank.SGD(params, lr=1, momentum=1), params, 0)
    assert all(type(number) is float for kind in seen for number in (kind.momentum, kind.dampening))
    assert seen


def test_what_the_kernel_does_not_take_is_torch_s(device, monkeypatch):
    monkeypatch.setattr(module.Descent, "launch", None)
    ones = torch.ones(3, 2, device=device)
    cases = [
        (ones.double(), {}),
        (ones.to(torch.complex64), {}),
        (torch.ones(3, 4, device=device)[:, ::2], {}),
        (ones, {"foreach": True}),
        # Left to itself, PyTorch takes foreach for it on a GPU, which then cannot take the learning rate.
        (ones, {"lr": torch.tensor(0.1, device=device, requires_grad=True), "differentiable": True, "foreach": False}),
        (torch.ones(2, 3, device=device).T, {"lr": torch.ones(3, device=device)}),
    ]
    for values, options in cases:
        param = values.clone() if "differentiable" in options else Parameter(values)
        param.grad = torch.ones_like(values)
        before = values.detach().clone()
        fastrank.SGD([param], **{"lr": 0.1, **options}).step()
        assert not torch.equal(param, before)
    table = Parameter(torch.ones(3, 2, device=device))
    table.grad = torch.ones(3, 2, device=device).to_sparse()
    fastrank.SGD([table], lr=0.5).step()
    assert table.eq(0.5).all()
