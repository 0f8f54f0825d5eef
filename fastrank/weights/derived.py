"""Derived matrices: what a function makes of a model, for which the model has no parameter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .coverage import Coverage
from .effective import surroundings_kept
from .pieces import part_of, summed
from .readable import is_sharded, reason_without_matrix
from .source import Source
from .tracked_weight import Cut, cut_as

Track = Mapping[str, Callable[[nn.Module], Any]]
"""Functions of the model by the names of what they make: a matrix, a stack of matrices, or those of a dictionary."""
_NO_LAYER = nn.Module()


class Derived:
    """The matrices that one function makes of a model, anew each time. Their names are settled now.

    Args:
        name: of the result: a matrix has this name, those of a stack are `name[0]`, `name[1]` and so on, and those of
            a dictionary are `name/key`, or `name/key[0]` and so on.
        function: called with the model.
        model: whose matrices they are.

    Raises:
        TypeError, ValueError: the result is no matrix, no stack and no dictionary of them; the message names it.

    Attributes:
        coverage: a row for each entry of the result.
        names: of the matrices.
    """

    def __init__(self, name: str, function: Callable[[nn.Module], Any], model: nn.Module) -> None:
        self.name, self._function, self._model = name, function, model
        self.coverage: list[Coverage] = []
        for entry, tensor in self._evaluate().items():
            self.coverage.append(Coverage(entry, tuple(tensor.shape), "track", tuple(_matrices(entry, tensor)), ""))
        self.names = tuple(name for row in self.coverage for name in row.matrices)
        # Of no memory, so that the matrix is not taken for a view of it: it may have another address at each step.
        self._nothing = [torch.empty(0) for _ in self.names]

    def read(self) -> list[Source]:
        """The matrices as they are now.

        Raises:
            RuntimeError: there are others than there were at first. TypeError, ValueError: as at first.
        """
        found: Cut = {}
        for entry, tensor in self._evaluate().items():
            found |= _matrices(entry, tensor)
        if found.keys() != set(self.names):
            raise RuntimeError(
                f"track: {self.name!r} gave {len(self.names)} matrices, and now gives {len(found)}, or others: "
                f"{', '.join(sorted(found.keys() ^ set(self.names))[:4])}; make a new RankTracker"
            )
        pairs = zip(self.names, self._nothing, strict=True)
        return [Source(found[name][0], nothing, piece=found[name][1]) for name, nothing in pairs]

    def _evaluate(self) -> dict[str, Tensor]:
        """What the function makes, by the name of the entry."""
        try:
            result = self._function(self._model)
        except Exception as error:
            error.add_note(f"raised by the function of track={{{self.name!r}: ...}}, which is called with the model")
            raise
        entries = {self.name: result}
        if isinstance(result, Mapping):
            entries = {f"{self.name}/{key}": value for key, value in result.items()}
        if not entries:
            raise ValueError(f"track: {self.name!r} gives an empty dictionary")
        for entry, tensor in entries.items():
            if not isinstance(tensor, Tensor):
                raise TypeError(f"track: {entry!r} is a {type(tensor).__name__}, not a tensor or a dictionary of them")
            reason = reason_without_matrix(tensor, _NO_LAYER, "")
            reason = "(on the meta device)" if tensor.is_meta else reason
            if reason:
                raise ValueError(f"track: {entry!r}, of shape {tuple(tensor.shape)}, has no matrix {reason}")
        return entries


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """A context in which functions of a model may be called: no gradients, no autocast, evaluation mode, in which
    layers keep their running statistics, and the global random generators are put back at its end."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    # In one statement: where one of them cannot be entered for want of memory, those before it are left.
    with torch.no_grad(), torch.autocast(device.type, enabled=False), surroundings_kept({device}), ExitStack() as modes:
        for module in model.modules():
            if module.training:
                modes.callback(setattr, module, "training", True)
                module.training = False
        yield


def _matrices(entry: str, tensor: Tensor) -> Cut:
    """The matrices of an entry, or what this process has of them, by name."""
    part = part_of(summed(tensor)) if is_sharded(tensor) else None
    found = cut_as(tensor.detach(), part, _NO_LAYER, "")
    return {f"{entry}[{label}]" if label else entry: matrix for label, matrix in found.items()}
