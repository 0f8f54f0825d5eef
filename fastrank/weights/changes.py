"""Changes: the gradients of weights, and what a step of the optimizer has made of them, as the layers' matrices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .coverage import Coverage
from .pieces import Piece
from .source import Source
from .tracked_weight import TrackedWeight


def difference_of(new: Tensor, old: Tensor) -> Tensor:
    """`new - old`, in FP64 if either is FP64, else in FP32."""
    wide = torch.float64 if torch.float64 in (new.dtype, old.dtype) else torch.float32
    return new.to(wide) - old.to(wide)


class Changes:
    """Matrices beside those of the weights that are trained, one for each: `kind/name`.

    Args:
        kind: `"gradient"`, or `"update"`.
        weights: that are tracked. coverage: their rows, in the same order.
    """

    def __init__(self, kind: str, weights: Sequence[TrackedWeight], coverage: Sequence[Coverage]) -> None:
        self.kind = kind
        self.weights: list[TrackedWeight] = []
        self.places: list[int] = []
        """Where each of the matrices stands among those of all tracked weights."""
        self.coverage: list[Coverage] = []
        start = 0
        for weight, row in zip(weights, coverage, strict=True):
            reason = self._reason_against(weight)
            names = () if reason else tuple(f"{kind}/{name}" for name in weight.matrices)
            self.coverage.append(Coverage(f"{kind}/{row.name}", row.shape, row.module, names, reason))
            if not reason:
                self.weights.append(weight)
                self.places += range(start, start + len(weight.matrices))
            start += len(weight.matrices)
        self.names = tuple(name for row in self.coverage for name in row.matrices)
        self._nothing = [torch.empty(0) for _ in self.names]

    def _reason_against(self, weight: TrackedWeight) -> str:
        found = weight.place.read()
        if found is not None and not found.parameter.requires_grad and not found.is_made:
            return "(not trained)"
        return "(made by its layer)" if found is not None and found.is_made and self.kind == "gradient" else ""

    def _sources(self, found: Sequence[tuple[Tensor, Piece | None, bool]]) -> list[Source]:
        """Sources of matrices, each with its piece and whether it is absent."""
        triples = zip(found, self._nothing, strict=True)
        return [Source(matrix, nothing, absent=absent, piece=piece) for (matrix, piece, absent), nothing in triples]


class Gradients(Changes):
    """The gradients as they are: after a step, what it has left in `parameter.grad`, unscaled and clipped."""

    def __init__(self, weights: Sequence[TrackedWeight], coverage: Sequence[Coverage]) -> None:
        super().__init__("gradient", weights, coverage)

    def read(self, sources: Sequence[Source], *, needed: bool) -> list[Source]:
        """The gradients, as the layers' matrices. One that a parameter does not have is `absent`.

        Args:
            sources: of all tracked weights.
            needed: whether it is an error if there is no gradient at all.

        Raises:
            RuntimeError: there is no gradient at all, and that is an error; or one is sparse.
        """
        found: list[tuple[Tensor, Piece | None, bool]] = []
        there = False
        own = iter(self.places)
        for weight in self.weights:
            places = [next(own) for _ in weight.matrices]
            try:
                matrices = weight.read_gradient()
            except RuntimeError as error:
                error.add_note(f"raised while the gradient of {weight.name!r} was read, as of=(..., 'gradient') asks")
                raise
            there = there or matrices is not None
            if matrices is None:
                found += [_absent(sources[i]) for i in places]
            else:
                found += [(matrix, piece, False) for matrix, piece in matrices]
        if needed and self.weights and not there:
            raise RuntimeError(
                "of: 'gradient' is to be measured, and no tracked weight has a gradient; call tracker.step() before "
                "optimizer.zero_grad()"
            )
        return self._sources(found)


class Updates(Changes):
    """What the step has changed: the weights as they are, less what they were when `keep` was called.

    Attributes:
        kept: whether there is anything to compare with. `read` needs a `keep` each.
    """

    def __init__(self, weights: Sequence[TrackedWeight], coverage: Sequence[Coverage]) -> None:
        super().__init__("update", weights, coverage)
        self.kept = False
        self._before: list[Tensor] = []

    def keep(self, sources: Sequence[Source]) -> None:
        """Copies the weights, `sources` of all of them, into memory that stays where it is."""
        matrices = [sources[i].matrix for i in self.places]
        self._before = self._before or [torch.empty_like(matrix) for matrix in matrices]
        for i, matrix in enumerate(matrices):
            before = self._before[i]
            if (before.shape, before.dtype, before.device) != (matrix.shape, matrix.dtype, matrix.device):
                self._before[i] = torch.empty_like(matrix)
            self._before[i].copy_(matrix)
        self.kept = True

    def read(self, sources: Sequence[Source], *, stepped: bool) -> list[Source]:
        """The updates. They are `absent` unless a step was taken and the weights were kept before it."""
        own = [sources[i] for i in self.places]
        if not (stepped and self.kept):
            return self._sources([_absent(source) for source in own])
        self.kept = False
        return self._sources([_change(source, old) for source, old in zip(own, self._before, strict=True)])


def _change(source: Source, old: Tensor) -> tuple[Tensor, Piece | None, bool]:
    """What a weight has changed since it was `old`; absent if it had another shape."""
    if source.matrix.shape != old.shape:
        return _absent(source)
    return difference_of(source.matrix, old), source.piece, False


def _absent(source: Source) -> tuple[Tensor, Piece | None, bool]:
    """What stands in for a change of a weight that is not there: of the same shape, in the dtype of updates."""
    wide = torch.float64 if source.matrix.dtype == torch.float64 else torch.float32
    return torch.full_like(source.matrix, torch.nan, dtype=wide), source.piece, True
