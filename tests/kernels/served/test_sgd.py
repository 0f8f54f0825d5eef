"""`fastrank.SGD` where the kernel serves it: PyTorch's habits all the same."""

from __future__ import annotations

import copy

import pytest
import torch
from sgd_steps import MOMENTUM, parameters, step
from torch.nn import Parameter

import fastrank

pytest.importorskip("triton")
pytestmark = pytest.mark.usefixtures("served")


@pytest.fixture(autouse=True)
def _torch_s_own_forms_have_nothing_to_do(monkeypatch):
    monkeypatch.setattr(fastrank.SGD, "_step_group", None)


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("options", [MOMENTUM, {"lr": 0.1}], ids=["momentum", "plain"])
def test_late_and_missing_gradients(options, device):
    ours, theirs = parameters(device), parameters(device)
    optimizers = [fastrank.SGD(ours, **options), torch.optim.SGD(theirs, **options)]
    for number, missing in enumerate([{1, 3}, {3}, {0, 3}, {1, 2}, {0, 1, 2, 3}, set()]):
        for optimizer, params in zip(optimizers, (ours, theirs), strict=True):
            step(optimizer, params, number, missing)
    close(ours, theirs)
    close(optimizers[0].state_dict(), optimizers[1].state_dict())


@pytest.mark.parametrize("ours_first", [True, False], ids=["ours-to-torch", "torch-to-ours"])
def test_state_dicts_travel_in_mid_run(ours_first, device):
    kinds = [fastrank.SGD, torch.optim.SGD] if ours_first else [torch.optim.SGD, fastrank.SGD]
    params, theirs = parameters(device), parameters(device)
    optimizer, stock = kinds[0](params, **MOMENTUM), torch.optim.SGD(theirs, **MOMENTUM)
    for number in range(6):
        if number == 3:
            saved, optimizer = copy.deepcopy(optimizer.state_dict()), kinds[1](params, lr=123.0)
            optimizer.load_state_dict(saved)
        step(optimizer, params, number)
        step(stock, theirs, number)
    close(params, theirs)
    close(optimizer.state_dict(), stock.state_dict())


def test_copies_go_on_by_themselves(device):
    params = parameters(device)
    optimizer = fastrank.SGD(params, **MOMENTUM)
    step(optimizer, params, 0)
    kept = [p.detach().clone() for p in params]
    others, twin = copy.deepcopy((params, optimizer))
    step(twin, others, 1)
    assert all(torch.equal(p, old) for p, old in zip(params, kept, strict=True))
    step(optimizer, params, 1)
    close(others, params)


def test_learning_rates_and_parameters_change_between_steps(device):
    """A tensor in place, a scheduler's number, a momentum, another group, and other memory for a parameter."""
    runs = []
    for kind in (fastrank.SGD, torch.optim.SGD):
        params, more = parameters(device), parameters(device, [(4, 4)], seed=9)
        optimizer = kind(params, lr=torch.tensor(0.1, device=device), momentum=0.9)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        for number in range(6):
            step(optimizer, params, number)
            scheduler.step()
            if number == 1:
                optimizer.add_param_group({"params": more, "lr": 0.3, "weight_decay": 0.2})
                params = params + more
            if number == 2:
                optimizer.param_groups[0]["momentum"] = 0.5
                optimizer.param_groups[1]["weight_decay"] = torch.tensor(0.4, device=device)
            if number == 3:
                params[1].data = params[1].detach().clone()
        runs.append(params)
    close(*runs)


def test_layouts_are_the_parameters(device):
    """Channels-last and transposed ones; gradients and loaded buffers of other strides are brought into theirs."""
    kernel = torch.linspace(-1, 1, 48, device=device).view(4, 3, 2, 2)
    layouts = [k.contiguous(memory_format=torch.channels_last) for k in (kernel, kernel[:, :, :1, :1])]
    layouts.append(kernel[0, 0].clone().T)
    runs = []
    for kind in (fastrank.SGD, torch.optim.SGD):
        params = [Parameter(layout.clone()) for layout in layouts]
        optimizer = kind(params, **MOMENTUM)
        for number, param in enumerate(params):
            optimizer.state[param]["momentum_buffer"] = torch.full_like(param, number).contiguous()
        for number in range(3):
            step(optimizer, params, number)
        runs.append(params)
    close(*runs)
    assert [p.stride() for p in runs[0]] == [p.stride() for p in runs[1]]


