"""Tracked matrices: all matrices of a model that are tracked, of its weights and beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from .changes import Gradients, Updates
from .coverage import Choice, CoverageTable
from .derived import Derived, undisturbed
from .readable import reshard
from .source import Source
from .tracked import TrackedWeights

OF = ("weight", "gradient", "update")
"""What may be tracked of a weight."""


class TrackedMatrices:
    """All matrices of a model that are tracked.

    Args:
        model, choice: of the weights, see `TrackedWeights`.
        track: functions of the model that make further matrices, by name, see `Derived`.
        of: any of `OF`.
        follows: whether `keep` is called before each step; else updates are differences to what was measured last.

    Raises:
        TypeError, ValueError: as of `TrackedWeights` and `Derived`, `of` is none of those, or a name is there twice.

    Attributes:
        coverage: a row for each weight of the model, then for its gradient and its update, then for what `track` names.
        names: of the matrices, in the order of `sources`.
        weights: how many of them, the first ones, are those of weights.
        shapes: of the matrices that `sources` has returned last.
        keeps: whether `keep` is needed before a step.
    """

    def __init__(
        self,
        model: nn.Module,
        choice: Choice,
        track: Mapping[str, Any] | None = None,
        of: Sequence[str] = ("weight",),
        *,
        follows: bool = False,
    ) -> None:
        functions, kinds = _check_track(track), _check_of(of)
        self._model, self._follows = model, follows
        self._weights = TrackedWeights(model, choice, none=bool(functions))
        self._weights_too = "weight" in kinds
        rows = [row for row in self._weights.coverage if row.matrices]
        self._gradients = Gradients(self._weights.tracked, rows) if "gradient" in kinds else None
        self._updates = Updates(self._weights.tracked, rows) if "update" in kinds else None
        self.keeps = follows and self._updates is not None
        with undisturbed(model):
            self._derived = [Derived(name, function, model) for name, function in functions.items()]
        self._beside = [*(x for x in (self._gradients, self._updates) if x is not None), *self._derived]
        beside = [name for each in self._beside for name in each.names]
        own = self._weights.names if self._weights_too else ()
        self.names, self.weights = (*own, *beside), len(own)
        of_weights = list(self._weights.coverage)
        if not self._weights_too:
            unwanted = "('weight' is not in of)"
            of_weights = [replace(row, matrices=(), reason=row.reason or unwanted) for row in of_weights]
        self.coverage = CoverageTable([*of_weights, *(row for each in self._beside for row in each.coverage)])
        if not self.names:
            raise ValueError(f"nothing to track: no matrix of the model is asked for\n{self.coverage}")
        taken = Counter([*beside, *({row.name for row in of_weights} | set(own))])
        twice = [name for name in beside if taken[name] > 1]
        if twice:
            raise ValueError(f"track: the name {twice[0]!r} is there twice, or is that of a weight; choose another one")
        self.shapes: tuple[tuple[int, int], ...] = ()
        if self._updates is not None and not follows:
            self.keep()

    def sources(self, *, stepped: bool = False) -> list[Source]:
        """Every tracked matrix as it is now: the same list as long as nothing has changed, if all are weights.

        Args:
            stepped: a step was taken, and is being measured (default False: what only a step has may be absent).

        Raises:
            RuntimeError: as of `TrackedWeights.sources`, `Derived.read` and `Gradients.read`.
        """
        of_weights = self._weights.sources()
        if not self._beside:
            self.shapes = self._weights.shapes
            return of_weights
        found = list(of_weights) if self._weights_too else []
        if self._gradients is not None:
            # An optimizer may step without gradients, and training goes on; who calls by hand may be too late for them.
            found += self._gradients.read(of_weights, needed=stepped and not self._follows)
        if self._updates is not None:
            found += self._updates.read(of_weights, stepped=stepped)
            if stepped and not self._follows:
                self._updates.keep(of_weights)
        if self._derived:
            with undisturbed(self._model):
                found += [source for each in self._derived for source in each.read()]
        self.shapes = tuple(source.shape for source in found)
        return found

    def are_views(self, sources: Sequence[Source]) -> bool:
        """Whether all matrices, which `sources` has returned, are views of parameters, and nothing else is read."""
        return not self._beside and all(source.offset is not None for source in sources)

    def reshard(self) -> None:
        """Put weights that `fully_shard` has gathered for a forward back to their shards."""
        reshard(self._model)

    def keep(self, due: bool = True) -> None:
        """Copy the weights as they are, for the updates of the coming step, if it is `due` (default True)."""
        if self._updates is not None:
            self._updates.kept = False
            if due:
                self._updates.keep(self._weights.sources())


def _check_track(track: Any) -> dict[str, Any]:
    """The argument `track` of `RankTracker`, checked."""
    if track is None:
        return {}
    if not isinstance(track, Mapping):
        raise TypeError(f"track: expected a dict of names and functions of the model, not {track!r}")
    for name, function in track.items():
        if not isinstance(name, str) or not name or not callable(function):
            raise TypeError(f"track: expected names and functions of the model, not {name!r}: {function!r}")
    return dict(track)


def _check_of(of: Any) -> tuple[str, ...]:
    """The argument `of` of `RankTracker`, checked."""
    if isinstance(of, str) or not isinstance(of, Sequence):
        raise TypeError(f"of: expected a sequence of names, not {of!r}")
    unknown = [name for name in of if name not in OF]
    if unknown:
        raise ValueError(f"of: unknown {', '.join(map(repr, unknown))}; choose from {', '.join(OF)}")
    return tuple(of)
