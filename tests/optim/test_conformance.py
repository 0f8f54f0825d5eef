"""`fastrank.SGD` against `torch.optim.SGD` on PyTorch's own optimizer inputs: 9 configurations x 3 implementations."""

import inspect
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.testing import assert_close

import fastrank.optim

with torch.backends.__allow_nonbracketed_mutation():  # the import would freeze torch.backends' flags for good
    from torch.testing._internal.common_optimizers import optim_db

STEPS = 10
SHAPES = [(), (7,), (5, 3), (4, 3, 3, 3), (33, 17)]
INFO = next(info for info in optim_db if info.optim_cls is torch.optim.SGD)
IMPLEMENTATIONS: dict[str, dict[str, bool]] = {
    "forloop": {"foreach": False, "fused": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}

configurations = pytest.mark.parametrize(
    ("index", "implementation"),
    [
        pytest.param(index, flags, id=f"{given.desc}-{name}")
        for index, given in enumerate(INFO.optim_inputs_func("cpu"))
        for name, flags in IMPLEMENTATIONS.items()
    ],
)
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def options(index: int, implementation: dict[str, bool]) -> dict[str, Any]:
    """A fresh copy each time: the learning rate may be a tensor."""
    return {**INFO.optim_inputs_func("cpu")[index].kwargs, **implementation}


def parameters(dtype: torch.dtype) -> list[Parameter]:
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=generator, dtype=dtype) for shape in SHAPES]
    return [Parameter(value) for value in values] + [Parameter(values[2].t().clone().t())]  # the last is transposed


def set_gradients(params: list[Parameter], step: int, laid_out: bool) -> None:
    """The gradients of a step; after the first step, one parameter in four has none. `laid_out`: as their parameters
    are, without which PyTorch's fused form is wrong."""
    generator = torch.Generator().manual_seed(1 + step)
    for index, param in enumerate(params):
        grad = torch.randn(param.shape, generator=generator, dtype=param.dtype)
        grad = torch.empty_like(param).copy_(grad) if laid_out else grad
        param.grad = None if step and (step + index) % 4 == 0 else grad.detach()


def run(optimizer: torch.optim.Optimizer, params: list[Parameter], steps: range) -> list[list[Tensor]]:
    """Parameters after every step."""
    trajectory = []
    for step in steps:
        set_gradients(params, step, bool(optimizer.param_groups[0]["fused"]))
        optimizer.step()
        trajectory.append([param.detach().clone() for param in params])
    return trajectory


def assert_identical(ours: Any, theirs: Any) -> None:
    assert_close(ours, theirs, rtol=0, atol=0)


def through_a_file(state_dict: dict[str, Any]) -> Any:
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file)


@configurations
@dtypes
def test_trajectory(index: int, implementation: dict[str, bool], dtype: torch.dtype) -> None:
    mine, theirs = parameters(dtype), parameters(dtype)
    ours = fastrank.optim.SGD(mine, **options(index, implementation))
    stock = torch.optim.SGD(theirs, **options(index, implementation))
    assert_identical(run(ours, mine, range(STEPS)), run(stock, theirs, range(STEPS)))
    assert_identical(ours.state_dict(), stock.state_dict())


@configurations
@pytest.mark.parametrize("ours_first", [True, False], ids=["ours-to-torch", "torch-to-ours"])
def test_state_dict_in_mid_trajectory(index: int, implementation: dict[str, bool], ours_first: bool) -> None:
    kinds: list[Callable[..., torch.optim.Optimizer]] = [fastrank.optim.SGD, torch.optim.SGD]
    first, second = kinds if ours_first else kinds[::-1]
    mine, theirs = parameters(torch.float32), parameters(torch.float32)
    source = first(mine, **options(index, implementation))
    run(source, mine, range(5))

    target = second(theirs, lr=123.0)
    with torch.no_grad():
        torch._foreach_copy_(theirs, mine)
    target.load_state_dict(through_a_file(source.state_dict()))
    saved, loaded = source.state_dict(), target.state_dict()
    assert [list(group) for group in saved["param_groups"]] == [list(group) for group in loaded["param_groups"]]
    assert list(saved["state"]) == list(loaded["state"])
    assert_identical(loaded, saved)

    assert_identical(run(target, theirs, range(5, STEPS)), run(source, mine, range(5, STEPS)))
    assert_identical(target.state_dict(), source.state_dict())


def test_default_implementation_is_torch_choice() -> None:
    mine, theirs = parameters(torch.float32), parameters(torch.float32)
    ours = fastrank.optim.SGD(mine, 0.1, 0.9, 0.2, 0.01)  # positional, in PyTorch's order
    stock = torch.optim.SGD(theirs, 0.1, 0.9, 0.2, 0.01)
    assert_identical(run(ours, mine, range(STEPS)), run(stock, theirs, range(STEPS)))
    assert_identical(ours.state_dict(), stock.state_dict())


@pytest.mark.parametrize("foreach", [True, False])
def test_half_precision_and_mixed_dtypes(foreach: bool) -> None:
    def mixed() -> list[Parameter]:
        return parameters(torch.bfloat16) + parameters(torch.float16) + parameters(torch.float64)

    mine, theirs = mixed(), mixed()
    ours = fastrank.optim.SGD(mine, lr=0.1, momentum=0.9, weight_decay=0.01, foreach=foreach)
    stock = torch.optim.SGD(theirs, lr=0.1, momentum=0.9, weight_decay=0.01, foreach=foreach)
    assert_identical(run(ours, mine, range(STEPS)), run(stock, theirs, range(STEPS)))


@pytest.mark.parametrize("kind", [fastrank.optim.SGD, torch.optim.SGD])
@pytest.mark.parametrize(
    "case", INFO.optim_error_inputs_func("cpu", torch.float32), ids=lambda case: case.optimizer_error_input.desc
)
def test_torch_error_inputs(case: Any, kind: type[torch.optim.Optimizer]) -> None:
    given = case.optimizer_error_input
    params = [Parameter(torch.randn(1, 1))] if given.params is None else given.params
    expected = pytest.warns if issubclass(case.error_type, Warning) else pytest.raises
    with expected(case.error_type, match=case.error_regex):
        kind(params, **{"lr": 0.1, **given.kwargs})


@pytest.mark.parametrize(
    "kwargs",
    [
        {"lr": -0.1},
        {"lr": torch.tensor(-0.1)},
        {"weight_decay": -0.1},
        {"nesterov": True},
        {"nesterov": True, "momentum": 0.9, "dampening": 0.1},
        {"fused": True, "differentiable": True},
        {"fused": True, "foreach": True},
    ],
    ids=str,
)
def test_bad_options_are_refused_in_torch_words(kwargs: dict[str, Any]) -> None:
    with pytest.raises((ValueError, RuntimeError)) as stock:
        torch.optim.SGD(parameters(torch.float32), **kwargs)
    with pytest.raises(stock.type) as ours:
        fastrank.optim.SGD(parameters(torch.float32), **kwargs)
    assert str(ours.value) == str(stock.value)


def test_signature_and_type() -> None:
    def described(kind: type) -> list[tuple[str, Any, Any]]:
        return [(p.name, p.kind, p.default) for p in inspect.signature(kind).parameters.values()]

    assert described(fastrank.optim.SGD) == described(torch.optim.SGD)
    assert issubclass(fastrank.optim.SGD, torch.optim.SGD)
