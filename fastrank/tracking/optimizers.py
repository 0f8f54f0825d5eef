"""Optimizers: which ones a tracker can follow, inside wrappers too, and which of their steps train nothing."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

from torch import Tensor
from torch.optim import Optimizer

INSIDE = ("optimizer", "optim")
"""Attributes under which wrappers keep the optimizer that they wrap."""


class Followed(NamedTuple):
    """An optimizer that a tracker follows."""

    optimizer: Optimizer
    """It runs hooks."""
    wrapper: Any
    """What it was found in, and what may go on with the weights after its step; None if it is in no wrapper."""


def find_optimizers(optimizer: Any) -> tuple[Followed, ...]:
    """The optimizers whose steps can be followed: none for None, one, or those of a list.

    Wrappers such as Accelerate's `AcceleratedOptimizer`, Lightning's `LightningOptimizer` and `PostLocalSGDOptimizer`
    run no hooks: the optimizer inside them does.

    Raises:
        TypeError: one cannot be followed. ValueError: one is there twice, or the list is empty.
    """
    if optimizer is None:
        return ()
    several = isinstance(optimizer, list | tuple)
    found = tuple(map(_find, optimizer if several else [optimizer]))
    if not found:
        raise ValueError("optimizer: an empty list; None follows no optimizer")
    if len({id(followed.optimizer) for followed in found}) < len(found):
        raise ValueError("optimizer: one is there twice")
    return found


def _find(optimizer: Any) -> Followed:
    """The optimizer itself, or the first one inside it that runs hooks."""
    inside, seen = optimizer, set()
    while not _runs_hooks(inside) and id(inside) not in seen:
        seen.add(id(inside))
        inside = next((x for x in (getattr(inside, name, None) for name in INSIDE) if x is not None), None)
    if not _runs_hooks(inside):
        raise TypeError(
            f"optimizer: {type(optimizer).__name__} is no torch.optim.Optimizer, nor has it one inside, whose steps "
            "could be followed; leave it out, and call tracker.step() after each of its steps"
        )
    return Followed(inside, None if inside is optimizer else optimizer)


def _runs_hooks(optimizer: Any) -> bool:
    """Whether hooks can be registered: a subclass that leaves out `Optimizer.__init__` has nowhere to keep them."""
    return isinstance(optimizer, Optimizer) and hasattr(optimizer, "_optimizer_step_post_hooks")


def trains_nothing(optimizer: Optimizer) -> bool:
    """Whether the step that runs now only makes the optimizer's state, as `torch.distributed.checkpoint` has it do.

    That is a step at a learning rate of 0 with gradients of 0. A schedule that warms up may begin with a rate of 0 too,
    and a look at the gradients would make the host wait for a CUDA device: so the caller tells the two apart.
    """
    rates = [group.get("lr") for group in optimizer.param_groups]
    if any(rate is None or (rate.is_cuda if isinstance(rate, Tensor) else rate != 0) for rate in rates):
        return False
    frame = sys._getframe(1)
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code.co_name == "_init_optim_state":
            return str(frame.f_globals.get("__name__")).startswith("torch.distributed.")
    return False
