"""Which steps are followed: of optimizers inside wrappers, of several, and not of those that train nothing."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from six_inputs import gradients
from torch.optim import Optimizer

import fastrank
from fastrank import RankTracker

NEVER = pytest.warns(UserWarning, match=r"has never stepped .* nothing was recorded")


class Accelerated(Optimizer):
    """A subclass that never calls `Optimizer.__init__`, as Accelerate's is."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    @property
    def param_groups(self):
        return self.optimizer.param_groups

    def step(self, closure=None):
        self.optimizer.step(closure)


class Plain:
    """No subclass at all, as Lightning's is: it only has the attribute."""

    def __init__(self, optimizer):
        self._optimizer = optimizer

    @property
    def optimizer(self):
        return self._optimizer

    def step(self):
        self._optimizer.step()


class Averager:
    """Halves the weights, as if those of another process were 0."""

    @torch.no_grad()
    def average_parameters(self, params):
        for group in params:
            for parameter in group["params"]:
                parameter.mul_(0.5)


class Lookahead:
    """Pulls the weights back after every second step of the optimizer inside."""

    def __init__(self, optimizer):
        self.optimizer, self.steps = optimizer, 0

    @torch.no_grad()
    def step(self):
        self.optimizer.step()
        self.steps += 1
        for group in self.optimizer.param_groups if self.steps % 2 == 0 else ():
            for parameter in group["params"]:
                parameter.mul_(0.25)


class Accumulating(Accelerated):
    """Leaves out every other step."""

    calls = 0

    def step(self, closure=None):
        self.calls += 1
        if self.calls % 2 == 0:
            self.optimizer.step(closure)


def post_local(optimizer):
    with warnings.catch_warnings():  # its package scripts functions, which PyTorch deprecates
        warnings.simplefilter("ignore", DeprecationWarning)
        from torch.distributed.optim import PostLocalSGDOptimizer
    return PostLocalSGDOptimizer(optimizer, Averager())


class Itself:
    @property
    def optimizer(self):
        return self


WRAPPERS = {
    "Accelerate's": Accelerated,
    "Lightning's": Plain,
    "two": lambda optimizer: Plain(Accelerated(optimizer)),
    "PostLocalSGD": post_local,
    "Lookahead": Lookahead,
}


@pytest.mark.parametrize("make", [fastrank.SGD, torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_an_optimizer_inside_a_wrapper_is_followed(model, wrapper, make):
    wrapped = WRAPPERS[wrapper](make(model.parameters(), lr=0.1))
    tracker = RankTracker(model, wrapped)
    for _ in range(3):
        gradients(model)
        wrapped.step()
        assert tracker.latest()["weight"]["frobenius_norm"] == pytest.approx(model.weight.norm().item(), rel=1e-6)
    assert tracker.to_pandas().step.tolist() == [1, 2, 3]
    fastrank.prepare(model, wrapped)
    tracker.close()
    assert "step" not in vars(wrapped)
    wrapped.step()
    assert len(tracker.to_pandas()) == 3


@pytest.mark.parametrize("make", [fastrank.SGD, torch.optim.AdamW])
def test_steps_that_a_wrapper_leaves_out_are_none(model, make):
    wrapped = Accumulating(make(model.parameters(), lr=0.1))
    tracker = RankTracker(model, wrapped)
    for _ in range(6):
        gradients(model)
        wrapped.step()
    assert tracker.to_pandas().step.tolist() == [1, 2, 3]


@pytest.mark.parametrize("options", [{"fused": True}, {}])
def test_a_wrapper_that_scales_gradients(model, options):
    """As Accelerate's does: `found_inf` is the optimizer's while that steps, and gone when the wrapper's is over."""

    class Scaling(Accelerated):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0)

        def step(self, closure=None):
            self.scaler.step(self.optimizer)
            self.scaler.update()

    wrapped = Scaling(torch.optim.AdamW(model.parameters(), lr=0.1, **options))
    tracker = RankTracker(model, wrapped)
    for factor in (1.0, torch.inf, 1.0):
        wrapped.optimizer.zero_grad()
        wrapped.scaler.scale(model(torch.ones(2, 6)).sum() * factor).backward()
        wrapped.step()
    assert tracker.to_pandas().step.tolist() == [1, 2]


def test_a_wrapper_that_is_passed_by_is_followed_at_once(model):
    wrapped = Plain(torch.optim.SGD(model.parameters(), lr=0.1))
    tracker = RankTracker(model, wrapped)
    wrapped.optimizer.step()
    assert tracker.to_arrow().num_rows == 1


@pytest.mark.parametrize("first", ["scheduler", "tracker"])
def test_a_schedule_of_a_wrapper(model, first):
    """It replaces the wrapper's step as well."""
    wrapped = Accelerated(torch.optim.SGD(model.parameters(), lr=0.1))
    wrapped.defaults = {}

    def schedule():
        return torch.optim.lr_scheduler.StepLR(wrapped, 1)

    scheduler = schedule() if first == "scheduler" else None
    tracker = RankTracker(model, wrapped)
    scheduler = scheduler or schedule()
    for _ in range(3):
        gradients(model)
        wrapped.step()
        scheduler.step()
    tracker.close()
    wrapped.step()
    assert tracker.to_pandas().step.tolist() == [1, 2, 3]


def test_a_wrappers_step_that_fails_is_none(model):
    class Failing(Plain):
        def step(self):
            super().step()
            raise ZeroDivisionError

    wrapped = Failing(torch.optim.SGD(model.parameters(), lr=0.1))
    tracker = RankTracker(model, wrapped)
    gradients(model)
    with pytest.raises(ZeroDivisionError):
        wrapped.step()
    wrapped.optimizer.step()
    assert tracker.to_pandas().step.tolist() == [1]


def test_a_copy_of_a_wrapper_steps_what_it_wraps(model):
    wrapped = Plain(torch.optim.SGD(model.parameters(), lr=0.1))
    tracker = RankTracker(model, wrapped)
    gradients(model)
    before = model.weight.detach().clone()
    copy.deepcopy(wrapped).step()
    assert torch.equal(model.weight, before)
    assert tracker.to_arrow().num_rows == 0


@pytest.mark.parametrize("optimizer", ["sgd", 3, Itself(), object(), Plain("sgd"), Accelerated(None)])
def test_what_cannot_be_followed_says_what_to_do(model, optimizer):
    with pytest.raises(TypeError, match=r"optimizer: \w+ is no torch.optim.Optimizer.* call tracker\.step\(\)"):
        RankTracker(model, optimizer)
    with pytest.raises(TypeError, match=r"optimizer: \w+ is no torch.optim.Optimizer"):
        fastrank.prepare(model, optimizer)


def test_bad_lists_are_named(model):
    optimizer = torch.optim.SGD(model.parameters())
    with pytest.raises(ValueError, match="optimizer: an empty list"):
        RankTracker(model, [])
    with pytest.raises(ValueError, match="optimizer: one is there twice"):
        RankTracker(model, [optimizer, Plain(optimizer)])
