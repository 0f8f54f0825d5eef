"""Heads: the weights of an attention layer's heads, whatever the layer calls them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..weights import DTYPES, read_weight

SEPARATE = (
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("query_proj", "key_proj", "value_proj"),
    ("q_lin", "k_lin", "v_lin"),
    ("q", "k", "v"),
)
"""Names of a layer's projections to queries, keys and values."""
OUTPUTS = ("o_proj", "out_proj", "c_proj", "out_lin", "o")
"""Names of its projection from all heads to outputs. BERT's layers keep theirs in `attention.output.dense`."""
NUMBERS = ("num_heads", "num_attention_heads", "n_heads", "n_head")
SIZES = ("head_dim", "attention_head_size", "key_value_proj_dim")
LOOKED_FOR = (
    f"nn.MultiheadAttention, and modules with {', '.join('/'.join(names) for names in SEPARATE)} or GPT-2's c_attn "
    f"that have {'/'.join(NUMBERS)} or {'/'.join(SIZES)}"
)


class Projections(NamedTuple):
    """The weights of an attention layer, each `(outputs, inputs)`."""

    heads: int
    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor | None
    """None where it is not found."""


def projections_of(model: nn.Module, path: str, layer: nn.Module) -> Projections | None:
    """The weights of the layer at `path` of a model; None if it is no attention layer that is known.

    Raises:
        ValueError: it is one, but its weights cannot be read, or do not fit its heads.
    """
    if isinstance(layer, nn.MultiheadAttention):
        if layer._qkv_same_embed_dim:
            query, key, value = _of(path, layer, "in_proj_weight").chunk(3)
        else:
            query, key, value = (_of(path, layer, f"{name}_proj_weight") for name in ("q", "k", "v"))
        return Projections(layer.num_heads, query, key, value, _rows(path, layer.out_proj))
    children = dict(layer.named_children())
    names = next((names for names in SEPARATE if all(name in children for name in names)), None)
    number, size = _number(layer, NUMBERS), _number(layer, SIZES)
    # BigCode's layers of this name take turns of queries, keys and values.
    is_gpt2 = "c_attn" in children and "BigCode" not in type(layer).__name__
    if (names is None and not is_gpt2) or (number is None and size is None):
        return None
    if names is not None:
        query, key, value = (_rows(f"{path}.{name}", children[name]) for name in names)
    else:
        fused = _rows(f"{path}.c_attn", children["c_attn"])
        if "q_attn" in children:  # attention to another sequence
            query, (key, value) = _rows(f"{path}.q_attn", children["q_attn"]), fused.chunk(2)
        else:
            query, key, value = fused.chunk(3)
    outer = _output_of(model, path, children)
    output = None if outer is None else _rows(f"{path}, output", outer)
    heads = number if number is not None else len(query) // max(1, size or 1)
    if size is not None and heads * size != len(query):
        raise ValueError(f"attention layer {path!r}: {heads} heads of {size} do not make {len(query)} queries")
    groups = _number(layer, ("num_key_value_groups",))
    if groups is not None and len(query) != groups * len(key):
        raise ValueError(
            f"attention layer {path!r}: {len(query)} queries are not {groups} for each of {len(key)} keys; projections "
            "that make gates as well, for example, are not known"
        )
    return Projections(heads, query, key, value, output)


def split_qk(where: str, heads: int, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """W_Q^T `(heads, inputs, head_dim)` and W_K `(heads of keys, head_dim, inputs)` of each head.

    Raises:
        ValueError: the weights do not fit the heads.
    """
    size = _size(where, heads, len(query), len(key))
    return _heads(query, size).mT, _heads(key, size)


def split_ov(where: str, heads: int, output: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """W_O `(heads, outputs, head_dim)` and W_V `(heads of values, head_dim, inputs)` of each head. Raises as before."""
    size = _size(where, heads, output.shape[1], len(value))
    return _heads(output.mT, size).mT, _heads(value, size)


def rows_of(weight: Tensor, layer: nn.Module) -> Tensor:
    """A projection's weight as `(outputs, inputs)`: GPT-2's `Conv1D` stores it the other way."""
    return weight.mT if type(layer).__name__ == "Conv1D" else weight


def _heads(rows: Tensor, size: int) -> Tensor:
    """The rows of each head, `(heads, head_dim, ...)`."""
    return torch.stack(torch.split(rows, size))


def _size(where: str, heads: int, of_all: int, of_shared: int) -> int:
    """The size of a head."""
    size = of_all // heads
    if size * heads != of_all or not size or of_shared % size or not of_shared or heads % (of_shared // size):
        raise ValueError(f"{where}: {of_all} and {of_shared} rows cannot be cut into {heads} heads")
    return size


def _rows(path: str, layer: nn.Module) -> Tensor:
    return rows_of(_of(path, layer, "weight"), layer)


def _of(path: str, layer: nn.Module, attribute: str) -> Tensor:
    weight = read_weight(layer, attribute)
    if weight is None or weight.ndim != 2 or weight.dtype not in DTYPES:
        found = "none" if weight is None else f"one of {tuple(weight.shape)}, {weight.dtype}"
        raise ValueError(
            f"attention: {path!r}, a {type(layer).__name__}, needs a {attribute} that is a matrix, and has {found}"
        )
    return weight


def _number(layer: nn.Module, names: tuple[str, ...]) -> int | None:
    found = (getattr(layer, name, None) for name in names)
    return next((x for x in found if isinstance(x, int) and not isinstance(x, bool) and x > 0), None)


def _output_of(model: nn.Module, path: str, children: dict[str, nn.Module]) -> nn.Module | None:
    own = next((children[name] for name in OUTPUTS if name in children), None)
    if own is not None:
        return own
    beside = getattr(model.get_submodule(path.rpartition(".")[0]), "output", None)
    dense = getattr(beside, "dense", None)
    return dense if isinstance(dense, nn.Module) else None
