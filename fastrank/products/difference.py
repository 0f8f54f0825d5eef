"""Difference: the weights of a model less those of another model, or of the same one at another time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from ..weights import Choice, TrackedWeights, clean_name, difference_of, refuse_pieces

CURE = (
    "difference needs all of it here; give RankTracker a function of your own, such as "
    "track={'difference': lambda model: model.output.weight - before}, where before is a clone of the sharded weight"
)
"""What to do for weights of which no process has the whole."""


def difference(
    model: nn.Module,
    reference: nn.Module | Mapping[str, Tensor] | str = "now",
    *,
    name: str = "difference",
    **choice: Any,
) -> dict[str, Callable[[nn.Module], dict[str, Tensor]]]:
    """The matrices W - W_0 of a model against a reference, for `track` of `RankTracker`: what fine-tuning has added.

        RankTracker(model, optimizer, include=[], track=fastrank.difference(model, "now"))

    A difference is rounded once, to FP32; where either is FP64, to FP64.

    Args:
        model: its weights are seen as a tracker sees them: attention's q, k and v, gates, groups, effective weights.
        reference: another model with the same weights, a state dict, or `"now"` (default): the weights as they are. Of
            a state dict only stored weights can be read. It is copied: that takes the memory of those weights.
        name: of the differences, `difference/WEIGHT` (default `"difference"`).
        choice: arguments of `RankTracker` that choose the weights: `include`, `exclude`, `types`, `select`, `weights`,
            `split`.

    Raises:
        TypeError, ValueError: an argument is wrong, or the reference lacks a weight, or has it with another shape.
    """
    known = [field.name for field in fields(Choice)]
    for argument in choice:
        if argument not in known:
            raise TypeError(f"difference: unexpected argument {argument!r}; those that choose are {', '.join(known)}")
    weights = TrackedWeights(model, Choice(**choice))
    sources = weights.sources()
    refuse_pieces(weights.names, sources, CURE)
    if isinstance(reference, nn.Module):
        other = TrackedWeights(reference, Choice(**choice))
        theirs = other.sources()
        refuse_pieces(other.names, theirs, CURE)
        there = dict(zip(other.names, (source.matrix for source in theirs), strict=True))
    elif isinstance(reference, Mapping):
        state = {clean_name(key): value for key, value in reference.items()}
        try:
            cut = [matrix for weight in weights.tracked for matrix in weight.read_from(state)]
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"reference: {error}") from error
        there = dict(zip(weights.names, cut, strict=True))
    elif isinstance(reference, str) and reference == "now":
        there = dict(zip(weights.names, (source.matrix for source in sources), strict=True))
    else:
        raise TypeError(f"reference: expected a model, a state dict or 'now', not {reference!r}")
    kept = []
    for own, source in zip(weights.names, sources, strict=True):
        matrix = there.get(own)
        if matrix is None:
            raise ValueError(f"reference: the other model has no {own!r}")
        if matrix.shape != source.matrix.shape:
            here, found = tuple(source.matrix.shape), tuple(matrix.shape)
            raise ValueError(f"reference: {own!r} is {here} in the model, and {found} there")
        kept.append(matrix.to(source.matrix.device, copy=True))

    @torch.no_grad()
    def differences(_: nn.Module) -> dict[str, Tensor]:
        now = weights.sources()
        refuse_pieces(weights.names, now, CURE)
        pairs = zip(weights.names, now, kept, strict=True)
        return {own: difference_of(source.matrix, old.to(source.matrix.device)) for own, source, old in pairs}

    return {name: differences}
