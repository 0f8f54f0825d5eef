"""A stack of E models in one group follows E separate `torch.optim.SGD` runs."""

import itertools
import pickle
import platform
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import Parameter
from torch.testing import assert_close

import fastrank.optim

E = 4
SHAPES = [(), (7,), (5, 3), (2, 3, 3, 3), (33, 17)]  # of a slice
LR = torch.tensor([0.5, 0.1, 0.013, 0.0])
DECAY = torch.tensor([0.0, 0.01, 0.3, 0.1])
STEPS = 10

# (momentum, dampening, nesterov), every combination that SGD accepts
MOMENTA = [(0.0, 0.0, False), (0.9, 0.0, False), (0.9, 0.3, False), (0.9, 0.0, True)]
VALUES: dict[str, dict[str, Any]] = {
    "both-stacked": {"lr": LR, "weight_decay": DECAY},
    "lr-stacked": {"lr": LR, "weight_decay": 0.02},
    "lr-stacked-without-decay": {"lr": LR, "weight_decay": 0.0},
    "decay-stacked": {"lr": 0.1, "weight_decay": DECAY},
    "decay-stacked-lr-0d": {"lr": torch.tensor(0.1), "weight_decay": DECAY},
    "decay-stacked-lr-1-element": {"lr": torch.tensor([0.1]), "weight_decay": DECAY},
    "lr-stacked-decay-0d": {"lr": LR, "weight_decay": torch.tensor(0.02)},
    "float64-values": {"lr": LR.double(), "weight_decay": DECAY.double()},
}


def stack_of(dtype: torch.dtype) -> list[Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [Parameter(torch.randn((E, *shape), generator=generator, dtype=dtype)) for shape in SHAPES]


def set_gradients(params: list[Parameter], step: int) -> None:
    """Those of sum(w^3/30 - w^2/20): each multiplication rounds alone, so stacked and separate ones are equal."""
    for index, param in enumerate(params):
        w = param.detach()
        param.grad = None if (step + index) % 5 == 3 else w * 0.1 * w - w * 0.1


def number(value: float | Tensor, index: int) -> float | Tensor:
    """A slice's own value, as PyTorch takes it."""
    return value if not isinstance(value, Tensor) or value.numel() == 1 else value[index].item()


def separate_runs(dtype: torch.dtype, values: dict[str, Any], **options: Any) -> list[Tensor]:
    """The stack's parameters after STEPS steps of E models with an optimizer each."""
    slices = []
    for index in range(E):
        params = [Parameter(param.detach()[index].clone()) for param in stack_of(dtype)]
        own = {name: number(value, index) for name, value in values.items()}
        optimizer = torch.optim.SGD(params, foreach=False, **own, **options)
        for step in range(STEPS):
            set_gradients(params, step)
            optimizer.step()
        slices.append(params)
    return [torch.stack([param.detach() for param in column]) for column in zip(*slices, strict=True)]


def stacked_run(dtype: torch.dtype, **options: Any) -> list[Tensor]:
    params = stack_of(dtype)
    optimizer = fastrank.optim.SGD(params, **options)
    for step in range(STEPS):
        set_gradients(params, step)
        optimizer.step()
    return [param.detach() for param in params]


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES.keys())
@pytest.mark.parametrize("maximize", [False, True], ids=["min", "max"])
@pytest.mark.parametrize(("momentum", "dampening", "nesterov"), MOMENTA)
def test_every_slice_is_a_model_of_its_own(
    values: dict[str, Any], maximize: bool, momentum: float, dampening: float, nesterov: bool
) -> None:
    options = {"momentum": momentum, "dampening": dampening, "nesterov": nesterov, "maximize": maximize}
    for dtype in (torch.float32, torch.float64):
        stacked = stacked_run(dtype, **values, **options)
        separate = separate_runs(dtype, values, **options)
        if platform.machine() in ("x86_64", "AMD64"):
            assert all(torch.equal(a, b) for a, b in zip(stacked, separate, strict=True))
        # Elsewhere addcmul and add may round differently: 3 operations a step, half an ulp each, over 10 steps.
        assert_close(stacked, separate, rtol=0, atol=30 * torch.finfo(dtype).eps * separate[-1].abs().max().item())


