"""Kept: whether a model has kept its weights since they were last read, so that they need not be read again.

Everything is looked at that may change without notice: which modules and parameters the model's own dictionaries hold,
and of each parameter its memory, sizes, strides, type, dtype, and whether it is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_

from torch import Tensor, nn

from ..guard import guard
from .places import Place


class Kept:
    """What a model has now, for `hold` to compare with.

    links: modules on the ways to the weights.
    places: of the weights.
    parameters: those that are stored there; None leaves a weight out.
    """

    def __init__(
        self,
        links: Sequence[tuple[nn.Module, str, nn.Module]],
        places: Sequence[Place],
        parameters: Sequence[Tensor | None],
    ) -> None:
        found = [(place, x) for place, x in zip(places, parameters, strict=True) if x is not None]
        # The modules of scripts keep theirs in no dictionary, and buffers are in another one: both are read every time.
        self._plain = all(isinstance(parent._modules, dict) for parent, _, _ in links) and all(
            isinstance(stored := place.owner._parameters, dict) and stored.get(place.stored) is x for place, x in found
        )
        self._parents = [(parent, name) for parent, name, _ in links]
        self._children = [child for _, _, child in links]
        self._owners = [(place.owner, place.stored) for place, _ in found]
        self._parameters = [x for _, x in found]
        # The views that were read keep this memory alive, so no other weight can get an address of it.
        self._addresses = [x.data_ptr() for x in self._parameters]
        self._trained = [x.requires_grad for x in self._parameters]
        self._alike = guard(self._parameters)

    def hold(self) -> bool:
        """Whether the model still has the same; perhaps False where it has."""
        if not self._plain:
            return False
        try:
            children = [parent._modules[name] for parent, name in self._parents]
            parameters = [owner._parameters[name] for owner, name in self._owners]
        except KeyError:
            return False
        return (
            all(map(is_, children, self._children))
            and all(map(is_, parameters, self._parameters))
            and self._alike(parameters)
            and [x.data_ptr() for x in self._parameters] == self._addresses
            and [x.requires_grad for x in self._parameters] == self._trained
        )
