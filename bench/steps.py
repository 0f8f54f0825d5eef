"""Providers of the optimizer's step: SGD with momentum and weight decay over every parameter of a network."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from providers import Provider
from torch import Tensor, nn
from torch.optim.sgd import sgd
from workloads import TOLERANCE, Workload

import fastrank

OPTIONS = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
CHECKED_STEPS = 3
MOST_COMPILED = 300

Call = Callable[[], list[Tensor]]


def make_parameters(workload: Workload, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """A network's parameters with gradients, the same in every process."""
    generator = torch.Generator().manual_seed(0)
    shapes = [*workload.network.matrices, *workload.network.rest]
    return [_with_gradient(torch.randn(shape, generator=generator), dtype, device, generator) for shape in shapes]


def _with_gradient(value: Tensor, dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> Tensor:
    parameter = value.to(device, dtype).requires_grad_()
    parameter.grad = torch.randn(value.shape, generator=generator).to(device, dtype)
    return parameter


def clone(parameters: list[Tensor], dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """Independent parameters with independent gradients: a step works in place."""
    copies = []
    for parameter in parameters:
        assert parameter.grad is not None
        copy = parameter.detach().to(device, dtype, copy=True).requires_grad_()
        copy.grad = parameter.grad.to(device, dtype, copy=True)
        copies.append(copy)
    return copies


def prepare(make: Callable[..., torch.optim.Optimizer], parameters: list[Tensor], **form: Any) -> Call:
    optimizer = make(parameters, **OPTIONS, **form)

    def call() -> list[Tensor]:
        optimizer.step()
        return parameters

    return call


def prepare_tracked(parameters: list[Tensor]) -> Call:
    """The same step with every matrix' rank proven and recorded; its rows are overwritten, for nobody reads them."""
    model = nn.ModuleList([nn.Conv2d(1, 1, 1, bias=False) for _ in parameters])  # which sees kernels as matrices
    for layer, parameter in zip(model, parameters, strict=True):
        layer.weight = nn.Parameter(parameter.detach())
        layer.weight.grad = parameter.grad
    optimizer = fastrank.SGD(model.parameters(), **OPTIONS)
    fastrank.prepare(model, optimizer)
    fastrank.RankTracker(model, optimizer)  # the optimizer's hooks hold it

    def call() -> list[Tensor]:
        optimizer.step()
        return list(model.parameters())

    return call


def prepare_compiled(parameters: list[Tensor]) -> Call:
    """PyTorch's function for the step, compiled once for all lists of tensors of the same shapes."""
    grads = [parameter.grad for parameter in parameters]
    momenta: list[Tensor | None] = [None] * len(parameters)
    if len(parameters) > MOST_COMPILED:
        raise ValueError(f"compiling a step over {len(parameters)} tensors takes minutes")
    # It is compiled twice, without momentum buffers and with them; past its limit it would be eager.
    torch._dynamo.config.recompile_limit = 1024
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    step = torch.compile(sgd)
    options: dict[str, Any] = {"dampening": 0.0, "nesterov": False, "maximize": False, **OPTIONS}

    @torch.no_grad()
    def call() -> list[Tensor]:
        step(parameters, grads, momenta, foreach=parameters[0].is_cuda, **options)
        return parameters

    return call


def relative_error(before: list[Tensor], after: list[Tensor]) -> float:
    """Largest difference from FP64 steps on the CPU, relative to each parameter's largest element.

    `CHECKED_STEPS` steps lead from `before` to `after`. One parameter at a time: FP64 copies of all would be large.
    """
    errors = []
    for start, end in zip(before, after, strict=True):
        (exact,) = clone([start], torch.float64, torch.device("cpu"))
        optimizer = torch.optim.SGD([exact], **OPTIONS)
        for _ in range(CHECKED_STEPS):
            optimizer.step()
        difference = (end.detach().cpu().double() - exact.detach()).abs().max()
        errors.append((difference / exact.detach().abs().max()).item())
    return torch.tensor(errors).amax().item()  # NaN if one is


def continued_error(parameters: list[Tensor], call: Call) -> float:
    """Error of a step of a call that has taken many, relative to each parameter's largest element.

    What a step moves a parameter by tells its momentum; from this, FP64 tells the next step, for which the gradients
    get other values in place. So a call that does not read its gradients, its parameters or its momentum is seen.
    """
    lr, momentum, decay = (OPTIONS[name] for name in ("lr", "momentum", "weight_decay"))
    before = [parameter.detach().clone() for parameter in parameters]
    between = [parameter.detach().clone() for parameter in call()]
    for parameter in parameters:
        assert parameter.grad is not None
        parameter.grad.copy_(-1.5 * parameter.grad.flip(0))
    errors = []
    for first, second, third, parameter in zip(before, between, call(), parameters, strict=True):
        assert parameter.grad is not None
        start, middle, end, gradient = (x.detach().double() for x in (first, second, third, parameter.grad))
        moved = momentum * (start - middle) / lr + gradient + decay * middle
        exact = middle - lr * moved
        errors.append(((end - exact).abs().max() / exact.abs().max()).item())
    return torch.tensor(errors).amax().item()  # NaN if one is


PROVIDERS = (
    Provider("fastrank.SGD", partial(prepare, fastrank.SGD), strict=True, graph=True),
    Provider(
        "fastrank.SGD and RankTracker", prepare_tracked, ("triton",), ("cuda",), strict=True, graph=True,
        kernels=TOLERANCE,
    ),
    Provider("torch SGD fused", partial(prepare, torch.optim.SGD, fused=True), graph=True, telling=True),
    Provider("torch SGD compiled", prepare_compiled, graph=True, telling=True, compiled=True),
    Provider("torch SGD foreach", partial(prepare, torch.optim.SGD, foreach=True), graph=True),
    Provider("torch SGD for-loop", partial(prepare, torch.optim.SGD, foreach=False), graph=True),
)  # fmt: skip
