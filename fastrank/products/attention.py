"""Attention: the products of a head's weights, W_Q^T W_K and W_O W_V, without forming them.

    score(x_i, x_j) = x_i^T (W_Q^T W_K) x_j        output = (W_O W_V) sum_j a_ij x_j

`W_Q`, `W_K` and `W_V` are `(head_dim, inputs)`, as `nn.Linear` stores them, and `W_O` is `(outputs, head_dim)`, one of
each for a head. Biases and rotary embeddings are left out. Where several heads of queries share a head of keys and
values, as in grouped-query attention, each has a product of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial
from itertools import takewhile

import torch
from torch import Tensor, nn

from ..arguments import check_count
from ..weights import Choice, TrackedWeights, clean_name
from .core import join, triangle
from .heads import LOOKED_FOR, projections_of, rows_of, split_ov, split_qk

Track = dict[str, Callable[[nn.Module], Tensor]]


def attention_qk(
    model: nn.Module, *, heads: int | None = None, query: str | None = None, key: str | None = None
) -> Track:
    """W_Q^T W_K of every head of every attention layer, for `track` of `RankTracker`.

    Found are `nn.MultiheadAttention`, also in transformer layers, and what Hugging Face's GPT-2, BERT, Llama, T5, ViT
    and their like are made of. For other layers say which weights are which:

        attention_qk(model, heads=8, query="*.to_q.weight", key="*.to_k.weight")

    The products are not formed, see `core`: the rows of a head have the shape `(head_dim, head_dim)`, so that a product
    of full rank is one of rank head_dim.

    Args:
        model: with attention layers.
        heads: number of query heads, for weights that are named by globs (default None: layers are found by their
            type).
        query, key: globs of the weights' names as `RankTracker` has them; brackets stand for themselves. The weights
            that match are taken in pairs, in the order of the model.

    Returns:
        Functions by the names `PATH.qk`, whose results are stacks: `PATH.qk[0]` is the first head's.

    Raises:
        ValueError: no attention layer is found, or the weights of one do not fit its heads.
    """
    return _track(model, "qk", heads, query=query, key=key)


def attention_ov(
    model: nn.Module, *, heads: int | None = None, output: str | None = None, value: str | None = None
) -> Track:
    """W_O W_V of every head, as `PATH.ov[0]` and so on. See `attention_qk`.

    attention_ov(model, heads=8, output="*.to_out.weight", value="*.to_v.weight")
    """
    return _track(model, "ov", heads, output=output, value=value)


def _track(model: nn.Module, kind: str, heads: int | None, **globs: str | None) -> Track:
    if heads is None and not any(globs.values()):
        paths = [path for path, module in model.named_modules() if projections_of(model, path, module) is not None]
        if not paths:
            raise ValueError(
                f"attention_{kind}: no attention layer was found in the model; looked for {LOOKED_FOR}. Say which "
                f"weights are which: heads=8, {', '.join(f'{name}=...' for name in globs)}"
            )
        return {clean_name(f"{path}.{kind}".removeprefix(".")): partial(_found, model, path, kind) for path in paths}
    if heads is None or not all(globs.values()):
        raise ValueError(f"attention_{kind}: heads, {' and '.join(globs)} go together: give all, or none")
    number = check_count(heads, "heads", 1)
    weights = TrackedWeights(model, Choice())
    chosen = [[i for i, name in enumerate(weights.names) if _matches(name, glob)] for glob in globs.values() if glob]
    if not chosen[0] or len(chosen[0]) != len(chosen[1]):
        found = ", ".join(
            f"{len(own)} {name}={glob!r}" for (name, glob), own in zip(globs.items(), chosen, strict=True)
        )
        raise ValueError(f"attention_{kind}: as many weights of either kind are needed; {found} match")
    track: Track = {}
    for first, second in zip(*chosen, strict=True):
        parts = zip(weights.names[first].split("."), weights.names[second].split("."), strict=False)
        name = ".".join([*(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], parts)), kind])
        if name in track:
            raise ValueError(f"attention_{kind}: several pairs of weights have the name {name!r}; use narrower globs")
        track[name] = partial(_named, weights, first, second, kind, number)
    return track


def _matches(name: str, glob: str) -> bool:
    return fnmatchcase(name, glob.replace("[", "[[]"))


def _found(model: nn.Module, path: str, kind: str, _: nn.Module) -> Tensor:
    """The cores of a layer's heads, `(heads, head_dim, head_dim)`."""
    found = projections_of(model, path, model.get_submodule(path))
    if found is None:
        raise RuntimeError(f"attention_{kind}: {path!r} is no longer an attention layer; make a new RankTracker")
    if kind == "qk":
        return _cores(kind, path, found.heads, found.query, found.key)
    if found.output is None:
        raise ValueError(f"attention_ov: {path!r} has no projection to outputs; say which weights are: output=, value=")
    if found.output.shape[1] * len(found.key) != len(found.query) * len(found.value):
        raise ValueError(f"attention_ov: {path!r} gives its projection to outputs more than its heads, or less")
    return _cores(kind, path, found.heads, found.output, found.value)


def _named(weights: TrackedWeights, first: int, second: int, kind: str, heads: int, _: nn.Module) -> Tensor:
    sources = weights.sources()
    owners = [(weight, i) for weight in weights.tracked for i in range(len(weight.matrices))]
    where = f"{weights.names[first]} and {weights.names[second]}"
    rows = []
    for place in (first, second):
        weight, i = owners[place]
        matrix = sources[place].matrix if sources[place].piece is None else weight.read_whole()[i]
        rows.append(rows_of(matrix, weight.place.layer))
    return _cores(kind, where, heads, *rows)


@torch.no_grad()
def _cores(kind: str, where: str, heads: int, first: Tensor, second: Tensor) -> Tensor:
    split = split_qk if kind == "qk" else split_ov
    left, right = split(f"attention_{kind}: {where}", heads, first, second)
    return join(triangle(left), triangle(right.mT).repeated(len(left) // len(right)))
