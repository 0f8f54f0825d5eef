"""StepHooks: hooks on an optimizer, by which a tracker announces a measurement before a step and takes it after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch._compile import _disable_dynamo
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from ..optim import SGD, Companion


class StepHooks:
    """The hooks of one tracker on `optimizer`.

    Every optimizer gets a hook that is called after its steps. A `fastrank.SGD` that has no companion yet takes
    `companion`, and gets a hook that is called before its steps as well.

    Args:
        optimizer: None: there are no hooks.
        companion: the tracker's measurer, which has a pass of its own over the weights: `fastrank.SGD` may let it step
            them in the same pass (`fuse`).
        before: called before each step of a `fastrank.SGD` that has taken the companion.
        after: called after each step, with the optimizer's `found_inf` (None where it has none).
    """

    def __init__(
        self,
        optimizer: Optimizer | None,
        companion: Companion,
        before: Callable[[], None],
        after: Callable[[Any], None],
    ) -> None:
        self._optimizer, self._companion = optimizer, companion
        self._handles: list[RemovableHandle] = []

        # Dynamo must not trace the measurement when the optimizer's step is compiled. torch.compiler.disable has the
        # same effect, but imports Dynamo at once, which takes seconds; torch.optim itself uses _disable_dynamo.
        @_disable_dynamo
        def announce(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            before()

        @_disable_dynamo
        def take(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            after(getattr(optimizer, "found_inf", None))

        if optimizer is not None:
            self._handles.append(optimizer.register_step_post_hook(take))
        if isinstance(optimizer, SGD) and optimizer.companion is None:
            optimizer.companion = companion
            self._handles.append(optimizer.register_step_pre_hook(announce))

    def stop(self) -> None:
        """Removes the hooks, and takes the companion from the optimizer."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if isinstance(self._optimizer, SGD) and self._optimizer.companion is self._companion:
            self._optimizer.companion = None
