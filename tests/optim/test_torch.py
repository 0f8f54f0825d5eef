"""What PyTorch's optimizers do besides arithmetic: closures, hooks, schedulers, copies, odd parameters, compilation."""

import pickle
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import lr_scheduler
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.testing import assert_close

import fastrank.optim

Kind = type[torch.optim.SGD]
BOTH: list[Kind] = [fastrank.optim.SGD, torch.optim.SGD]
IMPLEMENTATIONS = [{"foreach": False}, {"foreach": True}, {"fused": True}]


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))


def loss_of(net: torch.nn.Module, step: int) -> Tensor:
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
    return (net(x) - x[:, :2].sin()).square().mean()


def train(net: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        loss_of(net, step).backward()
        optimizer.step()


def assert_identical(ours: Any, theirs: Any) -> None:
    assert_close(ours, theirs, rtol=0, atol=0)


@pytest.fixture(autouse=True)
def _global_generator_as_found() -> Iterator[None]:
    with torch.random.fork_rng():
        yield


def test_closure_runs_with_grad_before_gradients_are_read() -> None:
    nets = [model(), model()]
    for net, kind in zip(nets, BOTH, strict=True):
        optimizer = kind(net.parameters(), lr=0.1, momentum=0.9)
        for step in range(5):

            def closure(net: torch.nn.Module = net, step: int = step) -> Tensor:
                for param in net.parameters():
                    param.grad = None  # whatever was there is not what the step may use
                loss = loss_of(net, step)
                loss.backward()
                return loss

            with torch.no_grad():
                loss = optimizer.step(closure)  # type: ignore[arg-type]
            assert loss is not None
            assert not torch.equal(loss, loss_of(net, step))  # the loss before the step
    assert_identical(nets[0].state_dict(), nets[1].state_dict())


def test_closure_of_an_overflowing_step_is_run_and_its_value_returned() -> None:
    param = Parameter(torch.ones(2))
    optimizer: Any = fastrank.optim.SGD([param], lr=0.1, momentum=0.9, fused=True)
    optimizer.found_inf, optimizer.grad_scale = torch.tensor(1.0), None

    def closure() -> float:
        param.grad = torch.full((2,), torch.inf)
        return 7.0

    assert optimizer.step(closure) == 7.0
    assert param.eq(1).all()


@pytest.mark.parametrize("stock_first", [True, False])  # PyTorch wraps step once a class, the base's as well
def test_step_hooks_run_once_each_and_in_order(stock_first: bool) -> None:
    calls: list[str] = []
    param = Parameter(torch.ones(2))
    if stock_first:
        torch.optim.SGD([Parameter(torch.ones(1))], lr=0.1)
    optimizer = fastrank.optim.SGD([param], lr=0.1)
    param.grad = torch.ones(2)
    handles = [
        register_optimizer_step_pre_hook(lambda *_: calls.append("global pre")),
        register_optimizer_step_post_hook(lambda *_: calls.append("global post")),
    ]
    optimizer.register_step_pre_hook(lambda *_: calls.append(f"pre {param[0].item():.1f}"))
    optimizer.register_step_post_hook(lambda *_: calls.append(f"post {param[0].item():.1f}"))
    optimizer.step()
    for handle in handles:
        handle.remove()
    assert calls == ["global pre", "pre 1.0", "post 0.9", "global post"]


def test_state_dict_hooks() -> None:
    calls: list[str] = []
    optimizer = fastrank.optim.SGD([Parameter(torch.ones(2))], lr=0.1)
    optimizer.register_state_dict_pre_hook(lambda _: calls.append("save"))
    optimizer.register_state_dict_post_hook(lambda _, state: state | {"extra": 1})
    optimizer.register_load_state_dict_pre_hook(lambda _, state: calls.append(f"load {state.pop('extra')}"))
    optimizer.register_load_state_dict_post_hook(lambda _: calls.append("loaded"))
    optimizer.load_state_dict(optimizer.state_dict())
    assert calls == ["save", "load 1", "loaded"]


@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1), torch.tensor([0.1])], ids=["float", "0-d", "1-element"])
@pytest.mark.parametrize(
    "make",
    [
        lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [2, 4], gamma=0.2),
        lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.9**epoch),
        lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 6),
        lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=10),
        lambda optimizer: lr_scheduler.SequentialLR(
            optimizer,
            [lr_scheduler.LinearLR(optimizer, total_iters=2), lr_scheduler.ExponentialLR(optimizer, 0.9)],
            [2],
        ),
    ],
    ids=["MultiStepLR", "LambdaLR", "CosineAnnealingLR", "OneCycleLR", "SequentialLR"],
)
def test_schedulers(make: Callable[[Any], Any], lr: float | Tensor) -> None:
    nets = [model(), model()]
    rates: list[list[float]] = []
    for net, kind in zip(nets, BOTH, strict=True):
        optimizer = kind(net.parameters(), lr=deepcopy(lr), momentum=0.9)
        scheduler = make(optimizer)
        rates.append([])
        for step in range(6):
            train(net, optimizer, range(step, step + 1))
            scheduler.step()
            rates[-1].append(float(optimizer.param_groups[0]["lr"]))
    assert rates[0] == rates[1]
    assert_identical(nets[0].state_dict(), nets[1].state_dict())


