"""Replicas: whether what several ranks declare as the same part of the same matrix holds the same numbers.

Only one of them is measured. If ranks give one name to different matrices, as the stages of a pipeline do that each
number their layers from 0, all others would be lost without a word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..device import bring
from ..weights import Source
from .holdings import Holding, Spans
from .ranks import Ranks

SAMPLED = 16
"""Elements of a part that are compared."""
DRIFT = 0.1
"""Relative difference of two samples, in the Frobenius norm, above which they are of different matrices. Replicas may
drift apart, in the last bits or between averages; two random matrices of one kind differ by about 1.4."""

Group = tuple[int, tuple[int, ...]]
"""Index of a matrix, and the ranks that declare the same part of it."""


def groups_of(holdings: Sequence[Sequence[Holding]], names: Sequence[str]) -> list[Group]:
    """The replicas among what the ranks have declared, in a list for each of them, of the matrices of these names."""
    places = {name: i for i, name in enumerate(names)}
    found: dict[tuple[int, Spans], list[int]] = {}
    for rank, own in enumerate(holdings):
        for holding in own:
            if holding.name in places and any(span.numel for span in holding.spans):
                found.setdefault((places[holding.name], holding.spans), []).append(rank)
    return [(i, tuple(ranks)) for (i, _), ranks in sorted(found.items()) if len(ranks) > 1]


class Replicas:
    """Compares replicas, once.

    Args:
        ranks: the processes.
        names: of the matrices.
        groups: of replicas, the same on all ranks.
        device: where the numbers are.
    """

    def __init__(self, ranks: Ranks, names: Sequence[str], groups: Sequence[Group], device: torch.device) -> None:
        self._ranks, self._names, self._device = ranks, names, device
        self._groups: Sequence[Group] = groups

    def compare(self, sources: Mapping[int, Source]) -> None:
        """Compare the replicas, at the first call; all ranks have to call this.

        Args:
            sources: what this rank has, by index of the matrix.

        Raises:
            RuntimeError: on all ranks, if any two of them differ.
        """
        groups, self._groups = self._groups, ()
        if not groups:
            return
        size, me = self._ranks.size, self._ranks.rank
        samples = torch.zeros(len(groups), size, SAMPLED, dtype=torch.float64, device=self._device)
        for place, (i, members) in enumerate(groups):
            if me in members:
                samples[place, me] = _sample(bring(sources[i].matrix, self._device))
        for own, (i, members) in zip(self._ranks.sum_(samples).cpu(), groups, strict=True):
            first = own[members[0]]
            for rank in members[1:]:
                if (own[rank] - first).norm() > DRIFT * max(first.norm(), own[rank].norm()):
                    raise RuntimeError(
                        f"{self._names[i]!r} has other values on {self._ranks.name(rank)} than on "
                        f"{self._ranks.name(members[0])}, and is no replica of it. Of ranks that measure together, "
                        "different matrices need names of their own: stages of a pipeline those of the whole model"
                    )


def _sample(matrix: Tensor) -> Tensor:
    """Some elements of a part, those that are not finite as 0."""
    flat = matrix.reshape(-1)
    places = torch.linspace(0, max(0, flat.numel() - 1), SAMPLED, device=flat.device).long()
    return flat[places].double().nan_to_num(0.0, 0.0, 0.0)
