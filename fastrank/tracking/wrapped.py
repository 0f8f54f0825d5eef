"""WrappedStep: watches the step of a wrapper, to learn when it is over and not only that of the optimizer inside."""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from types import MethodType
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

Take = Callable[[Optimizer, Tensor | None], None]


def found_inf_of(optimizer: Optimizer) -> Tensor | None:
    """Not 0 where gradients overflow in the step that runs now. A `GradScaler` lends it for as long as that takes."""
    return getattr(optimizer, "found_inf", None)


class WrappedStep:
    """A hook after the steps of the optimizer inside `wrapper`, which calls `take` when the wrapper's step is over,
    with the `found_inf` that there was when the optimizer stepped.

    `PostLocalSGDOptimizer`, for one, averages the weights over all processes after the step of the optimizer inside. A
    wrapper may also leave out that step, as Accelerate's does while gradients are accumulated, or be passed by, as
    Lightning's is: then `take` is not called, or called at once.

    The wrapper's `step` is replaced by a method that calls it, as PyTorch's schedulers do with an optimizer's.
    """

    def __init__(self, wrapper: Any, take: Take) -> None:
        self._wrapper, self._take = wrapper, take
        self._depth = 0
        self._stepped: tuple[Optimizer, Tensor | None] | None = None
        own = getattr(wrapper, "__dict__", {}).get("step")  # a scheduler's
        self._before = own

        def step(wrapper: Any, *args: Any, **kwargs: Any) -> Any:
            self._depth += 1
            try:
                result = own(*args, **kwargs) if own is not None else type(wrapper).step(wrapper, *args, **kwargs)
            except BaseException:
                self._stepped = None
                raise
            finally:
                self._depth -= 1
            if self._depth == 0 and self._stepped is not None:
                stepped, self._stepped = self._stepped, None
                take(*stepped)
            return result

        update_wrapper(step, getattr(wrapper.step, "__func__", wrapper.step))
        self._watched: MethodType | None = MethodType(step, wrapper)
        try:
            wrapper.step = self._watched
        except AttributeError:  # it takes no attributes: then the step of the optimizer inside has to do
            self._watched = None

    @property
    def under_way(self) -> bool:
        """Whether the optimizer inside has stepped, and the wrapper's step is not over."""
        return self._stepped is not None

    def __call__(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._depth:
            self._stepped = optimizer, found_inf_of(optimizer)
        else:
            self._take(optimizer, found_inf_of(optimizer))

    def stop(self) -> None:
        """Gives the wrapper its own `step` back, unless somebody else has replaced it since."""
        if self._watched is not None and self._wrapper.__dict__.get("step") is self._watched:
            if self._before is None:
                del self._wrapper.step
            else:
                self._wrapper.step = self._before