def test_parameter_groups_and_names() -> None:
    nets = [model(), model()]
    optimizers = []
    for net, kind in zip(nets, BOTH, strict=True):
        first, *rest = net.named_parameters()
        optimizer = kind([{"params": [first], "lr": 0.3, "nesterov": True}], lr=0.1, momentum=0.9)
        train(net, optimizer, range(3))
        optimizer.add_param_group({"params": rest, "weight_decay": torch.tensor(0.1), "momentum": 0.0})
        train(net, optimizer, range(3, 6))
        optimizers.append(optimizer)
    assert optimizers[0].param_groups[1]["param_names"] == ["0.bias", "2.weight", "2.bias"]
    assert repr(optimizers[0]) == repr(optimizers[1])
    assert_identical(nets[0].state_dict(), nets[1].state_dict())


@pytest.mark.parametrize("how", [deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS, ids=str)
def test_copies_go_on_by_themselves(how: Callable[[Any], Any], implementation: dict[str, bool]) -> None:
    net = model()
    optimizer = fastrank.optim.SGD(net.parameters(), lr=torch.tensor(0.1), momentum=0.9, **implementation)
    train(net, optimizer, range(4))
    kept = deepcopy(net.state_dict())
    net_copy, optimizer_copy = how((net, optimizer))
    assert type(optimizer_copy) is fastrank.optim.SGD
    train(net_copy, optimizer_copy, range(4, 8))
    assert_identical(net.state_dict(), kept)
    train(net, optimizer, range(4, 8))
    assert_identical(net_copy.state_dict(), net.state_dict())
    assert_identical(optimizer_copy.state_dict(), optimizer.state_dict())


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("kind_of_parameter", ["sparse", "complex"])
def test_sparse_gradients_and_complex_parameters(momentum: float, foreach: bool, kind_of_parameter: str) -> None:
    results = []
    for kind in BOTH:
        generator = torch.Generator().manual_seed(0)
        dtype = torch.complex64 if kind_of_parameter == "complex" else torch.float32
        table = Parameter(torch.randn(6, 3, generator=generator, dtype=dtype))
        dense = Parameter(torch.randn(4, generator=generator))
        optimizer = kind([table, dense], lr=0.1, momentum=momentum, foreach=foreach)
        for _ in range(5):
            values = torch.randn(3, 3, generator=generator, dtype=dtype)
            rows = torch.tensor([[0, 4, 4]])  # uncoalesced
            grad = torch.sparse_coo_tensor(rows, values, (6, 3), check_invariants=True)
            table.grad = grad if kind_of_parameter == "sparse" else grad.to_dense()
            dense.grad = torch.randn(4, generator=generator)
            optimizer.step()
        results.append([table.detach(), dense.detach()])
    assert_identical(results[0], results[1])


def test_fused_refuses_what_torch_refuses() -> None:
    for kind in BOTH:
        for momentum in (0.0, 0.9):
            table = Parameter(torch.ones(3, 2))
            optimizer = kind([table], lr=0.1, momentum=momentum, fused=True)
            table.grad = torch.sparse_coo_tensor([[0]], torch.ones(1, 2), (3, 2), check_invariants=True)
            with pytest.raises(RuntimeError, match="does not support sparse gradients"):
                optimizer.step()
        weight = Parameter(torch.ones(2, dtype=torch.complex64))
        optimizer = kind([weight], lr=0.1, fused=True)
        weight.grad = torch.ones_like(weight)
        with pytest.raises(RuntimeError, match="requires all the params to be floating point"):
            optimizer.step()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_differentiable(momentum: float) -> None:
    results = []
    for kind in BOTH:
        start = torch.tensor([1.0, 2.0], requires_grad=True)
        lr = torch.tensor(0.1, requires_grad=momentum == 0)  # PyTorch cannot have both
        param = start.clone()
        optimizer = kind([param], lr=lr, momentum=momentum, weight_decay=0.1, differentiable=True)
        for _ in range(3):
            before = param.clone()
            (param.grad,) = torch.autograd.grad(before.pow(3).sum(), before, create_graph=True)
            optimizer.step()
        wanted = (start, lr) if lr.requires_grad else (start,)
        results.append(torch.autograd.grad(param.sum(), wanted))
    assert_identical(results[0], results[1])