@pytest.mark.parametrize("contiguous", [True, False])
def test_unscaled_gradients_are_written_back_and_overflow_touches_nothing(contiguous, device):
    params, theirs = (parameters(device, [(6, 5), (3, 4)]) for _ in range(2))
    ours, stock = (kind(p, **MOMENTUM, fused=True) for kind, p in ((fastrank.SGD, params), (torch.optim.SGD, theirs)))
    for number in range(4):
        grads = [p.detach().clone() for p in parameters(device, [(6, 5), (3, 4)], seed=1 + number)]
        for own, ps in ((ours, params), (stock, theirs)):
            own.grad_scale = torch.tensor(3.0, device=device)
            own.found_inf = torch.tensor(float(number in (1, 3)) * 2, device=device).clamp(max=1)
            for p, g in zip(ps, grads, strict=True):
                # PyTorch's fused form on a CPU reads a gradient as if it had its parameter's strides
                p.grad = g.clone() if contiguous or own is stock else g.T.contiguous().T
            own.step()
        if number in (1, 3):
            assert all(torch.equal(p.grad, g) for p, g in zip(params, grads, strict=True))
        close([p.grad for p in params], [p.grad for p in theirs])
        close(ours.state_dict(), stock.state_dict())
    close(params, theirs)


def test_autograd_knows_of_the_step(device):
    param = Parameter(torch.ones(3, device=device))
    optimizer = fastrank.SGD([param], **MOMENTUM)
    loss = (param * param).sum()
    param.grad = torch.ones_like(param).detach()
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_captured_step_follows_its_learning_rate(mlp, device):
    """Replays, with a step between them that finds its gradients elsewhere, go where PyTorch's for-loop goes."""
    if device.type != "cuda":
        pytest.skip("needs a CUDA device")
    model = mlp.cuda()
    twin, lr = copy.deepcopy(model), torch.tensor(0.1, device="cuda")
    options = {"momentum": 0.9, "weight_decay": 1e-2}
    optimizer = fastrank.SGD(model.parameters(), lr=lr, **options)
    stock = torch.optim.SGD(twin.parameters(), lr=0.1, foreach=False, **options)
    inputs = torch.linspace(-1, 1, 16 * 8, device="cuda").view(16, 8)

    def step(net, optimizer):
        optimizer.zero_grad()
        net(inputs).square().mean().backward()
        optimizer.step()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(model, optimizer)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(model, optimizer)
    schedule = [(0.1, True), (0.05, True), (0.02, False), (0.02, True), (0.01, False)]  # and whether it is replayed
    for rate in [0.1] * 3 + [rate for rate, _ in schedule]:
        stock.param_groups[0]["lr"] = rate
        step(twin, stock)
    kept = []  # so that new gradients are not where the captured ones are
    torch.cuda.set_sync_debug_mode("error")
    try:
        for rate, replayed in schedule:
            lr.fill_(rate)
            graph.replay() if replayed else step(model, optimizer)
            kept.append([p.grad for p in model.parameters()])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(model.state_dict(), twin.state_dict(), rtol=1e-5, atol=1e-6)


def test_a_step_that_cannot_be_captured_names_the_remedy(device):
    if device.type != "cuda":
        pytest.skip("needs a CUDA device")
    param = Parameter(torch.ones(5, device=device))
    param.grad = torch.ones_like(param)
    optimizer = fastrank.SGD([param], lr=0.1, momentum=0.9)
    graph = torch.cuda.CUDAGraph()
    with pytest.raises(RuntimeError, match="take one with the same parameters"), torch.cuda.graph(graph):
        optimizer.step()
