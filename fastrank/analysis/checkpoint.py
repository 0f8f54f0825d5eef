"""The matrices of a state dict, or of a checkpoint, whose model is not there: names and shapes tell of its layers."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..weights import DTYPES, Choice, TrackedWeights
from .errors import AnalyzeError
from .groups import choose
from .layers import Split, as_layer, pieces, weights_in_use
from .matrices import Holder, Matrices, Recipe, Weight, as_it_is, counted, current, some
from .scales import quantised

REPEATED = 2**28
"""Bytes of a matrix that repeats its memory, as an expanded one does, above which it is left out: a few bytes may say
that they are more than any memory holds."""


def of_checkpoint(
    checkpoint: Path | str, state: Any, key: str | None, choice: Choice, split: Mapping[str, Split]
) -> Matrices:
    """The matrices in what a checkpoint holds, or a state dict.

    Args:
        checkpoint: the path, or another name, for messages.
        state: nested dictionaries and lists of tensors, arrays of NumPy and plain values.
        key: where in it the parameters are; see `groups.choose`.
        choice: which names are wanted; its `split` is not looked at.
        split: how weights that stack several matrices are cut, before what names and shapes tell. A convolution's
            kernel is a matrix by then.

    Tensors that share their memory are measured once, under the first name that is chosen. Raises AnalyzeError for a
    key that is not there, and where nothing is a matrix.
    """
    chosen = choose(checkpoint, state, key)
    tensors, less = chosen.tensors, quantised(chosen.tensors)
    parts = {name: f"part of {weight}" for name, weight in less.part_of.items() if tensors[name].ndim > 1}
    others = {name: x for name, x in tensors.items() if name not in less.made}
    reasons = {name: reason for name, x in others.items() if (reason := _reason_without_rank(x))}
    reasons |= less.reasons | parts
    plain = {name: x for name, x in others.items() if name not in reasons}
    made, part_of = weights_in_use(plain)
    reasons |= {name: f"part of {weight}" for name, weight in part_of.items()}
    made |= less.made
    # Each weight stands where it, or the first of what it is made from, stands.
    places = [part_of.get(name, name) for name in tensors if name in plain or name in less.made]
    of_layers = {name: made[name].like if name in made else tensors[name] for name in dict.fromkeys(places)}
    known = [name for name, x in of_layers.items() if x.ndim > 1]
    wanted = [name for name in known if not choice.reason_against(name, nn.Module())]
    first: dict[object, str] = {}
    weights: dict[str, Weight] = {}
    for name in wanted:
        x, matrix = of_layers[name], as_layer(name, of_layers)
        # A tensor that is made of others, as those of quantised or sharded weights, may have no memory of its own.
        same = first.setdefault((x.data_ptr() or id(x), x.dtype, x.shape, x.stride(), matrix.shape), name)
        if same != name:
            reasons[name] = f"the same tensor as {same}"
        elif name in made:
            weights[name] = Weight(_seen_as_layer(name, made[name], of_layers), matrix.shape != x.shape)
        else:
            weights[name] = as_it_is(matrix.resolve_neg(), matrix.shape != x.shape)
    left_out = [f"{name} ({reasons[name]})" for name in {**tensors, **of_layers} if name in reasons]
    left_out += chosen.left_out + counted(len(of_layers) - len(known), len(known) - len(wanted))
    if not weights:
        what = f"none of its {len(known)} matrices is chosen" if known else "has no matrix whose rank could be counted"
        raise AnalyzeError(f"{checkpoint}: {what}: {some(known or left_out)}")
    stand_ins = {name: weight.stand_in() for name, weight in weights.items()}
    splits = _splits(stand_ins, of_layers, split)
    try:
        current(TrackedWeights(Holder(stand_ins), Choice(split=splits)))
    except ValueError as error:
        raise AnalyzeError(f"{checkpoint}: {error}; it has {some(list(weights))}") from error
    said = Counter(less.scaled[name] for name in weights if name in less.scaled)
    scaled = [f"{count} {'weight' if count == 1 else 'weights'} of {what}" for what, count in said.items()]
    return Matrices(weights, splits, left_out, chosen.not_looked_at, scaled)


def _seen_as_layer(name: str, recipe: Recipe, of_layers: Mapping[str, Tensor]) -> Recipe:
    """A recipe of the weight as its layer sees it, of which names and shapes tell."""

    def make(*parts: Tensor) -> Tensor:
        return as_layer(name, {**of_layers, name: recipe.make(*parts)})

    return Recipe(as_layer(name, of_layers), recipe.parts, make)


def _reason_without_rank(tensor: Tensor) -> str:
    """Why no rank of a tensor can be counted; empty for dense matrices, and for vectors, which are not listed."""
    if tensor.is_nested:  # its shape must not be asked for
        return "nested"
    if tensor.layout != torch.strided:
        return str(tensor.layout).removeprefix("torch.")
    if tensor.is_meta:
        return "meta"
    if tensor.ndim < 2:
        return ""
    if tensor.is_quantized or tensor.dtype not in DTYPES:
        return f"dtype {str(tensor.dtype).removeprefix('torch.')}"
    size = tensor.numel() * tensor.element_size()
    if size > REPEATED and size > tensor.untyped_storage().nbytes():
        return f"of {size} bytes, which repeat {tensor.untyped_storage().nbytes()}"
    return "" if tensor.numel() else "empty"


def _splits(
    matrices: Mapping[str, Tensor], tensors: Mapping[str, Tensor], asked: Mapping[str, Split]
) -> dict[str, Split]:
    """What names and shapes tell, after what the user asks for: the first glob that matches a name decides."""
    told = {glob.escape(name): parts for name in matrices if (parts := pieces(name, tensors))}
    return {**asked, **{name: (parts, 0) for name, parts in told.items() if name not in asked}}
