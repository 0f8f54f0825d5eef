"""StepHooks: hooks on optimizers, by which a tracker announces a measurement before a step and takes it after it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from ..device import bring
from ..optim import SGD, Companion
from ..weights import Source, version_of
from .graphs import InGraph
from .optimizers import Followed, trains_nothing
from .wrapped import WrappedStep, found_inf_of

BREAKS = "a RankTracker that records more than parameters, such as gradients, measures outside: use fullgraph=False"


class StepHooks:
    """The hooks of one tracker on the optimizers of one model, which take a step of the model when all have stepped.

    Every optimizer gets a hook that is called after its steps. A `fastrank.SGD` that has no companion yet takes
    `companion`, if there is one, and gets a hook that is called before its steps as well. A wrapper's step is watched,
    because it may go on with the weights after the step of the optimizer inside.

    Where an optimizer skips a step, as under AMP, another one may be the first for which all have stepped. Then the
    step of the model lasts until the one has stepped with which the last step ended, or any one a second time.

    Args:
        followed: may be empty: there are no hooks.
        companion: the tracker's measurer, which has a pass of its own over the weights: `fastrank.SGD` may let it step
            them in the same pass (`fuse`). None where it has no such pass, as on a CPU.
        before: called before a step of the model in which a `fastrank.SGD` has taken the companion, or `always`.
        after: called after each step of the model, with a `found_inf`: None if any optimizer has none, else non-zero
            where gradients of all of them overflowed.
        sources: the tracked matrices as they are now.
        reread: returns the tracked matrices as they are now, if compiled steps are to call an operator, without a graph
            break: all have to be views of parameters. Default None: Dynamo breaks the graph after each step.
        always: call `before` with any optimizer.
    """

    def __init__(
        self,
        followed: Sequence[Followed],
        companion: Companion | None,
        before: Callable[[], None],
        after: Callable[[Tensor | None], None],
        sources: Sequence[Source],
        reread: Callable[[], Sequence[Source]] | None = None,
        *,
        always: bool = False,
    ) -> None:
        self._optimizers, self._companion, self._after = [f.optimizer for f in followed], companion, after
        self._stepped: dict[int, Tensor | None] = {}  # `found_inf` of those that have stepped, by `id`
        self._beyond: set[int] = set()  # those that have stepped since all have
        self._last = 0  # the `id` of the one with which the last step of the model ended
        self._idle = [(s.parameter, version_of(s.parameter)) for s in sources if followed]  # until a step was taken
        self._wrapped: list[WrappedStep] = []
        self._handles: list[RemovableHandle] = []
        self._in_graph: InGraph | None = None
        if reread is not None and not always and all(wrapper is None for _, wrapper in followed):
            self._in_graph = InGraph(self._optimizers, reread, lambda one: self._take(one, found_inf_of(one)))

        # Dynamo must not trace the measurement when the optimizer's step is compiled. torch.compiler.disable has the
        # same effect, but imports Dynamo at once, which takes seconds; torch.optim itself uses _disable_dynamo.
        @_disable_dynamo
        def announce_now(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            # A step that has failed left nothing behind: then this one is announced anew.
            under_way = self._stepped or any(wrapped.under_way for wrapped in self._wrapped)
            if not under_way and not trains_nothing(optimizer):
                before()

        @_disable_dynamo
        def take(optimizer: Optimizer, found_inf: Tensor | None) -> None:
            self._take(optimizer, found_inf)

        def announce(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            if self._in_graph is None or not torch.compiler.is_compiling():  # no compiled step is fused with a sketch
                announce_now(optimizer, args, kwargs)

        def take_after(which: int) -> Callable[[Optimizer, Any, Any], None]:
            def take_now(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
                if self._in_graph is not None and torch.compiler.is_compiling():
                    self._in_graph.call(which)
                    return
                if torch.compiler.is_compiling():
                    torch._dynamo.graph_break(msg=BREAKS)
                take(optimizer, found_inf_of(optimizer))

            return take_now

        for which, (optimizer, wrapper) in enumerate(followed):
            hook: Any = take_after(which)
            if wrapper is not None:
                hook = WrappedStep(wrapper, take)
                self._wrapped.append(hook)
            self._handles.append(optimizer.register_step_post_hook(hook))
            fuses = False
            if companion is not None and isinstance(optimizer, SGD) and optimizer.companion is None:
                optimizer.companion, fuses = companion, True
            if fuses or always:
                self._handles.append(optimizer.register_step_pre_hook(announce))

    def _take(self, optimizer: Optimizer, found_inf: Tensor | None) -> None:
        """After a step of an optimizer: takes a step of the model, if that was the last one of it."""
        if trains_nothing(optimizer):
            self._idle = [(parameter, version_of(parameter)) for parameter, _ in self._idle]
            return
        self._stepped[id(optimizer)] = found_inf
        if len(self._stepped) == len(self._optimizers):
            again = id(optimizer) in self._beyond
            self._beyond.add(id(optimizer))
            if again or self._last in (0, id(optimizer)):
                flags = list(self._stepped.values())
                self._last, self._stepped, self._beyond = id(optimizer), {}, set()
                self._idle = []
                known = [flag for flag in flags if flag is not None]
                self._after(least(known) if len(known) == len(flags) else None)

    def stop(self) -> None:
        """Removes the hooks, and takes the companion from the optimizers."""
        for handle in self._handles:
            handle.remove()
        for wrapped in self._wrapped:
            wrapped.stop()
        self._handles, self._wrapped, self._in_graph = [], [], None
        for optimizer in self._optimizers:
            if isinstance(optimizer, SGD) and optimizer.companion is self._companion:
                optimizer.companion = None

    def warn_if_idle(self, *, recorded: bool, closing: bool = False) -> None:
        """Warns, once, if the weights have changed though the optimizers have taken no step of the model.

        Args:
            recorded: whether steps were counted all the same, by calls of the tracker's `step`: there is no warning.
            closing: nothing more will come (default False: there is no warning while the first step is under way).
        """
        if recorded or (self._stepped and not closing):
            return
        if any(version_of(parameter) != version for parameter, version in self._idle):
            self._idle = []
            warnings.warn(
                "the optimizer that this RankTracker follows has never stepped (of several, not all have): nothing was "
                "recorded. If another one trains the model (made anew, or inside SAM), give the tracker that one, or "
                "call tracker.step()",
                stacklevel=3,
            )


def least(flags: Sequence[Tensor]) -> Tensor:
    """The smallest of one `found_inf` or several, one element each, which may be on several devices: on the first CUDA
    device among these, so that the host need not wait. Of one, or of one device, nothing is copied."""
    device = next((flag.device for flag in flags if flag.device.type == "cuda"), flags[0].device)
    return reduce(torch.minimum, (bring(flag, device) for flag in flags))
