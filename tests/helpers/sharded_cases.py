"""Cases of SGD on DTensors beyond the arithmetic: overflow under AMP, stacks of models, and what autograd sees."""

from __future__ import annotations

import pytest
import torch
from sharded_steps import (
    KERNEL,
    MOMENTUM,
    alike,
    both,
    both_parts,
    case,
    described,
    distributed,
    give,
    meshes,
    noise,
    parameters,
    placed,
    same,
)
from torch.nn import Parameter

import fastrank
from fastrank import backend
from fastrank.optim import local_tensors


@case
def a_fused_step_unscales_and_leaves_an_overflow(rank, seen, patch):
    from torch.distributed.tensor import Replicate

    line, _ = meshes()
    for wrapped in (lambda x: x, lambda x: distributed(x, line, [Replicate()])):
        ours, theirs = both(placed(), MOMENTUM, fused=True)
        mine, plain = ours.param_groups[0]["params"], theirs.param_groups[0]["params"]
        for step in range(4):
            give(mine, placed(), step, missing=False)
            give(plain, placed(), step, missing=False)
            ours.grad_scale, ours.found_inf = wrapped(torch.tensor(2.0)), wrapped(torch.tensor(float(step in (0, 2))))
            grads = [p.grad for p in mine if local_tensors.is_sharded(p)]  # PyTorch does not count its fused form
            versions = [x._version for x in both_parts(grads)]
            ours.step()
            if step not in (0, 2):
                for param in plain:
                    param.grad = param.grad / 2
                alike(described([p.grad for p in mine]), described([p.grad for p in plain]))
                counted = [x._version for x in both_parts(grads)]
                assert all(new > old for new, old in zip(counted, versions, strict=True))
                theirs.step()
            same(ours, theirs, rtol=1e-6, atol=1e-6)


@case
def a_scaler_finds_the_overflow_of_one_process_in_all(rank, seen, patch):
    for fused in (None, True):
        place = placed()[:1]
        (param,) = parameters(place)
        optimizer = fastrank.SGD([param], **MOMENTUM, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        before = described([param])
        for step in range(3):
            optimizer.zero_grad()
            (scaler.scale((param * distributed(noise((7, 5), step), *place[0][1:])).sum())).backward()
            if step == 0 and rank == 1:
                param.grad.to_local()[0, 0] = torch.inf
            scaler.step(optimizer)
            scaler.update()
            if step == 0:
                alike(described([param]), before)
                assert not optimizer.state
        expected = torch.optim.SGD(parameters(place), **MOMENTUM)
        for step in (1, 2):
            expected.param_groups[0]["params"][0].grad = distributed(noise((7, 5), step), *place[0][1:])
            expected.step()
        same(optimizer, expected, rtol=1e-6, atol=1e-6)


@case
def slices_of_a_stack_are_models_of_their_own(rank, seen, patch):
    from torch.distributed.tensor import Replicate, Shard

    line, square = meshes()
    rates, decays = torch.tensor([0.5, 0.1, 0.0]), torch.tensor([0.0, 0.1, 0.3])
    places = [((3, 7, 2), line, [Shard(1)]), ((3, 4), line, [Replicate()]), ((3, 4, 2), square, [Shard(1), Shard(2)])]
    for compiled, form in ((True, {}), (False, {}), (True, {"fused": True})):
        patch.setattr(backend, "compiled_serve", lambda device, compiled=compiled: compiled and KERNEL)
        stacks = parameters(places)
        ours = fastrank.SGD(stacks, lr=rates, weight_decay=decays, momentum=0.9, **form)
        slices = [[Parameter(noise(shape, i)[e]) for i, (shape, *_) in enumerate(places)] for e in range(3)]
        stock = [
            torch.optim.SGD(own, lr=float(lr), weight_decay=float(decay), momentum=0.9)
            for own, lr, decay in zip(slices, rates, decays, strict=True)
        ]
        for step in range(3):
            give(stacks, places, step, missing=False)
            for e, (own, optimizer) in enumerate(zip(slices, stock, strict=True)):
                for i, (param, (shape, *_)) in enumerate(zip(own, places, strict=True)):
                    param.grad = noise(shape, 100 * (1 + step) + i)[e]
                optimizer.step()
            ours.step()
        for i, stack in enumerate(stacks):
            expected = torch.stack([own[i].detach() for own in slices])
            torch.testing.assert_close(stack.full_tensor(), expected, rtol=1e-6, atol=1e-6)
            assert ours.state[stack]["momentum_buffer"].placements == stack.placements
    assert not KERNEL or seen.forms == 3


@case
def a_stack_that_is_cut_between_its_slices_is_refused(rank, seen, patch):
    from torch.distributed.tensor import Shard

    line, square = meshes()
    rates = torch.full((3,), 0.1)
    for mesh, placements in ((line, [Shard(0)]), (square, [Shard(0), Shard(1)])):
        first, second = parameters([((3, 4), None, None), ((3, 4), mesh, placements)])
        with pytest.raises(ValueError, match="leading axis, along which parameter 'second' is sharded"):
            fastrank.SGD([("first", first), ("second", second)], lr=rates)
    optimizer = fastrank.SGD(parameters([((3, 4), line, [Shard(1)])]), lr=rates, differentiable=True)
    optimizer.param_groups[0]["params"][0].grad = distributed(noise((3, 4), 0), line, [Shard(1)])
    with pytest.raises(RuntimeError, match="stacked lr takes DTensors"):
        optimizer.step()


@case
def autograd_knows_of_the_step(rank, seen, patch):
    for form in ({}, {"foreach": True}, {"fused": True}):
        places = [place for place in placed() if place[1] is not None]  # PyTorch does not count its own fused form
        params = parameters(places)
        ours = fastrank.SGD(params, **MOMENTUM, **form)
        for step in range(3):
            give(params, places, step, missing=False)
            buffers = [own["momentum_buffer"] for own in ours.state.values()]
            written = both_parts([*params, *buffers])
            losses, before = [(p * p).sum() for p in params], [x._version for x in written]
            ours.step()
            assert all(x._version > old for x, old in zip(written, before, strict=True))
            for loss in losses:
                with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                    loss.backward()


@case
def autograd_runs_through_a_differentiable_step(rank, seen, patch):
    gradients = []
    for kind in (fastrank.SGD, torch.optim.SGD):
        leaves = parameters(placed()[:4])
        params = [leaf.clone() for leaf in leaves]
        optimizer = kind(params, **MOMENTUM, differentiable=True)
        for param, (shape, *how) in zip(params, placed(), strict=False):
            param.grad = distributed(noise(shape, 5), *how)
        optimizer.step()
        sum((param * param).sum().full_tensor() for param in params).backward()
        gradients.append(described([leaf.grad for leaf in leaves]))
    alike(*gradients)
