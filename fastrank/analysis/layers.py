"""What names and shapes alone tell of a checkpoint's tensors: which weight a layer uses, and as which matrices.

A layer makes its weight ``x`` from other tensors, which the checkpoint has in its place:

    weight norm      ``x_g, x_v``, or ``parametrizations.x.original0, original1``: lengths and directions
    pruning          ``x_orig, x_mask``: their product
    spectral norm    ``x_orig, x_u, x_v``, or ``parametrizations.x.original, 0._u, 0._v``: the original over ``u . W v``

and sees it as matrices:

    convolution              four axes or more, or three and a bias of length ``c_out``: ``(c_out, c_in * kernel)``
    transposed convolution   a bias of length ``c_out``, which is the second axis and not the first: the same
    attention                ``in_proj_weight`` of three times as many rows as columns: q, k and v
    LSTM, GRU                ``weight_ih, weight_hh`` of four or three times as many rows as there are units: the gates
    any other                three axes are a stack of matrices

Not told are the groups of a convolution, a one-dimensional convolution without a bias, and a transposed one without a
bias or with as many outputs as inputs.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor

from .matrices import Recipe

Split = tuple[int | Sequence[str] | Sequence[int], int]
"""Parts and axis, as `fastrank.RankTracker` takes them for its argument ``split``."""

PARAMETRIZED = re.compile(r"(.*\.)?parametrizations\.([^.]+)\.(original[01]?|0\._[uv])")
SUFFIXED = re.compile(r"(.+)_(orig|mask|[guv])")
ROLES = {"original0": "g", "original1": "v", "original": "orig", "0._u": "u", "0._v": "v"}
RECURRENT = re.compile(r"(.*\.)?weight_[ih]h(|_l\d+|_l\d+_reverse)")
GATES = {4: ("i", "f", "g", "o"), 3: ("r", "z", "n")}
"""Of an LSTM and a GRU, in PyTorch's order."""


def weights_in_use(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Recipe], dict[str, str]]:
    """Which weights are made from several of the tensors, where it is known how. Nothing is made yet.

    Returns how each is made, and for each tensor that takes part in one the name of that weight.
    """
    parts: dict[str, dict[str, str]] = defaultdict(dict)
    for name in tensors:
        if new := PARAMETRIZED.fullmatch(name):
            parts[f"{new[1] or ''}{new[2]}"][ROLES[new[3]]] = name
        elif old := SUFFIXED.fullmatch(name):
            parts[old[1]][old[2]] = name
    made: dict[str, Recipe] = {}
    part_of: dict[str, str] = {}
    for weight, names in parts.items():
        roles, used = tuple(names), tuple(tensors[name] for name in names.values())
        like = None if weight in tensors else _made(roles, *(x.to("meta") for x in used))
        if like is not None:
            made[weight] = Recipe(like, used, cast(Callable[..., Tensor], partial(_made, roles)))
            part_of |= dict.fromkeys(names.values(), weight)
    return made, part_of


def _made(roles: Sequence[str], *tensors: Tensor) -> Tensor | None:
    """The weight that is made from these tensors, by their roles; None where they do not fit each other."""
    parts = dict(zip(roles, tensors, strict=True))
    match sorted(parts):
        case ["g", "v"]:
            return _with_norms(parts["v"], parts["g"])
        case ["mask", "orig"] if parts["mask"].shape == parts["orig"].shape:
            return parts["orig"] * parts["mask"]
        case ["orig", "u", "v"]:
            return _over_sigma(parts["orig"], parts["u"], parts["v"])
    return None


def _with_norms(v: Tensor, g: Tensor) -> Tensor | None:
    kept = [d for d in range(v.ndim) if g.shape == tuple(n if i == d else 1 for i, n in enumerate(v.shape))]
    if v.ndim < 2 or (g.ndim and not kept):
        return None
    lengths: Tensor = torch.linalg.vector_norm(v, dim=[d for d in range(v.ndim) if d not in kept[:1]], keepdim=True)
    return v * (g / lengths)


def _over_sigma(weight: Tensor, u: Tensor, v: Tensor) -> Tensor | None:
    sigmas = []
    for axis in (0, 1) if weight.ndim > 1 else ():  # the second is a transposed convolution's
        rows = weight.movedim(axis, 0).flatten(1)
        if rows.shape == (u.numel(), v.numel()):
            sigmas.append(u.flatten().to(rows.dtype) @ rows @ v.flatten().to(rows.dtype))
    # If both fit, the larger is right: u and v come from its power iteration, and are any vectors to the other.
    return weight / torch.stack(sigmas).amax() if sigmas else None


def as_layer(name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    """The tensor of this name as a matrix or a stack of them. It has two axes or more; the others tell its layer."""
    x = tensors[name]
    bias = tensors.get(f"{name.removesuffix('weight')}bias") if name.endswith("weight") else None
    outputs = len(bias) if bias is not None and bias.ndim == 1 else None
    if x.ndim == 2:
        return x
    if outputs == x.shape[1] != x.shape[0]:
        return x.transpose(0, 1).flatten(1)
    return x.flatten(1) if x.ndim > 3 or outputs == x.shape[0] else x


def pieces(name: str, tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Names of the matrices that stand one below the other in the tensor of this name; empty if it is a single one."""
    rows, cols, *more = tensors[name].shape
    if not more and name.endswith("in_proj_weight") and rows == 3 * cols:
        return ("q", "k", "v")
    recurrent = RECURRENT.fullmatch(name)
    if more or recurrent is None:
        return ()
    # The columns of weight_hh are the units, unless a projection weight_hr makes fewer of them.
    siblings = (f"{recurrent[1] or ''}weight_{kind}{recurrent[2]}" for kind in ("hr", "hh"))
    units = next((tensors[sibling].shape[-1] for sibling in siblings if sibling in tensors), 0)
    return GATES.get(rows // units, ()) if units and rows % units == 0 else ()
