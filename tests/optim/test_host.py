"""The compiled step of a CPU: the bits of PyTorch's for-loop, and when PyTorch's own forms are taken instead."""

import pickle
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.testing import assert_close

import fastrank
from fastrank import backend

pytestmark = pytest.mark.skipif(bool(backend.why_numba_fails()), reason=backend.why_numba_fails())

STEPS = 6
SHAPES = [(), (7,), (33, 17), (0, 3), (4, 3, 3, 3)]
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "decay": {"weight_decay": 0.01},
    "momentum": {"momentum": 0.9},
    "dampening": {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01},
    "nesterov": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "maximize": {"momentum": 0.9, "weight_decay": 0.01, "maximize": True},
    "tensors": {"lr": torch.tensor(0.1), "momentum": 0.9, "weight_decay": torch.tensor(0.01)},
    "double-tensors": {"lr": torch.tensor([0.1], dtype=torch.float64), "weight_decay": torch.tensor(0.01)},
}
options_of_sgd = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())


@pytest.fixture
def by_torch(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The parameter groups that PyTorch's own forms have stepped."""
    stepped: list[dict[str, Any]] = []
    stock = fastrank.SGD._step_group

    def noted(self: Any, group: dict[str, Any], *given: Any) -> None:
        stepped.append(group)
        stock(self, group, *given)

    monkeypatch.setattr(fastrank.SGD, "_step_group", noted)
    return stepped


def odd(value: Tensor, index: int) -> Tensor:
    """`value` in one of three memory layouts without gaps."""
    return value.t().contiguous().t() if value.ndim == 2 and index % 2 else value


def parameters(dtype: torch.dtype) -> list[Parameter]:
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in [*SHAPES, *SHAPES]]
    made = [Parameter(odd(value.to(dtype), index)) for index, value in enumerate(values)]
    made[-1] = Parameter(made[-1].detach().to(memory_format=torch.channels_last))
    return made


def set_gradients(params: list[Parameter], step: int) -> None:
    """Of another layout than their parameters in every third step; at each step one parameter in four has none."""
    generator = torch.Generator().manual_seed(1 + step)
    for index, param in enumerate(params):
        grad = torch.randn(param.shape, generator=generator, dtype=torch.float64).to(param.dtype)
        grad = grad if step % 3 == 2 else torch.empty_like(param).copy_(grad).detach()
        param.grad = None if (step + index) % 4 == 0 else grad


def run(optimizer: torch.optim.Optimizer, params: list[Parameter], steps: range = range(STEPS)) -> Any:
    """All that the steps have changed."""
    found = []
    for step in steps:
        set_gradients(params, step)
        optimizer.step()
        found.append(deepcopy(([param.detach() for param in params], optimizer.state_dict()["state"])))
    return found


def assert_identical(ours: Any, theirs: Any) -> None:
    assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


@options_of_sgd
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_bits_are_those_of_the_for_loop(options: dict[str, Any], dtype: torch.dtype, by_torch: list[Any]) -> None:
    mine, theirs = parameters(dtype), parameters(dtype)
    ours = fastrank.SGD(mine, **{"lr": 0.1, **deepcopy(options)})
    stock = torch.optim.SGD(theirs, foreach=False, **{"lr": 0.1, **deepcopy(options)})
    assert_identical(run(ours, mine), run(stock, theirs))
    assert not by_torch


@options_of_sgd
def test_without_numba_the_bits_are_the_same(
    options: dict[str, Any], by_torch: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "compiled_serve", lambda device: False)
    mine, theirs = parameters(torch.float32), parameters(torch.float32)
    ours = fastrank.SGD(mine, **{"lr": 0.1, **deepcopy(options)})
    stock = torch.optim.SGD(theirs, **{"lr": 0.1, **deepcopy(options)})
    assert_identical(run(ours, mine), run(stock, theirs))
    assert len(by_torch) == STEPS


def test_what_is_not_finite_stays_so_and_elsewhere_nothing_is_seen_of_it() -> None:
    """A weight decay of 0 is left out, or it would make NaN of infinite weights."""
    results = []
    for kind in (fastrank.SGD, torch.optim.SGD):
        param = Parameter(torch.tensor([torch.inf, torch.nan, 1.0, -torch.inf, 2.0, -0.0]))
        optimizer = kind([param], lr=0.1, momentum=0.9)
        for _ in range(3):
            param.grad = torch.tensor([1.0, 1.0, torch.nan, 1.0, 1.0, -0.0])
            optimizer.step()
        results.append([param.detach(), optimizer.state_dict()["state"]])
    assert_identical(results[0], results[1])
    assert results[0][0].isinf().tolist() == [True, False, False, True, False, False]


