"""Stacked learning rates and weight decays: what is refused, who owns them, and how they are scheduled."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import lr_scheduler
from torch.testing import assert_close

import fastrank.optim


def stack(size: int = 3) -> Parameter:
    return Parameter(torch.ones(size, 4, 5))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": torch.tensor([0.1, -0.2, 0.3])}, r"lr must not be negative: it is -0\.2.* for slice 1"),
        ({"weight_decay": torch.tensor([0.1, 0.2, -0.5])}, r"weight_decay must not be negative: .* for slice 2"),
        ({"lr": torch.ones(2)}, r"lr has shape \(2,\), parameter 0 has shape \(3, 4, 5\)"),
        ({"lr": torch.ones(0)}, r"lr has shape \(0,\), parameter 0"),
        ({"weight_decay": torch.ones(4)}, r"weight_decay has shape \(4,\), parameter 0"),
        ({"weight_decay": torch.ones(1)}, r"weight_decay must be 0-d.*weight_decay has shape \(1,\), parameter 0"),
        ({"lr": torch.ones(3), "weight_decay": torch.ones(2)}, r"weight_decay has shape \(2,\)"),
        ({"lr": torch.ones(3, 4)}, r"lr has shape \(3, 4\), parameter 0"),
        ({"lr": torch.ones(3), "momentum": -1.0}, "Invalid momentum value: -1.0"),
        ({"lr": torch.ones(3), "weight_decay": -1.0}, "Invalid weight_decay value: -1.0"),
        ({"lr": -1.0, "weight_decay": torch.ones(3)}, "Invalid learning rate: -1.0"),
    ],
    ids=str,
)
def test_bad_values_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fastrank.optim.SGD([stack()], **values)


@pytest.mark.parametrize("bad", [Parameter(torch.ones(())), Parameter(torch.ones(4, 3))], ids=["0-d", "4 slices"])
def test_a_parameter_that_is_no_stack_is_named(bad: Parameter) -> None:
    with pytest.raises(ValueError, match=r"parameter 'head\.bias' has shape"):
        fastrank.optim.SGD([("weight", stack()), ("head.bias", bad)], lr=torch.ones(3))
    with pytest.raises(ValueError, match="parameter 1 has shape"):
        fastrank.optim.SGD([stack(), bad], weight_decay=torch.ones(3))


def test_parameters_that_are_no_iterable_are_refused_in_torch_words() -> None:
    with pytest.raises(TypeError, match="params argument given to the optimizer should be an iterable"):
        fastrank.optim.SGD(stack(), lr=torch.ones(3))
    with pytest.raises(ValueError, match="optimizer got an empty parameter list"):
        fastrank.optim.SGD([], lr=torch.ones(3))
    with pytest.raises(TypeError, match="param_group must be a dict"):
        fastrank.optim.SGD([{"params": [stack()]}, stack()], lr=torch.ones(3))  # type: ignore[list-item]


def test_a_refused_group_leaves_the_optimizer_as_it_was() -> None:
    optimizer = fastrank.optim.SGD([stack()], lr=torch.ones(3))
    param = stack()
    for lr in (torch.ones(2), torch.tensor([1.0, -1.0, 1.0])):
        with pytest.raises(ValueError, match="lr"):
            optimizer.add_param_group({"params": [param], "lr": lr})
        assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": [param]})
    assert_close(optimizer.param_groups[1]["lr"], torch.ones(3))


@pytest.mark.parametrize("replacement", [torch.ones(2), torch.ones(3, 1)], ids=["too short", "2-d"])
def test_a_bad_value_put_in_later_is_named_by_the_step(replacement: Tensor) -> None:
    param = stack()
    optimizer = fastrank.optim.SGD([param], lr=torch.ones(3), momentum=0.9)
    param.grad = torch.ones_like(param)
    optimizer.param_groups[0]["lr"] = replacement
    with pytest.raises(ValueError, match="lr has shape"):
        optimizer.step()
    assert optimizer.state_dict()["state"] == {}
    assert param.eq(1).all()


def test_sparse_gradients_are_refused() -> None:
    table = Parameter(torch.ones(3, 4))
    optimizer = fastrank.optim.SGD([table], lr=torch.ones(3))
    table.grad = torch.sparse_coo_tensor([[0]], torch.ones(1, 4), (3, 4), check_invariants=True)
    with pytest.raises(RuntimeError, match="stacked lr takes no sparse gradients"):
        optimizer.step()
    assert table.eq(1).all()


def test_every_group_owns_its_values() -> None:
    """One tensor shared by two groups would be scaled twice by a loop over groups."""
    lr = torch.tensor([0.1, 0.2, 0.3])
    optimizer = fastrank.optim.SGD([{"params": [stack()]}, {"params": [stack()]}], lr=lr)
    for group in optimizer.param_groups:
        group["lr"].mul_(0.5)
    assert_close([group["lr"] for group in optimizer.param_groups], [lr * 0.5, lr * 0.5])
    assert_close(lr, torch.tensor([0.1, 0.2, 0.3]))
    assert "0.0500, 0.1000, 0.1500" in repr(optimizer)


def test_a_group_keeps_its_own_values() -> None:
    groups = [
        {"params": [stack(2)], "lr": torch.tensor([1.0, 2.0])},
        {"params": [Parameter(torch.ones(()))], "lr": 3.0},
    ]
    optimizer = fastrank.optim.SGD([*groups, {"params": [stack()]}], lr=torch.ones(3))
    assert_close([group["lr"] for group in optimizer.param_groups], [torch.tensor([1.0, 2.0]), 3.0, torch.ones(3)])


SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "LambdaLR": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.9**epoch),
    "MultiplicativeLR": lambda optimizer: lr_scheduler.MultiplicativeLR(optimizer, lambda epoch: 0.9),
    "MultiStepLR": lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [1, 3], gamma=0.2),
    "StepLR": lambda optimizer: lr_scheduler.StepLR(optimizer, 2, gamma=0.5),
    "ConstantLR": lambda optimizer: lr_scheduler.ConstantLR(optimizer, total_iters=2),
    "LinearLR": lambda optimizer: lr_scheduler.LinearLR(optimizer, total_iters=3),
    "ExponentialLR": lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.9),
    "PolynomialLR": lambda optimizer: lr_scheduler.PolynomialLR(optimizer, total_iters=4),
    "CosineAnnealingLR": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 4),
}
schedulers = pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS.keys())


@schedulers
def test_torch_schedulers_refuse_a_stacked_lr(make: Callable[[Any], Any]) -> None:
    """As the class's documentation says. When one of them no longer does, it is to be mended there."""
    optimizer = fastrank.optim.SGD([stack()], lr=torch.tensor([0.1, 0.2, 0.3]))
    with pytest.raises(RuntimeError, match="0-dimension"):
        make(optimizer)
    assert_close(optimizer.param_groups[0]["lr"], torch.tensor([0.1, 0.2, 0.3]))


