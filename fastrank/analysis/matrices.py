"""What an analysis measures, wherever it comes from, and what it leaves out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..weights import TrackedWeights, refuse_pieces

LISTED = 5  # names in an error


class Recipe(NamedTuple):
    """A weight that is made of tensors of a checkpoint: not before it is measured, so that one at a time is in memory.

    Its shape and dtype are known before: those of ``like``, which has no numbers (it is on the meta device).
    """

    like: Tensor
    parts: tuple[Tensor, ...]
    make: Callable[..., Tensor]
    """Makes the weight of its parts."""


class Weight(NamedTuple):
    """One weight: a matrix, or a tensor that is cut into several."""

    recipe: Recipe
    convolution: bool = False
    """Whether it is a convolution's kernel, as a matrix."""

    @property
    def shape(self) -> torch.Size:
        return self.recipe.like.shape

    def make(self) -> Tensor:
        """The numbers, detached."""
        return self.recipe.make(*self.recipe.parts)

    def stand_in(self) -> Tensor:
        """A tensor of its shape and dtype that takes no memory, to see how the weight would be cut."""
        like = self.recipe.like
        return torch.empty((), dtype=like.dtype).expand(like.shape) if like.is_meta else like


class Matrices(NamedTuple):
    """The weights of a model or a checkpoint, and what of it is not among them."""

    weights: dict[str, Weight]
    """By their names. Those of the matrices in a history are these, or these and the part's, as `split` has it."""
    split: Mapping[str, object]
    """How weights are cut, as for `fastrank.weights.Choice`."""
    left_out: list[str]
    """Tensors of which no rank is counted, each with the reason; the number of vectors, and of what is not chosen."""
    not_looked_at: dict[str, str]
    """Groups of tensors beside the one that was chosen: by the key that leads there, what each holds."""
    scaled: list[str]
    """What was multiplied by which scales, a sentence each."""


class Holder(nn.Module):
    """A module that holds named tensors and nothing else, for those who take a model."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        # Not by `register_parameter`, which refuses names with dots. And not frozen, because a tracker keeps a copy of
        # what is frozen, to see whether it changes. What was made in inference mode cannot be a parameter outside it.
        for name, x in tensors.items():
            self._parameters[name] = nn.Parameter(x.clone() if x.is_inference() else x)


def as_it_is(x: Tensor, convolution: bool = False) -> Weight:
    """A weight that needs no making."""
    return Weight(Recipe(x, (x,), lambda part: part), convolution)


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