@pytest.mark.parametrize("share", [1, 7, 100, 561, 10_000])
def test_threads_share_the_work_and_no_bit_depends_on_it(share: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastrank.kernels.cpu import sgd

    stack, alone = parameters(torch.float32)[2:3], parameters(torch.float32)[2:3]
    options: dict[str, Any] = {"momentum": 0.9, "lr": torch.linspace(0.1, 0.9, 33), "weight_decay": 0.1}
    ours, theirs = fastrank.SGD(stack, **options), fastrank.SGD(alone, **options)
    expected = run(theirs, alone)
    monkeypatch.setattr(sgd, "SHARE", share)
    monkeypatch.setattr(sgd, "LEAST", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert_identical(run(ours, stack), expected)


@pytest.mark.parametrize(
    "form",
    [{"fused": True}, {"fused": False}, {"foreach": True}, {"foreach": False}],
    ids=str,
)
def test_a_form_of_pytorch_that_is_asked_for_is_taken(form: dict[str, Any], by_torch: list[Any]) -> None:
    mine = parameters(torch.float32)
    ours = fastrank.SGD(mine, lr=0.1, weight_decay=0.1, **form)
    assert not hasattr(ours, "_step_supports_amp_scaling") or form == {"fused": True}  # what a GradScaler looks at
    run(ours, mine, range(2))
    assert len(by_torch) == 2
    ours.param_groups[0].update(fused=None, foreach=None)
    run(ours, mine, range(2, 4))
    assert len(by_torch) == 2
    ours.param_groups[0].update(form)
    run(ours, mine, range(4, 5))
    assert len(by_torch) == 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.complex64], ids=str)
def test_pytorch_steps_other_dtypes(dtype: torch.dtype, by_torch: list[Any]) -> None:
    mine, theirs = parameters(dtype), parameters(dtype)
    ours, stock = (kind(p, lr=0.1, momentum=0.9) for kind, p in ((fastrank.SGD, mine), (torch.optim.SGD, theirs)))
    assert_identical(run(ours, mine), run(stock, theirs))
    assert len(by_torch) == STEPS


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_fused_is_right_where_pytorch_is_not(momentum: float) -> None:
    """Each value tells which number it has to be: 1 - 0.5 * gradient, in every dtype and layout."""
    gradient = torch.arange(48.0).reshape(6, 8) / 64
    places: dict[str, Callable[[Tensor], Tensor]] = {
        "bfloat16": lambda x: x.bfloat16(),
        "float16": lambda x: x.half(),
        "transposed": lambda x: x.t().contiguous().t(),
        "gaps": lambda x: torch.zeros(6, 16)[:, ::2].copy_(x),
    }
    wrong = set()
    for name, placed in places.items():
        for kind in (fastrank.SGD, torch.optim.SGD):
            param = placed(torch.ones(6, 8)).requires_grad_()
            param.grad = gradient.to(param.dtype)
            optimizer = kind([param], lr=torch.tensor(0.5), momentum=momentum, fused=True)
            optimizer.step()
            right = torch.equal(param.detach().float(), 1 - gradient / 2)
            assert right or kind is torch.optim.SGD
            wrong |= set() if right else {name}
    assert wrong == set(places), "PyTorch has been mended"


def test_a_late_first_gradient_is_an_ordinary_one() -> None:
    mine, theirs = parameters(torch.float32), parameters(torch.float32)
    ours, stock = (kind(p, lr=0.1, momentum=0.9) for kind, p in ((fastrank.SGD, mine), (torch.optim.SGD, theirs)))
    for step in range(2 * len(mine)):
        for params in (mine, theirs):
            set_gradients(params, 3 * step)
            for param in params[step + 1 :]:
                param.grad = None
        ours.step()
        stock.step()
        assert_identical([mine, ours.state_dict()["state"]], [theirs, stock.state_dict()["state"]])


@pytest.mark.parametrize("how", [deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
@options_of_sgd
def test_copies_go_on_by_themselves(how: Callable[[Any], Any], options: dict[str, Any]) -> None:
    params = parameters(torch.float32)
    optimizer = fastrank.SGD(params, **{"lr": 0.1, **deepcopy(options)})
    run(optimizer, params, range(3))
    copied, copy = how((params, optimizer))
    assert_identical(run(copy, copied, range(3, 6)), run(optimizer, params, range(3, 6)))
    assert copy.param_groups[0]["fused"] is None


def test_a_slice_of_a_stack_is_a_model_of_its_own() -> None:
    rates, decays = torch.tensor([0.5, 0.1, 0.0]), torch.tensor([0.0, 0.1, 0.3])
    stack = torch.randn(3, 33, 17, generator=torch.Generator().manual_seed(0))
    together = [Parameter(stack.clone())]
    separate = [[Parameter(part.clone())] for part in stack]
    options = {"momentum": 0.9, "dampening": 0.3}
    optimizers = [
        fastrank.SGD(own, lr=float(lr), weight_decay=float(decay), **options)
        for own, lr, decay in zip(separate, rates, decays, strict=True)
    ]
    stacked = fastrank.SGD(together, lr=rates, weight_decay=decays, **options)
    for step in range(STEPS):
        gradient = torch.randn(stack.shape, generator=torch.Generator().manual_seed(1 + step))
        together[0].grad = gradient
        for (param,), part in zip(separate, gradient, strict=True):
            param.grad = part.clone()
        for optimizer in (stacked, *optimizers):
            optimizer.step()
    assert torch.equal(together[0], torch.stack([param.detach() for (param,) in separate]))


def test_a_tracker_changes_no_bit() -> None:
    results = []
    for tracked in (True, False):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(20, 12), torch.nn.Tanh(), torch.nn.Linear(12, 8))
        optimizer = fastrank.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
        tracker = fastrank.RankTracker(model, optimizer, select="all") if tracked else None
        for step in range(STEPS):
            optimizer.zero_grad()
            model(torch.randn(16, 20, generator=torch.Generator().manual_seed(step))).square().mean().backward()
            optimizer.step()
        results.append(deepcopy((model.state_dict(), optimizer.state_dict())))
        assert tracker is None or len(tracker.latest()) == 2
    assert_identical(results[0], results[1])