def test_reduce_on_plateau_refuses_a_stacked_lr_when_it_reduces() -> None:
    scheduler = lr_scheduler.ReduceLROnPlateau(fastrank.optim.SGD([stack()], lr=torch.ones(3)), patience=0)
    scheduler.step(1.0)
    with pytest.raises((ValueError, RuntimeError), match="converted to"):
        scheduler.step(2.0)


def test_one_cycle_gives_every_slice_the_same_lr() -> None:
    optimizer = fastrank.optim.SGD([stack()], lr=torch.tensor([0.1, 0.2, 0.3]), momentum=0.9)
    lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=10)
    assert optimizer.param_groups[0]["lr"].unique().tolist() == pytest.approx([1.0 / 25])


@schedulers
def test_schedulers_work_with_a_stacked_weight_decay(make: Callable[[Any], Any]) -> None:
    param, theirs = stack(2), Parameter(torch.ones(4, 5))
    ours = fastrank.optim.SGD([param], lr=0.1, weight_decay=torch.tensor([0.0, 0.2]))
    stock = torch.optim.SGD([theirs], lr=0.1, weight_decay=0.2)
    for optimizer, p in ((ours, param), (stock, theirs)):
        scheduler = make(optimizer)
        for _ in range(6):
            p.grad = torch.full_like(p, 0.5)
            optimizer.step()
            scheduler.step()
    assert_close(param[1], theirs)


def test_milestones_by_hand() -> None:
    """The remedy that the class's documentation gives, against a scheduler on separate models."""
    lr = torch.tensor([0.1, 0.2, 0.3])
    param = stack()
    optimizer = fastrank.optim.SGD([param], lr=lr, momentum=0.9)
    separate = [Parameter(torch.ones(4, 5)) for _ in range(3)]
    stock = [torch.optim.SGD([p], lr=value, momentum=0.9) for p, value in zip(separate, lr.tolist(), strict=True)]
    scheduled = [lr_scheduler.MultiStepLR(one, [2, 4], gamma=0.2) for one in stock]
    for epoch in range(1, 7):
        for p in (param, *separate):
            p.grad = p.detach() * 0.5
        for one in (optimizer, *stock, *scheduled):
            one.step()
        if epoch in (2, 4):
            for group in optimizer.param_groups:
                group["lr"].mul_(0.2)
    assert_close(param.detach(), torch.stack([p.detach() for p in separate]))
