"""A step that relies on the last one: it does not where anything but addresses and hyper-parameters is different, and
its bits are always those of an optimizer that looks at everything."""

from __future__ import annotations

import copy

import pytest
import torch
from sgd_steps import parameters
from steady_steps import Forgetful, all_of, assert_same, first, give, noise, optimizer_of, set_data
from torch import Tensor
from torch.nn import Parameter

import fastrank

pytest.importorskip("triton")
# What the host notices; other tests run every kernel that is launched here.
pytestmark = [pytest.mark.usefixtures("served"), pytest.mark.heavy]


def run(change, device, refreshed, steps=2):
    """Two steps before everything is as in the last one, a third, the change, and more. Returns whether the first step
    after the change looked at everything, and whether the last did."""
    ours, theirs = optimizer_of(fastrank.SGD, device), optimizer_of(Forgetful, device)
    for number in range(3):
        for optimizer in (ours, theirs):
            give(optimizer, number, besides={3})
            refreshed.clear()
            optimizer.step()
    found = []
    for number in range(3, 3 + steps):
        for optimizer in (ours, theirs):
            give(optimizer, number)
            if number == 3:
                change(optimizer)
            refreshed.clear()
            optimizer.step()
            if optimizer is ours:
                found.append(bool(refreshed))
        assert_same(ours, theirs)
    return found


def test_a_step_like_the_last_one_does_not_look_at_everything(device, refreshed):
    assert run(lambda optimizer: None, device, refreshed) == [False, False]


class Subclass(Tensor):
    pass


def group(number, **values):
    return lambda o: o.param_groups[number].update(values)


def with_buffer(change):
    def changed(optimizer):
        state = optimizer.state[first(optimizer)]
        state["momentum_buffer"] = change(state["momentum_buffer"])

    return changed


def rate(value, device=None):
    return lambda o: o.param_groups[0].update(
        lr=torch.tensor(value, device=first(o).device if device is None else device)
    )


FOLLOWED = {
    "gradient-elsewhere": lambda o: setattr(first(o), "grad", first(o).grad.clone()),
    "gradient-in-place": lambda o: first(o).grad.mul_(3),
    "gradient-s-memory": lambda o: set_data(first(o).grad, first(o).grad * 2),
    "parameter-elsewhere": lambda o: set_data(first(o), first(o).detach() * 2),
    "buffer-elsewhere": with_buffer(lambda buffer: buffer * 2),
    "state-loaded-in-place": lambda o: o.state[first(o)]["momentum_buffer"].mul_(2),
    "lr": group(1, lr=0.05),
    "lr-int": group(1, lr=1),
    "lr-of-zero": group(1, lr=0.0),
    "weight-decay": group(0, weight_decay=0.3),
    "no-weight-decay": group(0, weight_decay=0),
    "stack-s-lr": lambda o: o.param_groups[2]["lr"].mul_(2),
    "stack-s-other-lr": lambda o: o.param_groups[2].update(lr=o.param_groups[2]["lr"] * 3),
    "stack-s-lr-on-the-host": lambda o: o.param_groups[2].update(lr=torch.tensor([0.3, 0.2, 0.0])),
    "fused": group(0, fused=True),
}


@pytest.mark.parametrize("change", FOLLOWED.values(), ids=FOLLOWED.keys())
def test_addresses_and_hyper_parameters_are_followed(change, device, refreshed):
    assert run(change, device, refreshed) == [False, False]


def at_the_same_address(tensor, strides):
    set_data(tensor, torch.empty(0, device=tensor.device).set_(tensor.untyped_storage(), 0, tensor.shape, strides))


def reload(optimizer):
    state = copy.deepcopy(optimizer.state_dict())
    for entry in state["state"].values():
        entry["momentum_buffer"] *= 2
    state["param_groups"][0]["momentum"] = 0.5
    optimizer.load_state_dict(state)


def swap(optimizer):
    a, b = optimizer.param_groups[0]["params"], optimizer.param_groups[1]["params"]
    a[0], b[0] = b[0], a[0]


def other_parameter(optimizer):
    old = first(optimizer)
    optimizer.param_groups[0]["params"][0] = new = Parameter(old.detach() * 2)
    new.grad = old.grad


def half(optimizer):
    param = first(optimizer)
    set_data(param, param.detach().half())
    param.grad = noise(param, 9)
    optimizer.state[param]["momentum_buffer"] = noise(param, 8)


