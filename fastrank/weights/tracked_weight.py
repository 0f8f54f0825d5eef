"""TrackedWeight: a weight that is tracked, and its matrices as they are now, or what this process has of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .effective import stored_in
from .flattened import Flat, refuse_slice
from .layers import Split, boxes_of, matrices_of
from .pieces import Part, Piece, local_of, part_of, placed_as, whole
from .places import Place, clean_name
from .readable import is_sharded, reason_without_matrix, refuse_unreadable
from .source import Source

Cut = dict[str, tuple[Tensor, Piece | None]]
"""The matrices of a weight by label: each whole, or a piece of it."""


class Reading(NamedTuple):
    """The matrices of a weight as they are now."""

    sources: list[Source]
    parameter: Tensor | None
    """The parameter of which all are views, so that they stay what they are as long as it does; None: read again."""


class _Sharded(NamedTuple):
    """The last reading of a DTensor, whose shard mostly stays where it is from step to step."""

    parameter: Tensor
    shard: Tensor
    address: int
    frozen: bool
    reading: Reading

    def of(self, parameter: Tensor, shard: Tensor, frozen: bool) -> bool:
        """Whether it is the reading of this one."""
        same = parameter is self.parameter and shard is self.shard and frozen == self.frozen
        return same and shard.data_ptr() == self.address


@dataclass
class TrackedWeight:
    """A weight that is tracked, and the names of its matrices in the history."""

    name: str
    place: Place
    split: Split | None
    matrices: tuple[str, ...]
    flat: Flat | None = None
    """Where its elements are in the weight, if `FullyShardedDataParallel` has flattened it."""
    _last: _Sharded | None = None

    def read(self) -> Reading:
        """Its matrices as they are now.

        Raises:
            RuntimeError: the model no longer has it, it has another number of matrices, or it cannot be read any more.
        """
        try:
            weight = self.place.read()
        except Exception as error:  # of a parametrization, whoever has written it
            error.add_note(f"raised while the weight {self.name!r} was read, to measure its rank")
            raise
        if weight is None:
            raise gone(self.name)
        frozen = not weight.is_made and not weight.parameter.requires_grad
        if self.flat is None and weight.tensor.ndim < 2:
            try:
                refuse_slice(self.name, weight.parameter)
            except ValueError as error:
                raise RuntimeError(f"tracked {error}") from None
        shard = local_of(weight.tensor) if is_sharded(weight.tensor) else None
        if self._last is not None and shard is not None and self._last.of(weight.parameter, shard, frozen):
            return self._last.reading
        cuts = self._cut(weight.tensor)
        sources = [Source(matrix, weight.parameter, frozen, piece=piece) for matrix, piece in cuts]
        self._last = None
        if shard is not None and not weight.is_made and all(_shares(matrix, shard) for matrix, _ in cuts):
            self._last = _Sharded(weight.parameter, shard, shard.data_ptr(), frozen, Reading(sources, None))
        viewed = not weight.is_made and type(weight.tensor) is Tensor and all(s.offset is not None for s in sources)
        return Reading(sources, weight.parameter if viewed else None)

    def read_whole(self) -> list[Tensor]:
        """Its matrices, whole: a sharded weight is gathered, for which all ranks have to call this.

        Raises:
            RuntimeError: as of `read`, or it is flattened.
        """
        weight = self.place.read()
        if weight is None or self.flat is not None:
            raise gone(self.name) if weight is None else RuntimeError(f"{self.name!r} is flattened, and not whole here")
        return [matrix for matrix, _ in self._cut(whole(weight.tensor))]

    def read_from(self, state: Mapping[str, Tensor]) -> list[Tensor]:
        """Its matrices in a state dict of the model, whose keys have no parts that wrappers put in.

        Raises:
            ValueError: it is not there, or is no matrix. RuntimeError: it is another number of matrices.
        """
        tensor = state.get(self.name, state.get(clean_name(self.place.name)))
        if tensor is None:
            made = stored_in(self.place.owner, self.place.stored) is None
            hint = "; its layer makes it from other tensors: give a model instead" if made else ""
            raise ValueError(f"the state dict has no {self.name!r}{hint}")
        return [matrix for matrix, _ in self._cut(whole(tensor))]

    def read_gradient(self) -> list[tuple[Tensor, Piece | None]] | None:
        """The gradient of its parameter, as the same matrices, or pieces of them; None if it has none. All ranks of the
        mesh of a DTensor have to call this.

        Raises:
            RuntimeError: it cannot be read, because it is sparse for example.
        """
        parameter = stored_in(self.place.owner, self.place.stored)
        gradient = None if parameter is None else parameter.grad
        return None if gradient is None else list(self._cut(placed_as(gradient.detach(), parameter)))

    def _cut(self, tensor: Tensor) -> list[tuple[Tensor, Piece | None]]:
        try:
            matrices = cut(self.name, tensor, self.place, self.split, self.flat)
        except ValueError as error:
            raise RuntimeError(f"tracked {error}; make a new RankTracker") from error
        if len(matrices) != len(self.matrices):
            raise RuntimeError(
                f"tracked parameter {self.name!r} had {len(self.matrices)} matrices and now, with shape "
                f"{tuple(tensor.shape)}, has {len(matrices)}; make a new RankTracker"
            )
        return list(matrices.values())


def cut(name: str, tensor: Tensor, place: Place, split: Split | None, flat: Flat | None = None) -> Cut:
    """The matrices of a weight, or what this process has of them.

    Raises:
        ValueError: it has none, or cannot be read; the message names it.
    """
    refuse_unreadable(name, tensor)
    whole = flat.whole(tensor) if flat is not None else tensor
    reason = reason_without_matrix(whole, place.layer, place.attribute)
    if isinstance(place.layer, torch.jit.ScriptModule) and whole.ndim > 2 and split is None:
        raise ValueError(
            f"parameter {name!r} is in a scripted module, which does not tell what its axes mean; track the model "
            f"before it is scripted, or leave it out with exclude=[{name!r}]"
        )
    if reason:
        raise ValueError(f"parameter {name!r}, of shape {tuple(whole.shape)}, has no matrices {reason}")
    try:
        part = _part_of(tensor, flat)
    except ValueError as error:
        raise ValueError(f"parameter {name!r} cannot be tracked as it is sharded: {error}") from error
    try:
        return cut_as(tensor, part, place.layer, place.attribute, split)
    except ValueError as error:
        raise ValueError(f"{'split: ' if split is not None else ''}parameter {name!r} of {error}") from error


def cut_as(tensor: Tensor, part: Part | None, layer: nn.Module, attribute: str, split: Split | None = None) -> Cut:
    """The matrices of a tensor, or the pieces of them that are in `part` of it, as a layer sees them.

    Raises:
        ValueError: it cannot be cut as `split` says, or as it is sharded.
    """
    if part is None:
        return {label: (matrix, None) for label, matrix in matrices_of(tensor, layer, attribute, split).items()}
    found: Cut = {label: part.cut(box) for label, box in boxes_of(part.shape, layer, attribute, split).items()}
    return found


def _shares(matrix: Tensor, shard: Tensor) -> bool:
    """Whether a matrix is a view of a shard. One without elements has no memory to share."""
    return not matrix.numel() or matrix.untyped_storage().data_ptr() == shard.untyped_storage().data_ptr()


def _part_of(tensor: Tensor, flat: Flat | None) -> Part | None:
    """What this process has of a weight that is shared out; None of one that it has whole."""
    if is_sharded(tensor):
        return part_of(tensor)
    return flat.part(tensor) if flat is not None else None


def gone(name: str) -> RuntimeError:
    return RuntimeError(f"tracked parameter {name!r} is no longer part of the model; make a new RankTracker")
