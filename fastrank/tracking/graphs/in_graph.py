"""InGraph: a tracker's part of a step that is compiled, by the operator `fastrank::take_step`, without a graph break.

Compiled graphs write parameters when they end, or in memory of their own before. So the operator is given what the
parameters will be, and the model's parameters have that memory for as long as the tracker reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.optim import Optimizer

from ...weights import Source

_numbers = count()
IN_GRAPHS: WeakValueDictionary[int, InGraph] = WeakValueDictionary()
"""Those that there are, by the number that their operator is called with."""


class InGraph:
    """What the operator does for one tracker.

    Args:
        optimizers: those whose steps are compiled.
        sources: returns the tracked matrices as they are now, all of them views of parameters.
        take: called after the step of an optimizer, when the parameters are what this step has made of them.
    """

    def __init__(
        self,
        optimizers: Sequence[Optimizer],
        sources: Callable[[], Sequence[Source]],
        take: Callable[[Optimizer], None],
    ) -> None:
        self._optimizers, self._sources, self._take = list(optimizers), sources, take
        self._number = next(_numbers)
        IN_GRAPHS[self._number] = self
        stepped = [x for optimizer in optimizers for group in optimizer.param_groups for x in group["params"]]
        tracked = [source.parameter for source in sources()]
        self._parameters = list({id(x): x for x in [*stepped, *tracked]}.values())
        # Written by each call, so that no compiler leaves one out, calls twice, or in another order.
        self._calls = torch.zeros((), dtype=torch.int64, device="cpu")

    def call(self, which: int) -> None:
        """Have the operator called after a step of one of the optimizers. Dynamo traces this."""
        from . import operator  # noqa: F401  # which registers it

        torch.ops.fastrank.take_step.default(self._calls, self._parameters, self._number, which)

    def run(self, values: Sequence[Tensor], which: int) -> None:
        """What the operator does, given the values of the parameters after the step.

        Raises:
            RuntimeError: weights are tracked that are not among these, since parameters of the model were replaced.
        """
        with _having(self._parameters, values):
            known = {id(parameter) for parameter in self._parameters}
            if not all(id(source.parameter) in known for source in self._sources()):
                raise RuntimeError(
                    "parameters of the model were replaced since this RankTracker was made, and its compiled step does "
                    "not know them: make the tracker anew, or leave the optimizer's step out of what is compiled"
                )
            self._take(self._optimizers[which])


@contextmanager
def _having(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> Iterator[None]:
    """Inside, parameters have the memory of `values`, where that is another one."""
    lent = [(x, x.data) for x, value in zip(parameters, values, strict=True) if not _is_same(x, value)]
    try:
        for x, value in zip(parameters, values, strict=True):
            if not _is_same(x, value):
                x.data = value
        yield
    finally:
        for x, own in lent:
            x.data = own


def _is_same(x: Tensor, value: Tensor) -> bool:
    return x is value or (x.data_ptr() == value.data_ptr() and x.stride() == value.stride())
