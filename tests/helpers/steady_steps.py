"""Steps that find what the last one found, of two optimizers: one relies on that, and one knows nothing of it."""

from __future__ import annotations

import torch
from sgd_steps import parameters

import fastrank
from fastrank.optim.descents import Descents

OPTIONS = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}


class Forgetful(fastrank.SGD):
    """Knows nothing of the last step."""

    def step(self, closure=None):
        self._descents = Descents()
        return super().step(closure)


def noise(like, number):
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(number)).to(like)


def optimizer_of(kind, device):
    """Two groups and a stack; the last parameter of the first has no gradient."""
    first, second = parameters(device, [(5, 3), (7,), (2, 3, 2, 2), (3, 3)]), parameters(device, [(4, 4)], seed=1)
    stack = {"params": parameters(device, [(3, 2, 2)], seed=2), "lr": torch.tensor([0.1, 0.2, 0.3], device=device)}
    optimizer = kind([{"params": first}, {"params": second, "lr": 0.2}, stack], **OPTIONS)
    assert first[0].grad is None
    return optimizer


def give(optimizer, number, besides=()):
    """New gradients for all that have one."""
    for i, param in enumerate(all_of(optimizer)):
        if i not in besides and (number == 0 or param.grad is not None):
            param.grad = noise(param, 100 * number + i)


def all_of(optimizer):
    return [param for group in optimizer.param_groups for param in group["params"]]


def first(optimizer):
    return optimizer.param_groups[0]["params"][0]


def set_data(tensor, values):
    tensor.data = values


def assert_same(ours, theirs):
    for p, q in zip(all_of(ours), all_of(theirs), strict=True):
        assert torch.equal(p.float(), q.float())
        a, b = (x.state.get(y, {}).get("momentum_buffer") for x, y in ((ours, p), (theirs, q)))
        assert (a is None) == (b is None)
        assert a is None or torch.equal(a, b)
