"""Steps that rely on the last one: what else has to hold of them, and what they leave behind."""

from __future__ import annotations

import weakref

import pytest
import torch
from steady_steps import Forgetful, all_of, assert_same, first, give, optimizer_of, set_data

import fastrank

pytest.importorskip("triton")
pytestmark = pytest.mark.usefixtures("served")


def test_a_learning_rate_that_requires_a_gradient_is_noticed(device, monkeypatch):
    optimizer = optimizer_of(fastrank.SGD, device)
    optimizer.param_groups[0]["lr"] = lr = torch.tensor(0.1, device=device)
    for number in range(3):
        give(optimizer, number)
        optimizer.step()
    monkeypatch.setattr(fastrank.SGD, "_step_group", lambda self, *given: stepped.append(given[0]))
    stepped = []
    optimizer.step()
    assert not stepped
    lr.requires_grad_()
    optimizer.step()
    assert stepped == [optimizer.param_groups[0]]


def test_a_parameter_without_gradient_that_has_had_one_is_where_it_is(device, refreshed):
    """Kernels that are fused with the step read it by the table."""
    optimizer = optimizer_of(fastrank.SGD, device)
    for number in range(4):
        give(optimizer, number)
        if number:
            first(optimizer).grad = None
        refreshed.clear()
        optimizer.step()
    (found,) = optimizer._descents._of.values()
    assert not refreshed
    set_data(first(optimizer), first(optimizer).detach().clone())
    optimizer.step()
    assert not refreshed
    assert found.pointers[found.rows[id(first(optimizer))]].tolist() == [first(optimizer).data_ptr(), 0, 0]


def test_flags_of_a_scaler_are_those_of_the_step(device, refreshed):
    """Wherever they are, and whether they are there."""
    flags = [(None, None), (2.0, 0.0), (4.0, 0.0), (4.0, 2.0), (None, 1.0), (None, None), (0.5, None)]

    def with_flags(optimizer, scale, found_inf):
        optimizer.grad_scale = None if scale is None else torch.tensor(scale, device=device)
        optimizer.found_inf = None if found_inf is None else torch.tensor(found_inf, device=device)

    ours, theirs = optimizer_of(fastrank.SGD, device), optimizer_of(Forgetful, device)
    for number in range(3 + len(flags)):
        for optimizer in (ours, theirs):
            give(optimizer, number)
            with_flags(optimizer, *flags[max(number - 3, 0)])
            refreshed.clear()
            optimizer.step()
            assert number < 3 or optimizer is theirs or not refreshed
        assert_same(ours, theirs)
        for p, q in zip(all_of(ours), all_of(theirs), strict=True):
            assert torch.equal(p.grad, q.grad)
            assert (p.grad._version, p._version) == (q.grad._version, q._version)


def test_what_another_kernel_updates_may_change(device):
    optimizer, left = optimizer_of(fastrank.SGD, device), []

    class Companion:
        def fuse(self, descent, grad_scale, found_inf):
            return set(left)

    optimizer.companion = Companion()
    for number in range(7):
        give(optimizer, number)
        left[:] = [id(param) for param in all_of(optimizer)[: max(number - 3, 0)]]
        before = [(param.detach().clone(), param._version) for param in all_of(optimizer)]
        optimizer.step()
        same = [torch.equal(param, old) for param, (old, _) in zip(all_of(optimizer), before, strict=True)]
        assert [i for i, x in enumerate(same) if x] == list(range(len(left)))
        assert all(param._version > version for param, (_, version) in zip(all_of(optimizer), before, strict=True))


def test_gradients_do_not_outlive_their_step(device):
    optimizer = optimizer_of(fastrank.SGD, device)
    for number in range(4):
        give(optimizer, number)
        optimizer.step()
    gone = [weakref.ref(param.grad) for param in all_of(optimizer)]
    optimizer.zero_grad()
    assert not any(x() is not None for x in gone)


def test_an_optimizer_is_freed_with_its_parameters(device):
    """At once, without the garbage collector: nothing refers to itself."""
    optimizer = optimizer_of(fastrank.SGD, device)
    for number in range(4):
        give(optimizer, number)
        optimizer.step()
    (found,) = optimizer._descents._of.values()
    gone = [weakref.ref(found), weakref.ref(first(optimizer))]
    del found, optimizer
    assert [x() for x in gone] == [None, None]


@pytest.mark.parametrize("name", ["lr", "weight_decay"])
def test_a_number_in_the_place_of_a_tensor_is_taken_whatever_it_is(device, name):
    """Also the one that stands for a tensor in the tables, where the tensor's value is copied."""
    p = torch.nn.Parameter(torch.ones(3, device=device))
    p.grad = torch.ones_like(p)
    optimizer = fastrank.SGD([p], lr=0.1, weight_decay=0.5)
    optimizer.param_groups[0][name] = torch.tensor(0.5, device=device)
    optimizer.step()
    optimizer.param_groups[0][name] = 0.0
    before = p.detach().clone()
    optimizer.step()
    expected = before if name == "lr" else before - 0.1
    torch.testing.assert_close(p.detach(), expected)
