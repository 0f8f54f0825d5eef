"""Steps of optimizers on DTensors, which all processes of a job take, and what is to be told of them."""

from __future__ import annotations

import traceback
from copy import deepcopy

import pytest
import torch
from torch.nn import Parameter

import fastrank
from fastrank import backend
from fastrank.optim import local_tensors
from fastrank.optim.host_descent import HostDescent

RANKS = 2
STEPS = 4
MOMENTUM = {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}
OPTIONS = {
    "plain": {"lr": 0.1},
    "decay": {"lr": 0.1, "weight_decay": 0.01},
    "dampening": MOMENTUM,
    "nesterov": {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "maximize": {"lr": 0.1, "momentum": 0.9, "maximize": True},
    "tensors": {"lr": torch.tensor(0.1), "momentum": 0.9, "weight_decay": torch.tensor(0.01)},
}
KERNEL = not backend.why_numba_fails()
CASES = {}


def case(function):
    """What each process does, all of them at the same time."""
    CASES[function.__name__] = function
    return function


class Seen:
    """How often the kernel has been launched, its tables have been made, and PyTorch's forms have been taken."""

    def __init__(self, patch):
        self.launches = self.tables = self.forms = 0
        for owner, method, count in (
            (HostDescent, "launch", "launches"),
            (HostDescent, "refresh", "tables"),
            (fastrank.SGD, "_step_group", "forms"),
        ):
            patch.setattr(owner, method, self._counted(getattr(owner, method), count))

    def _counted(self, stock, count):
        def counted(*given, **options):
            setattr(self, count, getattr(self, count) + 1)
            return stock(*given, **options)

        return counted


def meshes():
    from torch.distributed.tensor import init_device_mesh

    return init_device_mesh("cpu", (RANKS,)), init_device_mesh("cpu", (2, RANKS // 2))


def noise(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def placed():
    """Shape, mesh and placements of each parameter; no mesh: a plain one. One process alone has the second."""
    from torch.distributed.tensor import Replicate, Shard

    line, square = meshes()
    return [
        ((7, 5), line, [Shard(0)]),
        ((1, 3), line, [Shard(0)]),
        ((5,), line, [Replicate()]),
        ((3, 8), line, [Shard(1)]),
        ((7, 6), square, [Shard(0), Shard(1)]),
        ((9, 4), square, [Replicate(), Shard(0)]),
        ((9, 4), square, [Shard(0), Shard(0)]),
        ((), line, [Replicate()]),
        ((4, 3), None, None),
    ]


def distributed(value, mesh, placements):
    from torch.distributed.tensor import distribute_tensor

    return value if mesh is None else distribute_tensor(value, mesh, placements, src_data_rank=None)


def parameters(places, dtype=torch.float32):
    return [Parameter(distributed(noise(shape, i).to(dtype), *how)) for i, (shape, *how) in enumerate(places)]


def give(params, places, step, missing=True):
    """Gradients that depend on the step's number only; at each step, one parameter in four has none."""
    for i, (param, (shape, *how)) in enumerate(zip(params, places, strict=True)):
        grad = distributed(noise(shape, 100 * (1 + step) + i).to(param.dtype), *how)
        param.grad = None if missing and (step + i) % 4 == 0 else grad


def both_parts(tensors):
    """DTensors and their local tensors, each of which has a version of its own."""
    return [*tensors, *(tensor._local_tensor for tensor in tensors)]


def described(tensors):
    """All there is to know of tensors: numbers that are here, and how they are placed."""
    numbers, kinds = [], []
    for tensor in tensors:
        sharded = local_tensors.is_sharded(tensor)
        numbers.append((tensor.to_local() if sharded else tensor).detach().clone())
        kinds.append((tensor.shape, tensor.stride(), tensor.dtype))
        kinds[-1] += (tensor.placements, tensor.device_mesh) if sharded else (type(tensor),)
    return numbers, kinds


def alike(ours, theirs, **tolerance):
    torch.testing.assert_close(ours[0], theirs[0], **(tolerance or {"rtol": 0, "atol": 0}))
    assert ours[1] == theirs[1]


def found(optimizer):
    """Parameters and momentum buffers."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    buffers = [optimizer.state.get(param, {}).get("momentum_buffer") for param in params]
    return described([x for pair in zip(params, buffers, strict=True) for x in pair if x is not None])


def same(ours, theirs, **tolerance):
    alike(found(ours), found(theirs), **tolerance)


def run(ours, theirs, places, steps=range(STEPS), missing=True, **tolerance):
    for step in steps:
        for optimizer in (ours, theirs):
            give([p for group in optimizer.param_groups for p in group["params"]], places, step, missing)
            optimizer.step()
        same(ours, theirs, **tolerance)


def both(places, options, dtype=torch.float32, **ours):
    kinds = ((fastrank.SGD, ours), (torch.optim.SGD, {}))
    return [kind(parameters(places, dtype), **deepcopy(options), **more) for kind, more in kinds]


def run_cases(rank):
    """Runs all cases in this process, and returns what each of them has raised; the empty string: nothing."""
    results = {}
    for name, function in CASES.items():
        with pytest.MonkeyPatch.context() as patch:
            seen = Seen(patch)
            try:
                function(rank, seen, patch)
                results[name] = ""
            except (Exception, pytest.fail.Exception):
                results[name] = traceback.format_exc()
    return results
