"""SGD of DTensors: what PyTorch's does to them, by kernels that take their local tensors."""

from __future__ import annotations

from copy import deepcopy

import processes
import pytest
import sharded_cases  # noqa: F401 (which adds to CASES)
import torch
from sharded_steps import (
    CASES,
    KERNEL,
    MOMENTUM,
    OPTIONS,
    RANKS,
    STEPS,
    both,
    case,
    distributed,
    give,
    meshes,
    noise,
    parameters,
    placed,
    run,
    run_cases,
    same,
)
from torch import nn

import fastrank
from fastrank import backend


def every_case(rank):
    """Is here and not in a helper, so that each process imports this file and with it all cases."""
    return run_cases(rank)


@pytest.fixture(scope="module")
def results():
    return processes.run(every_case, RANKS)


@case
def the_kernel_has_the_bits_of_pytorch(rank, seen, patch):
    for options in OPTIONS.values():
        run(*both(placed(), options), placed())
    run(*both(placed(), MOMENTUM, torch.float64), placed())
    assert not KERNEL or (seen.launches == (len(OPTIONS) + 1) * STEPS and not seen.forms)


@case
def without_the_kernel_the_bits_are_the_same(rank, seen, patch):
    patch.setattr(backend, "compiled_serve", lambda device: False)
    run(*both(placed(), MOMENTUM), placed())
    run(*both(placed(), OPTIONS["tensors"]), placed())
    assert seen.forms == 2 * STEPS


@case
def the_forms_that_a_user_asks_for_take_local_tensors(rank, seen, patch):
    """Of all these, PyTorch's own take no group of DTensors and plain tensors, and no DTensor at all if fused."""
    for form in ({"foreach": True}, {"foreach": False}, {"fused": False}, {"fused": True}):
        ours, theirs = both(placed(), MOMENTUM, **form)
        near = {"rtol": 1e-6, "atol": 1e-6} if form == {"fused": True} else {}
        run(ours, theirs, placed(), **near)
    run(*both(placed(), MOMENTUM, torch.bfloat16), placed())
    assert seen.forms == 5 * STEPS
    assert not seen.launches


@case
def steps_that_find_what_the_last_one_found_look_at_little(rank, seen, patch):
    run(*both(placed(), MOMENTUM), placed(), missing=False)
    assert not KERNEL or seen.tables == 2  # the first step made the momentum buffers


@case
def a_gradient_in_other_places_is_not_taken_for_its_local_tensor(rank, seen, patch):
    """In steps that rely on the last one, too."""
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

    line, square = meshes()
    others = [(line, [Replicate()], [Partial()]), (line, [Shard(0)], [Shard(1)])]
    others += [(square, [Replicate(), Shard(0)], [Partial(), Shard(0)]), (line, [Shard(0)], [Replicate()])]
    for mesh, own, other in others:
        for options in (OPTIONS["decay"], MOMENTUM):
            for first in (0, 3):
                places = [((4, 4), mesh, own)]
                (mine,), (theirs,) = parameters(places), parameters(places)
                ours, stock = fastrank.SGD([mine], **options), torch.optim.SGD([theirs], **options)
                seen.forms = 0
                for step in range(5):
                    give([mine, theirs], [*places, *places], step, missing=False)
                    give([theirs], places, step, missing=False)
                    mine.grad = theirs.grad.clone()
                    if step == first:
                        value = noise((4, 4), 1000 * step)
                        shares = [Replicate() if p.is_partial() else p for p in other]
                        part = distributed(value, mesh, shares).to_local()
                        grad = DTensor.from_local(part, mesh, other, run_check=False)
                        mine.grad = grad
                        theirs.grad = grad.redistribute(mesh, own)
                    ours.step()
                    stock.step()
                    same(ours, stock)
                assert not KERNEL or seen.forms == 1
    assert not KERNEL or seen.launches == 16 * 4


def mlp(ignored=True):
    """A network that FSDP shards, whose first bias it leaves to each process."""
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 7), nn.Tanh(), nn.Linear(7, 3), nn.Tanh(), nn.Linear(3, 6))
    for layer in model[2], model[4]:
        fully_shard(layer)
    return fully_shard(model, ignored_params={model[0].bias} if ignored else set())


def train(model, optimizer, steps=range(STEPS)):
    for step in steps:
        optimizer.zero_grad()
        model(noise((8, 10), step)).square().mean().backward()
        optimizer.step()


@case
def a_network_that_fsdp_shards_is_trained_with_the_bits_of_pytorch(rank, seen, patch):
    optimizers = []
    for kind in (fastrank.SGD, torch.optim.SGD):
        model = mlp()
        optimizers.append(kind(model.parameters(), **MOMENTUM))
        train(model, optimizers[-1])
    same(*optimizers)
    assert not KERNEL or (seen.launches, seen.tables, seen.forms) == (STEPS, 2, 0)


@case
def checkpoints_go_from_either_optimizer_to_the_other(rank, seen, patch):
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    kinds = (fastrank.SGD, torch.optim.SGD)
    for kind, next_kind in (kinds, kinds[::-1]):
        model = mlp(ignored=False)
        optimizer = kind(model.parameters(), **MOMENTUM)
        train(model, optimizer, range(3))
        weights, state = deepcopy(get_state_dict(model, optimizer))
        other = mlp(ignored=False)
        heir = next_kind(other.parameters(), lr=5.0, momentum=0.9)
        set_state_dict(other, heir, model_state_dict=weights, optim_state_dict=state)
        train(model, optimizer, range(3, 6))
        train(other, heir, range(3, 6))
        assert optimizer.state_dict().keys() == heir.state_dict().keys()
        same(optimizer, heir)


@pytest.mark.parametrize("name", CASES)
def test_of_dtensors(name, results):
    assert not any(each[name] for each in results), "\n".join(each[name] for each in results)
