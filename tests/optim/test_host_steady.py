"""Compiled steps of a CPU that rely on the last one: their bits are those of steps that look at everything."""

import weakref
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from steady_steps import Forgetful, all_of, assert_same, first, give, optimizer_of, set_data
from torch.nn import Parameter

import fastrank
from fastrank import backend
from fastrank.optim.host_descent import HostDescent

pytestmark = pytest.mark.skipif(bool(backend.why_numba_fails()), reason=backend.why_numba_fails())


@pytest.fixture
def refreshed(monkeypatch: pytest.MonkeyPatch) -> list[HostDescent]:
    """The descents that have looked at everything."""
    found: list[HostDescent] = []
    stock = HostDescent.refresh

    def noted(self: HostDescent, *given: Any) -> None:
        found.append(self)
        stock(self, *given)

    monkeypatch.setattr(HostDescent, "refresh", noted)
    return found


CHANGES: dict[str, Callable[[Any], Any]] = {
    "nothing": lambda o: None,
    "lr": lambda o: o.param_groups[0].update(lr=0.3),
    "lr-tensor": lambda o: o.param_groups[0].update(lr=torch.tensor(0.3)),
    "stacked-lr-in-place": lambda o: o.param_groups[2]["lr"].mul_(0.5),
    "momentum": lambda o: o.param_groups[0].update(momentum=0.5),
    "no-momentum": lambda o: o.param_groups[1].update(momentum=0.0),
    "nesterov": lambda o: o.param_groups[0].update(nesterov=True),
    "maximize": lambda o: o.param_groups[1].update(maximize=True),
    "form": lambda o: o.param_groups[0].update(fused=False),
    "data": lambda o: set_data(first(o), first(o).detach().clone() * 2),
    "layout": lambda o: set_data(first(o), first(o).detach().t().contiguous().t()),
    "gradient-gone": lambda o: setattr(first(o), "grad", None),
    "gradient-layout": lambda o: setattr(first(o), "grad", first(o).grad.t().contiguous().t()),
    "late-gradient": lambda o: setattr(all_of(o)[3], "grad", torch.ones_like(all_of(o)[3])),
    "buffer": lambda o: o.state[first(o)].update(momentum_buffer=torch.ones_like(first(o).detach())),
    "buffer-gone": lambda o: o.state[first(o)].clear(),
    "group": lambda o: o.add_param_group({"params": [with_gradient(Parameter(torch.ones(3)))]}),
    "removed": lambda o: o.param_groups.pop(),
    "loaded": lambda o: o.load_state_dict(deepcopy(o.state_dict())),
    "loaded-from-torch": lambda o: o.load_state_dict(torch_state_like(o)),
}
FOLLOWED = ("nothing", "lr", "stacked-lr-in-place", "data", "buffer")
"""After these nothing else needs to be looked at."""


def with_gradient(param: Parameter) -> Parameter:
    param.grad = torch.ones_like(param)
    return param


def torch_state_like(optimizer: Any) -> dict[str, Any]:
    """A state dict of PyTorch's own SGD, with `fused=True`, of groups of the same sizes."""
    groups = [{**group, "lr": 0.2, "fused": True} for group in optimizer.param_groups]
    return torch.optim.SGD(groups).state_dict()


@pytest.mark.parametrize("name", CHANGES)
def test_a_step_that_relies_on_the_last_has_the_bits_of_one_that_does_not(
    name: str, refreshed: list[HostDescent]
) -> None:
    ours, theirs = (optimizer_of(kind, "cpu") for kind in (fastrank.SGD, Forgetful))
    for number in range(6):
        for optimizer in (ours, theirs):
            give(optimizer, number, besides={3})
            if number == 3:
                CHANGES[name](optimizer)
            refreshed.clear()
            optimizer.step()
            if number == 2 or (number == 3 and name in FOLLOWED):
                assert bool(refreshed) == (optimizer is theirs)
        assert_same(ours, theirs)


def test_versions_count_up_and_gradients_do_not_outlive_their_step() -> None:
    optimizer = optimizer_of(fastrank.SGD, "cpu")
    for number in range(4):
        give(optimizer, number, besides={3})
        before = [param._version for param in all_of(optimizer)]
        optimizer.step()
        stepped = [param._version > old for param, old in zip(all_of(optimizer), before, strict=True)]
        assert stepped == [param.grad is not None for param in all_of(optimizer)]
    gone = [weakref.ref(param.grad) for param in all_of(optimizer) if param.grad is not None]
    optimizer.zero_grad()
    assert len(gone) > 4
    assert not any(grad() is not None for grad in gone)
