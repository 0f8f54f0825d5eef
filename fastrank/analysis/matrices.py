"""What an analysis measures, wherever it comes from, and what it leaves out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from ..weights import TrackedWeights, refuse_pieces

LISTED = 5  # names in an error


class Matrices(NamedTuple):
    """The matrices of a model or a checkpoint, and what of it is not among them."""

    tensors: dict[str, Tensor]
    """2-D, detached, by their names in a history."""
    left_out: list[str]
    """Tensors of which no rank is counted, each with the reason; the number of vectors, and of what is not chosen."""
    not_looked_at: dict[str, str]
    """Groups of tensors beside the one that was chosen: by the key that leads there, what each holds."""


class Holder(nn.Module):
    """A module that holds named tensors and nothing else, for those who take a model."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        # Not by `register_parameter`, which refuses names with dots. And not frozen, because a tracker keeps a copy of
        # what is frozen, to see whether it changes. What was made in inference mode cannot be a parameter outside it.
        for name, x in tensors.items():
            self._parameters[name] = nn.Parameter(x.clone() if x.is_inference() else x)


def current(weights: TrackedWeights) -> dict[str, Tensor]:
    """The matrices of these weights as they are now. Raises `ValueError` if two of them have the same name, or one is
    sharded over several processes."""
    found: dict[str, Tensor] = {}
    sources = weights.sources()
    refuse_pieces(weights.names, sources)
    for name, source in zip(weights.names, sources, strict=True):
        if found.setdefault(name, source.matrix) is not source.matrix:
            raise ValueError(f"two matrices are called {name}: leave one of them out")
    return found


def counted(vectors: int, not_chosen: int) -> list[str]:
    """What is left out and is not named, because there is much of it."""
    kinds = (
        (vectors, "vector or scalar", "vectors and scalars"),
        (not_chosen, "matrix that is not chosen", "matrices that are not chosen"),
    )
    return [f"{count} {one if count == 1 else many}" for count, one, many in kinds if count]


def some(names: Sequence[str]) -> str:
    """The first few names, for an error."""
    return ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")
