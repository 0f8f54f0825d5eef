"""Candidates: which tensors of a checkpoint are weights that a linear layer or a convolution would take as factors.

Of a checkpoint names and shapes tell, as they do to `fastrank.analyze`:

    linear layer     `x.weight` of two axes: `(out, in)`
    convolution      `x.weight` of four or five axes, or of three and a bias of length `c_out`: `(c_out, c_in * kernel)`

They do not tell of embeddings, nor of the groups of a convolution: `load_factorized` asks the model. The parts from
which a layer makes its weight (`weight_v`, `weight_orig`, `parametrizations.weight.original0`) are not called weight.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping

from torch import Tensor

from ..weights import DTYPES

WEIGHT = "weight"


def reasons_to_keep(tensors: Mapping[str, Tensor], of_layer: Callable[[str], str]) -> dict[str, str]:
    """Why tensors of two axes or more are no candidates, by name. A candidate has no entry.

    of_layer: why the layer of a tensor would not take its factors; empty where it would.
    """
    same: dict[object, list[str]] = defaultdict(list)
    for name, x in tensors.items():
        if x.ndim > 1 and x.numel():
            same[x.data_ptr() or id(x), x.dtype, x.shape, x.stride()].append(name)
    tied = {name: f"shared by {', '.join(names)}" for names in same.values() if len(names) > 1 for name in names}
    reasons = {}
    for name, x in tensors.items():
        if x.ndim < 2:
            continue
        reason = tied.get(name) or of_layer(name)
        if not reason and x.dtype not in DTYPES:
            reason = f"dtype {str(x.dtype).removeprefix('torch.')}"
        if reason or not x.numel():
            reasons[name] = reason or "empty"
    return reasons


def reason_by_shape(name: str, tensors: Mapping[str, Tensor]) -> str:
    """Why the tensor of this name, of two axes or more, is no weight of a linear layer or of a convolution."""
    x = tensors[name]
    if name.rpartition(".")[2] != WEIGHT:
        return "not called weight"
    if x.ndim == 2:
        return ""
    bias = tensors.get(f"{name.removesuffix(WEIGHT)}bias")
    outputs = len(bias) if bias is not None and bias.ndim == 1 else None
    if outputs == x.shape[1] != x.shape[0]:
        return "a transposed convolution"
    if x.ndim == 3 and outputs != x.shape[0]:
        return "a stack of matrices, or a convolution without a bias"
    return "" if x.ndim < 6 else f"{x.ndim} axes"
