"""Mixed precision: overflow changes nothing, and a late first gradient is an ordinary one."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.testing import assert_close

import fastrank.optim

SHAPES = [(), (7,), (5, 3), (2, 3, 3, 3)]
STACK = 4
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"weight_decay": 0.01},
    "momentum": {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01},
    "nesterov": {"momentum": 0.9, "nesterov": True, "maximize": True},
}
options_of_sgd = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
fused_or_not = pytest.mark.parametrize("fused", [True, False], ids=["fused", "forloop"])


def parameters(*, stacked: bool = False) -> list[Parameter]:
    generator = torch.Generator().manual_seed(0)
    lead = (STACK,) if stacked else ()
    return [Parameter(torch.randn(lead + shape, generator=generator)) for shape in SHAPES]


def gradients(params: list[Parameter], step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1 + step)
    return [torch.randn(param.shape, generator=generator) for param in params]


def snapshot(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> Any:
    return deepcopy(([param.detach() for param in params], optimizer.state_dict()))


def assert_identical(ours: Any, theirs: Any) -> None:
    assert_close(ours, theirs, rtol=0, atol=0)


def overflow(optimizer: Any, params: list[Parameter], found_inf: float = 1.0) -> None:
    """A step as `GradScaler` has an optimizer take it after an overflow."""
    for param in params:
        param.grad = torch.full_like(param, torch.inf)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(2.0**16), torch.tensor(found_inf)
    optimizer.step()
    del optimizer.grad_scale, optimizer.found_inf


def steps(optimizer: torch.optim.Optimizer, params: list[Parameter], which: range) -> None:
    for step in which:
        for param, grad in zip(params, gradients(params, step), strict=True):
            param.grad = grad
        optimizer.step()


@options_of_sgd
@fused_or_not
@pytest.mark.parametrize("stacked", [False, True], ids=["numbers", "stack"])
@pytest.mark.parametrize("bad", [{0}, {0, 1}, {3}, {0, 4, 5}, set()], ids=str)
def test_grad_scaler(options: dict[str, Any], fused: bool, stacked: bool, bad: set[int]) -> None:
    """Steps that overflow leave everything as it was; the others are those of a run without a scaler."""
    lr: float | Tensor = torch.tensor([0.5, 0.1, 0.01, 0.0]) if stacked else 0.1
    params, unscaled = parameters(stacked=stacked), parameters(stacked=stacked)
    optimizer = fastrank.optim.SGD(params, lr=lr, fused=fused, **options)
    reference = fastrank.optim.SGD(unscaled, lr=lr, fused=fused, **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    for step in range(8):
        optimizer.zero_grad()
        coefficients = gradients(params, step)
        if step in bad:
            coefficients[2][1] = torch.inf
        loss = torch.stack([(p * c).sum() for p, c in zip(params, coefficients, strict=True)]).sum()
        scaler.scale(loss).backward()
        before = snapshot(optimizer, params)
        scaler.step(optimizer)
        scaler.update()
        if step in bad:
            assert_identical(snapshot(optimizer, params), before)
        else:
            steps(reference, unscaled, range(step, step + 1))
    assert scaler.get_scale() == 2.0 ** (8 - len(bad))
    assert_identical(snapshot(optimizer, params), snapshot(reference, unscaled))


@options_of_sgd
@pytest.mark.parametrize("found_inf", [1.0, 2.0], ids=["one-device", "two-devices"])
@pytest.mark.parametrize("when", [0, 2], ids=["first-step", "later-step"])
def test_fused_overflow_touches_nothing(options: dict[str, Any], found_inf: float, when: int) -> None:
    params, stacks = parameters(), parameters(stacked=True)
    optimizer = fastrank.optim.SGD(params, lr=0.1, fused=True, **options)
    optimizer.add_param_group({"params": stacks, "lr": torch.tensor([0.1, 0.2, 0.3, 0.4])})
    steps(optimizer, params + stacks, range(when))
    before = snapshot(optimizer, params + stacks)
    overflow(optimizer, params + stacks, found_inf)
    assert_identical(snapshot(optimizer, params + stacks), before)


def test_fused_overflow_where_one_parameter_is_due_its_first_buffer() -> None:
    params = parameters()
    optimizer = fastrank.optim.SGD(params, lr=0.1, momentum=0.9, fused=True)
    steps(optimizer, params[:2], range(3))
    before = snapshot(optimizer, params)
    overflow(optimizer, params)
    assert list(optimizer.state_dict()["state"]) == [0, 1]
    assert_identical(snapshot(optimizer, params), before)


def test_stock_fused_overflow_is_still_wrong() -> None:
    """The control: what the tests above look for does happen. If it no longer does, PyTorch has been mended."""
    params = parameters()
    stock = torch.optim.SGD(params, lr=0.1, momentum=0.9, fused=True)
    overflow(stock, params)
    assert "momentum_buffer" in stock.state_dict()["state"][0], "PyTorch now leaves the state alone on overflow"
    stock = torch.optim.SGD(params, lr=0.1, fused=True)
    overflow(stock, params, found_inf=2.0)
    assert params[0].isinf(), "PyTorch now sees an overflow on two devices"


def late_run(kind: Any, params: list[Parameter], **options: Any) -> None:
    """Parameter i gets its first gradient at step i, and misses one later on."""
    optimizer = kind(params, lr=0.1, **options)
    for step in range(8):
        for index, (param, grad) in enumerate(zip(params, gradients(params, step), strict=True)):
            param.grad = grad if index <= step and index != step - 4 else None
        optimizer.step()


@options_of_sgd
def test_fused_late_first_gradients(options: dict[str, Any]) -> None:
    late, alone, forloop = parameters(), parameters(), parameters()
    late_run(fastrank.optim.SGD, late, fused=True, **options)
    for index in range(len(alone)):  # PyTorch's fused update can do it for one parameter in an optimizer of its own
        optimizer = torch.optim.SGD([alone[index]], lr=0.1, fused=True, **options)
        for step in range(index, 8):
            alone[index].grad = gradients(alone, step)[index] if index != step - 4 else None
            optimizer.step()
    assert_identical(late, alone)
    late_run(torch.optim.SGD, forloop, foreach=False, **options)
    # The fused kernel adds up in another order than the loop: a few roundings of 6e-8 a step, on numbers of order 1.
    assert_close(late, forloop, rtol=1e-5, atol=1e-6)


def test_stock_fused_still_fails_on_a_late_first_gradient() -> None:
    """The control: if this no longer raises, PyTorch has been mended."""
    with pytest.raises((TypeError, RuntimeError)):
        late_run(torch.optim.SGD, parameters(), momentum=0.9, fused=True)


def test_fused_unscales_as_torch_does() -> None:
    params, theirs = parameters(), parameters()
    ours: Any = fastrank.optim.SGD(params, lr=0.1, momentum=0.9, fused=True)
    stock: Any = torch.optim.SGD(theirs, lr=0.1, momentum=0.9, fused=True)
    for optimizer in (ours, stock):
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(3.0), torch.tensor(0.0)
    steps(ours, params, range(3))
    steps(stock, theirs, range(3))
    assert_identical(snapshot(ours, params), snapshot(stock, theirs))
    assert_identical([p.grad for p in params], [p.grad for p in theirs])


def test_a_float16_stack_is_unscaled_by_more_than_float16_holds() -> None:
    param = Parameter(torch.ones(2, 1, dtype=torch.float16))
    optimizer: Any = fastrank.optim.SGD([param], lr=torch.tensor([1.0, 2.0]), fused=True)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor([2.0**16]), torch.tensor(0.0)
    param.grad = torch.full((2, 1), 1024.0, dtype=torch.float16)
    optimizer.step()
    assert param.flatten().tolist() == [1 - 1 / 64, 1 - 2 / 64]
