"""The rank bound: numbers by hand, edges, and the recursion it is a bound for."""

import math
from typing import Any

import numpy as np
import pytest
import torch

import fastrank
from fastrank.experiments.errors import UserError
from fastrank.experiments.theory import TheoryError, memory, rank_bound

GOOD: dict[str, Any] = {"batch_size": 1, "patches": 1, "lr": 0.1, "weight_decay": 0.5, "eps": 1e-3}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # log(2/eps) = 1: 1 * 1 * 1 / (0.1 * 0.5)
        ({"eps": 2 / math.e}, 20.0),
        # log(2/eps) = 10: 64 * 16 * 10 / (0.1 * 5e-4)
        ({"batch_size": 16, "patches": 64, "weight_decay": 5e-4, "eps": 2 * math.exp(-10)}, 204_800_000.0),
        # the paper's tolerance, ln 2000 = 7.600902: 4 * 7.600902 / (0.1 * 8e-4)
        ({"batch_size": 4, "weight_decay": 8e-4}, 380_045.12),
        ({"lr": 1.0, "weight_decay": 1.0, "eps": 2 / math.e}, 1.0),
        ({"weight_decay": 0.0}, math.inf),
        ({"lr": 1e-200, "weight_decay": 1e-200}, math.inf),
    ],
)
def test_numbers_by_hand(changes: dict[str, Any], expected: float) -> None:
    assert rank_bound(**GOOD | changes) == pytest.approx(expected, rel=1e-7)


def test_twice_the_papers_lambda_is_pytorchs_weight_decay() -> None:
    lam, mu, batch_size, patches, eps = 2.5e-4, 0.5, 8, 49, 0.05
    paper = patches * batch_size * math.log(2 / eps) / (2 * mu * lam)
    assert rank_bound(batch_size, patches, mu, 2 * lam, eps) == pytest.approx(paper, rel=1e-15)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size: must be at least 1, not 0"),
        ({"patches": 0}, "patches: must be at least 1, not 0"),
        ({"lr": 0.0}, "lr: must be finite and greater than 0, not 0.0"),
        ({"lr": math.inf}, "lr: must be finite and greater than 0, not inf"),
        ({"lr": math.nan}, "lr: must be finite and greater than 0, not nan"),
        ({"weight_decay": -1e-4}, "weight_decay: must be finite and at least 0, not -0.0001"),
        ({"weight_decay": math.nan}, "weight_decay: must be finite and at least 0, not nan"),
        ({"eps": 0.0}, "eps: must lie between 0 and 1, both excluded, not 0.0"),
        ({"eps": 1.0}, "eps: must lie between 0 and 1, both excluded, not 1.0"),
        ({"eps": math.nan}, "eps: must lie between 0 and 1, both excluded, not nan"),
        ({"lr": 4.0}, "weight_decay: times lr it is 2, and must be at most 1; lower one of them"),
    ],
)
def test_what_the_theory_does_not_cover_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TheoryError) as caught:
        rank_bound(**GOOD | changes)
    assert str(caught.value) == message
    assert isinstance(caught.value, UserError)


@pytest.mark.parametrize(("decay", "rank"), [(0.05, 1), (0.2, 1), (0.2, 3), (1.0, 2)])
def test_it_bounds_the_recursion_it_is_made_for(decay: float, rank: int) -> None:
    """Random gradients of that rank, long after the start; the bound is below the layer's size and within twice."""
    generator = torch.Generator().manual_seed(0)
    lr, eps, size = 0.5, 1e-3, 200
    weight = torch.randn(size, size, dtype=torch.float64, generator=generator)
    for _ in range(int(40 / decay)):  # exp(-40) is below the rounding of FP64
        left, right = torch.randn(2, size, rank, dtype=torch.float64, generator=generator)
        weight = (1 - decay) * weight - lr * left @ right.T / size
    bound = rank_bound(rank, 1, lr, decay / lr, eps)
    ranks = fastrank.linalg.rank_bounds(weight, fastrank.Tolerance(eps, "frobenius"))
    assert bound < size
    assert ranks.upper <= bound
    assert decay == 1.0 or ranks.lower > bound / 2


def test_memory_is_that_of_the_learning_rates_there_were() -> None:
    """log(2/eps) = 6; lr wd = 1 for ten steps, then 0.5 for ten, then 0.25."""
    steps = np.array([1.0, 5.0, 6.0, 10.0, 12.0, 14.0, 18.0, 20.0, 24.0, 30.0])
    known = memory(steps, [2.0, 1.0, 0.5], 10, 0.5, 2 * math.exp(-6))
    # of step 12: one of decay in the last two steps, and five before; of 24: one in four, and five in ten
    assert known.tolist() == pytest.approx([math.inf, math.inf, 6, 6, 7, 8, 10, 11, 14, 17])


def test_it_bounds_the_recursion_at_every_step_of_a_schedule() -> None:
    """Random gradients of rank 1; the learning rate falls to a third twice."""
    generator = torch.Generator().manual_seed(0)
    eps, size, decay, lrs, epoch = 1e-3, 150, 0.4, [0.9, 0.3, 0.1], 150
    weight = torch.randn(size, size, dtype=torch.float64, generator=generator)
    steps = np.arange(1, len(lrs) * epoch + 1)
    bounds = memory(steps.astype(float), lrs, epoch, decay, eps)
    said = 0
    for step, bound in zip(steps, bounds, strict=True):
        left, right = torch.randn(2, size, 1, dtype=torch.float64, generator=generator)
        lr = lrs[(step - 1) // epoch]
        weight = (1 - lr * decay) * weight - lr * left @ right.T / size
        if bound < size and step % 5 == 0:
            said += 1
            assert fastrank.linalg.rank_bounds(weight, fastrank.Tolerance(eps)).upper <= bound, step
    assert said > 60