@pytest.mark.parametrize("implementation", [{"foreach": True}, {"fused": True}], ids=str)
def test_implementation_flags_do_not_matter(implementation: dict[str, bool]) -> None:
    values = VALUES["both-stacked"]
    flagged = stacked_run(torch.float32, **values, **implementation, momentum=0.9)
    assert_close(flagged, stacked_run(torch.float32, **values, momentum=0.9), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(dtype: torch.dtype) -> None:
    """With values that the dtype holds exactly, equal to separate runs."""
    values = {"lr": torch.tensor([0.5, 0.125, 0.25, 0.0]), "weight_decay": torch.tensor([0.0, 0.25, 0.5, 0.125])}
    stacked = stacked_run(dtype, **values, momentum=0.5)
    assert_close(stacked, separate_runs(dtype, values, momentum=0.5), rtol=0, atol=0)


def test_half_precision_does_not_round_the_learning_rate() -> None:
    """1.003 is 1 in bfloat16: PyTorch on a CPU takes 1000 away, and 1003 is asked for (in steps of 4)."""
    param = Parameter(torch.zeros(2, 1, dtype=torch.bfloat16))
    optimizer = fastrank.optim.SGD([param], lr=torch.tensor([1.003, 1.0]))
    param.grad = torch.full((2, 1), 1000.0, dtype=torch.bfloat16)
    optimizer.step()
    assert param.flatten().tolist() == [-1004.0, -1000.0]


def test_complex() -> None:
    values = VALUES["both-stacked"]
    stacked = stacked_run(torch.complex64, **values, momentum=0.9)
    assert_close(stacked, separate_runs(torch.complex64, values, momentum=0.9))


def test_stack_of_one() -> None:
    params, theirs = ([Parameter(torch.ones(1, 3))] for _ in range(2))
    ours = fastrank.optim.SGD(params, lr=torch.tensor([0.1]), weight_decay=torch.tensor([0.2]))
    stock = torch.optim.SGD(theirs, lr=0.1, weight_decay=0.2)
    for optimizer, (param,) in ((ours, params), (stock, theirs)):
        param.grad = torch.full((1, 3), 0.5)
        optimizer.step()
    assert_close(params, theirs, rtol=0, atol=0)


def test_a_slice_that_diverges_does_not_touch_the_others() -> None:
    params, healthy = stack_of(torch.float32), stack_of(torch.float32)
    for group, poison in ((params, torch.nan), (healthy, 0.0)):
        optimizer = fastrank.optim.SGD(group, **VALUES["both-stacked"], momentum=0.9)
        for _, param in itertools.product(range(3), group):
            param.grad = torch.ones_like(param)
            param.grad[1] = poison
            optimizer.step()
    for ours, theirs in zip(params, healthy, strict=True):
        assert ours[1].isnan().all()
        assert_close(ours[[0, 2, 3]], theirs[[0, 2, 3]], rtol=0, atol=0)


def test_gradients_zeroed_in_place_leave_the_momentum_alone() -> None:
    param = Parameter(torch.ones(2, 3))
    optimizer = fastrank.optim.SGD([param], lr=torch.ones(2), momentum=0.9)
    param.grad = torch.ones(2, 3)
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    assert optimizer.state[param]["momentum_buffer"].eq(1).all()


def test_ordinary_groups_beside_stacked_ones() -> None:
    plain, theirs = Parameter(torch.ones(3)), Parameter(torch.ones(3))
    stack = stack_of(torch.float32)
    groups = [{"params": [plain], "lr": 0.1, "weight_decay": 0.0}, {"params": stack}]
    ours = fastrank.optim.SGD(groups, **VALUES["both-stacked"], momentum=0.9)
    stock = torch.optim.SGD([theirs], lr=0.1, momentum=0.9)
    for step in range(STEPS):
        set_gradients(stack, step)
        plain.grad = theirs.grad = torch.full((3,), 0.25)
        ours.step()
        stock.step()
    assert_close(plain, theirs, rtol=0, atol=0)
    assert_close([p.detach() for p in stack], stacked_run(torch.float32, **VALUES["both-stacked"], momentum=0.9))


def test_resume_from_a_state_dict_a_pickle_and_a_copy() -> None:
    whole = stacked_run(torch.float32, **VALUES["both-stacked"], momentum=0.9)
    for way in ("state_dict", "deepcopy", "pickle"):
        params = stack_of(torch.float32)
        optimizer = fastrank.optim.SGD(params, **VALUES["both-stacked"], momentum=0.9)
        for step in range(STEPS):
            if step == 4 and way == "state_dict":
                saved = optimizer.state_dict()
                optimizer = fastrank.optim.SGD(params, lr=1.0)
                optimizer.load_state_dict(saved)
            elif step == 4 and way == "deepcopy":
                params, optimizer = deepcopy((params, optimizer))
            elif step == 4:
                params, optimizer = pickle.loads(pickle.dumps((params, optimizer)))
            set_gradients(params, step)
            optimizer.step()
        assert_close([param.detach() for param in params], whole, rtol=0, atol=0)


def test_no_value_is_read_by_the_host() -> None:
    """A fake tensor has no value to read: asking for one raises."""
    with FakeTensorMode():
        params = [Parameter(torch.empty(E, 5, 3))]
        optimizer: Any = fastrank.optim.SGD(params, lr=0.1, momentum=0.9, fused=True)
        optimizer.param_groups[0].update(lr=torch.empty(E), weight_decay=torch.empty(E))
        params[0].grad = torch.empty(E, 5, 3)
        optimizer.step()
        optimizer.grad_scale, optimizer.found_inf = torch.empty(()), torch.empty(())
        optimizer.step()


def test_differentiable_gives_the_gradient_of_every_learning_rate() -> None:
    lr, decay = torch.tensor([0.1, 0.2], requires_grad=True), torch.tensor([0.3, 0.4], requires_grad=True)
    start = torch.tensor([[1.0], [2.0]], requires_grad=True)
    param = start.clone()
    optimizer = fastrank.optim.SGD([param], lr=lr, weight_decay=decay, differentiable=True)
    param.grad = torch.tensor([[5.0], [7.0]])
    optimizer.step()
    param.sum().backward()
    assert_close(lr.grad, -torch.tensor([5.0 + 0.3 * 1.0, 7.0 + 0.4 * 2.0]))
    assert_close(decay.grad, -torch.tensor([0.1 * 1.0, 0.2 * 2.0]))
    assert_close(start.grad, torch.tensor([[1 - 0.1 * 0.3], [1 - 0.2 * 0.4]]))