def sparse(optimizer):
    optimizer.param_groups[0]["weight_decay"] = 0  # with one, PyTorch takes no sparse gradients
    first(optimizer).grad = first(optimizer).grad.to_sparse()


def add(optimizer):
    optimizer.add_param_group({"params": parameters(first(optimizer).device, [(2, 2)], seed=5), "lr": 0.5})
    param = all_of(optimizer)[-1]
    param.grad = noise(param, 7)


def late(optimizer):
    param = all_of(optimizer)[3]
    param.grad = noise(param, 9)


NOTICED = {
    "no-gradient": lambda o: setattr(first(o), "grad", None),
    "first-gradient": late,
    "gradient-s-strides": lambda o: setattr(first(o), "grad", first(o).grad.T.contiguous().T),
    "gradient-s-strides-in-place": lambda o: at_the_same_address(all_of(o)[4].grad, (1, 4)),
    "gradient-s-shape": lambda o: set_data(first(o).grad, first(o).grad[:1].clone()),
    "gradient-s-dtype": lambda o: set_data(first(o).grad, first(o).grad.half()),
    "gradient-sparse": sparse,
    "gradient-negated": lambda o: setattr(first(o), "grad", torch._neg_view(first(o).grad)),
    "gradient-of-a-subclass": lambda o: setattr(first(o), "grad", first(o).grad.as_subclass(Subclass)),
    "parameter-s-strides": lambda o: set_data(first(o), first(o).detach().T.contiguous().T),
    "parameter-s-strides-in-place": lambda o: at_the_same_address(all_of(o)[4], (1, 4)),
    "parameter-s-dtype": half,
    "another-parameter": other_parameter,
    "parameters-swapped": swap,
    "parameter-left-out": lambda o: o.param_groups[0]["params"].pop(1),
    "parameters-in-another-order": lambda o: o.param_groups[0]["params"].reverse(),
    "parameter-added": lambda o: o.param_groups[0]["params"].append(o.param_groups[1]["params"].pop()),
    "group-added": add,
    "group-left-out": lambda o: o.param_groups.pop(1),
    "group-replaced": lambda o: o.param_groups.__setitem__(0, {**o.param_groups[0], "lr": 0.5}),
    "groups-in-another-order": lambda o: o.param_groups.reverse(),
    "buffer-s-strides": with_buffer(lambda buffer: buffer.T.contiguous().T),
    "buffer-s-dtype": with_buffer(lambda buffer: buffer.double()),
    "buffer-of-a-subclass": with_buffer(lambda buffer: buffer.as_subclass(Subclass)),
    "no-buffer": with_buffer(lambda buffer: None),
    "buffer-left-out": lambda o: o.state[first(o)].clear(),
    "state-left-out": lambda o: o.state.pop(first(o)),
    "state-empty": lambda o: o.state.clear(),
    "state-loaded": reload,
    "momentum": group(0, momentum=0.5),
    "no-momentum": group(0, momentum=0),
    "dampening": group(0, dampening=0.5),
    "nesterov": group(0, nesterov=True),
    "maximize": group(0, maximize=True),
    "foreach": group(0, foreach=True),
    "lr-a-tensor": lambda o: o.param_groups[0].update(lr=torch.tensor(0.3, device=first(o).device)),
    "lr-a-stack": lambda o: o.param_groups[1].update(lr=torch.tensor([0.1, 0.2, 0.3, 0.4], device=first(o).device)),
    "a-stack-s-lr-a-number": group(2, lr=0.3),
    "a-stack-s-lr-one": lambda o: o.param_groups[2].update(lr=o.param_groups[2]["lr"][:1].clone()),
    "weight-decay-a-stack": lambda o: o.param_groups[2].update(weight_decay=torch.tensor([0.1, 0.2, 0.0])),
}


@pytest.mark.parametrize("change", NOTICED.values(), ids=NOTICED.keys())
def test_any_other_change_is_noticed(change, device, refreshed):
    if device.type == "cuda" and change is NOTICED["gradient-s-dtype"]:  # PyTorch takes foreach there, and refuses it
        with pytest.raises(RuntimeError, match="the same dtype"):
            run(change, device, refreshed)
        return
    assert run(change, device, refreshed)[0]
