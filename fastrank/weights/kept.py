"""Kept: whether a model has kept its weights since they were last read, so that they need not be read again.

Everything is looked at that may change without notice: which modules and parameters the model's own dictionaries hold,
and of each parameter its memory, sizes, strides, type, dtype, and whether it is trained.
"""

from __future__ import annotations

from collections.abc import Sequence

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
        self._links = list(links)
        # The views that were read keep the memory alive, so no other weight can get an address of it.
        self._weights = [(p.owner, p.stored, x, x.data_ptr(), x.requires_grad) for p, x in found]
        self._parameters = [x for _, x in found]
        self._alike = guard(self._parameters)

    def hold(self) -> bool:
        """Whether the model still has the same; perhaps False where it has."""
        if not self._plain:
            return False
        for parent, name, child in self._links:
            if parent._modules.get(name) is not child:
                return False
        for owner, name, parameter, address, trained in self._weights:
            now = owner._parameters.get(name)
            if now is not parameter or now.data_ptr() != address or now.requires_grad is not trained:
                return False
        return self._alike(self._parameters)
