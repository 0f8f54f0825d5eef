"""LastStep: whether a step finds what the last one found, so that all tables of the kernels stay as they are, except
for addresses and hyper-parameters.

To look at one thing after another would take longer than all the rest of a step. So this is done with few calls of
Python a parameter: lists are compared by identity, and `guard` looks at the tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import is_, itemgetter
from typing import Any, NamedTuple

from torch import Tensor

from ..guard import guard
from .kernel_groups import KernelGroup, State
from .local_tensors import local_as_before

OPTIONS = ("momentum", "dampening", "nesterov", "maximize", "foreach", "differentiable")
"""What the kernels' work depends on besides `lr` and `weight_decay`, whose values are read at every step."""


class Found(NamedTuple):
    """Tensors and addresses of a step that differs from the last one in nothing else."""

    pointers: list[int]
    """The values of the table, see `fastrank.kernels.step.descent`."""
    written: list[Tensor]
    """Parameters that have gradients, and momentum buffers."""
    gradients: list[Tensor]


class LastStep:
    """What a step has found in an optimizer. It keeps parameters alive, but no gradient.

    Args:
        groups: all parameter groups of the optimizer. Gradients have their parameters' layout.
        rows: row in the tables of each parameter that has one, by `id`.
        state: the optimizer's, with a momentum buffer in its parameter's layout where the step has used one.
        options: what the work depends on.
    """

    def __init__(
        self, groups: Sequence[KernelGroup], rows: Mapping[int, int], state: State, options: Sequence[str] = OPTIONS
    ) -> None:
        self._options = options
        self._groups = [
            (group, list(group["params"]), [group[name] for name in options], _forms(group)) for group, _, _ in groups
        ]
        every = [(group["momentum"] != 0, param, grad) for group, _, own in groups for param, grad, _ in own]
        self._idle = [param for _, param, grad in every if grad is None]
        self._stepped = [param for _, param, grad in every if grad is not None]
        self._moving = [param for moves, param, grad in every if moves and grad is not None]
        self._rowed = [param for _, param, _ in every if id(param) in rows]
        columns = (self._rowed, self._stepped, self._moving)
        places = [3 * rows[id(param)] + column for column, params in enumerate(columns) for param in params]
        order = [len(places)] * (3 * len(self._rowed))  # where there is no tensor, the 0 after all addresses
        for index, place in enumerate(places):
            order[place] = index
        self._in_order = itemgetter(*order) if order else lambda _: ()
        gradients = [grad for _, _, grad in every if grad is not None]
        self._owners, self._states = list(state), list(state.values())
        self._moved = [state[param] for param in self._moving]
        buffers = [own["momentum_buffer"] for own in self._moved]
        tensors = [*self._rowed, *gradients, *buffers]
        self._local = local_as_before(tensors)
        self._alike = guard(self._local(tensors) or ())

    def again(self, param_groups: Sequence[dict[str, Any]], state: State) -> Found | None:
        """What the coming step will find; None where more may differ than addresses and hyper-parameters."""
        if len(param_groups) != len(self._groups):
            return None
        for group, (before, params, options, forms) in zip(param_groups, self._groups, strict=True):
            own = group["params"]
            if group is not before or len(own) != len(params) or not all(map(is_, own, params)):
                return None
            if not all(map(is_, [group[name] for name in self._options], options)) or _forms(group) != forms:
                return None
        if any(param.grad is not None for param in self._idle):
            return None
        # Looking a tensor up in a dictionary takes longer than comparing it: all of the state is, in the order it has.
        if len(state) != len(self._owners) or not all(map(is_, state, self._owners)):
            return None
        if not all(map(is_, state.values(), self._states)):
            return None
        gradients: list[Any] = [param.grad for param in self._stepped]
        buffers: list[Any] = [own.get("momentum_buffer") for own in self._moved]
        tensors = self._local([*self._rowed, *gradients, *buffers])
        if tensors is None or not self._alike(tensors):
            return None
        addresses = [*map(Tensor.data_ptr, tensors), 0]
        return Found(list(self._in_order(addresses)), self._stepped + buffers, gradients)


def _forms(group: dict[str, Any]) -> list[object]:
    """How many slices the learning rate and the weight decay tell of, and whether the kernels may read them."""
    values = (group["lr"], group["weight_decay"])
    return [(x.shape, x.requires_grad) if isinstance(x, Tensor) else None for x in values]
