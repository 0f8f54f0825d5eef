"""Weights that are stored in eight bits or fewer: multiplied by their scales where that is exact, else named.

    float8   ``x`` with ``x_scale`` or ``x_scale_inv`` of one scale a tensor, a row or a block of 128 x 128: the product

Both names multiply: DeepSeek's ``weight_scale_inv`` is the inverse of what the weights were multiplied by before they
were rounded. A number of float8 times a scale of FP32 has at most 28 significant bits, so that FP64 holds it; FP32 does
where the scale has few bits, as one of bfloat16 or a power of two has. Sources: the formats of DeepSeek-V3, and of
compressed-tensors, which vLLM reads.

    AWQ, GPTQ    ``x.qweight``, with ``qzeros, scales`` and perhaps ``g_idx``
    packed       ``x_packed`` of compressed-tensors; ``x_blocks`` of MXFP4; ``x`` of bytes with ``x.absmax`` or ``.SCB``
                 of bitsandbytes, or with ``x_scale``

have several numbers in each element, and no rank of what is stored. Their scales and tables are no matrices either.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from .matrices import Recipe

FLOAT8 = tuple(
    getattr(torch, name)
    for name in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
    if hasattr(torch, name)
)
BLOCK = 128
"""Rows and columns of a block with a scale of its own."""
SCALES = ("_scale_inv", "_scale")
BESIDE = {
    ".qweight": (("qzeros", "scales", "g_idx"), "packed by GPTQ or AWQ"),
    "_packed": (("scale", "shape", "zero_point", "global_scale", "g_idx"), "packed by compressed-tensors"),
    "_blocks": (("scales",), "packed as MXFP4"),
}
"""How the names of packed tensors end, what then stands beside them, and what they are."""
NIBBLES = ("absmax", "quant_map", "nested_absmax", "nested_quant_map", "quant_state", "SCB")
"""What bitsandbytes has below the name of a packed weight, or, for the last, in its place."""


class Quantised(NamedTuple):
    """What is not stored in floating point numbers of 16 bits or more."""

    made: dict[str, Recipe]
    """Weights that are products with scales, by their names."""
    part_of: dict[str, str]
    """Scales and tables, each with the name of the tensor that it belongs to."""
    reasons: dict[str, str]
    """Tensors of which no rank is counted."""
    scaled: dict[str, str]
    """Of each of the weights that are made: of what dtype it is, and which scales it is multiplied by."""


def quantised(tensors: Mapping[str, Tensor]) -> Quantised:
    """What of a checkpoint's tensors is quantised."""
    found = Quantised({}, {}, {}, {})
    for name, x in tensors.items():
        if x.is_nested or x.layout != torch.strided or x.is_meta:
            continue
        scale = next((f"{name}{end}" for end in SCALES if f"{name}{end}" in tensors), None)
        if x.dtype in FLOAT8 and x.ndim > 1:
            _float8(name, x, scale, tensors, found)
        elif not x.is_floating_point() and not x.is_complex():
            _packed(name, x, scale, tensors, found)
    return found


def _float8(name: str, x: Tensor, scale: str | None, tensors: Mapping[str, Tensor], found: Quantised) -> None:
    dtype = _dtype(x)
    if scale is None:
        found.reasons[name] = f"dtype {dtype}, without a weight_scale or weight_scale_inv"
        return
    s, last = tensors[scale], scale.rpartition(".")[2]
    found.part_of[scale] = name
    per = scales_of(x.shape, s.shape)
    others = [f"{name}{end}" for end in (*SCALES, "_scale_2", "_zero_point") if f"{name}{end}" in tensors]
    others.remove(scale)
    if others:  # a second scale, the inverse of the first one, or what is subtracted
        found.part_of.update(dict.fromkeys(others, name))
        beside = " and ".join(other.rpartition(".")[2] for other in (scale, *others))
        found.reasons[name] = f"dtype {dtype}, with {beside}, which together are not known"
        return
    if per is None or not s.dtype.is_floating_point:
        shape = " x ".join(map(str, s.shape))
        found.reasons[name] = f"dtype {dtype}, with a {last} of shape {shape} that is not known"
        return
    like = torch.empty(x.shape, dtype=torch.float32, device="meta")
    found.made[name] = Recipe(like, (x, s), multiplied)
    found.scaled[name] = f"{dtype}, each number times its {last} ({per})"


def _packed(name: str, x: Tensor, scale: str | None, tensors: Mapping[str, Tensor], found: Quantised) -> None:
    for end, (beside, what) in BESIDE.items():
        stem = name.removesuffix(end)
        siblings = [f"{stem}{end[0]}{other}" for other in beside]
        if name.endswith(end) and any(sibling in tensors for sibling in siblings):
            found.reasons[name] = f"dtype {_dtype(x)}, {what}"
            found.part_of.update({s: name for s in siblings if s in tensors})
            return
    below = [other for other in _below(name, tensors) if other in tensors]
    if below:
        found.reasons[name] = f"dtype {_dtype(x)}, packed by bitsandbytes"
        found.part_of.update(dict.fromkeys(below, name))
    elif scale is not None:
        found.reasons[name] = f"dtype {_dtype(x)}, with {scale.rpartition('.')[2]}: quantised, or packed"
        more = [f"{name}_scale_2", f"{name}_zero_point"]
        found.part_of.update({other: name for other in (scale, *more) if other in tensors})


def _below(name: str, tensors: Mapping[str, Tensor]) -> list[str]:
    """What bitsandbytes may have beside a packed weight."""
    named = [f"{name}.{table}" for table in NIBBLES[:-2]]
    states = [f"{name}.quant_state.bitsandbytes__{kind}" for kind in ("nf4", "fp4")]
    return [*named, *states, f"{name.rpartition('.')[0]}.{NIBBLES[-1]}"]


def _dtype(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def scales_of(shape: torch.Size, scales: torch.Size) -> str | None:
    """What each of the scales of this shape belongs to in a weight `(..., m, n)`; None where that is not known."""
    *lead, m, n = shape
    blocks = (*lead, -(-m // BLOCK), -(-n // BLOCK))
    if scales.numel() == 1:
        return "one a tensor"
    if tuple(scales) in ((*lead, 1, 1), (*lead,)) and lead:
        return "one a matrix"
    if tuple(scales) in ((*lead, m, 1), (*lead, m)):
        return "one a row"
    return f"one a block of {BLOCK} x {BLOCK}" if tuple(scales) == blocks else None


def multiplied(x: Tensor, scale: Tensor) -> Tensor:
    """A weight `(..., m, n)` of float8 times its scales, exactly: FP32 where that holds every product, else FP64."""
    *lead, m, n = x.shape
    per, s, exact = scales_of(x.shape, scale.shape) or "", scale.double(), x.double()
    if per.startswith("one a block"):
        for i, start in enumerate(range(0, m, BLOCK)):
            of_columns = s[..., i, None, :].repeat_interleave(BLOCK, -1)[..., :n]
            exact[..., start : start + BLOCK, :] *= of_columns
    else:
        exact *= s.reshape(()) if per == "one a tensor" else s.reshape(*lead, -1, 1)
    small = exact.float()
    return small if bool((small == exact).all()) else exact
