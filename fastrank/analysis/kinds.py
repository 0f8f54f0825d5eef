"""Kinds: what names tell of a matrix's place in a network: the type of its layer, and how deep it stands.

Names are those of transformers' models, of Meta's, of timm's, of diffusers' and of PyTorch's own layers. A name is
looked at from its end, because ``output.dense`` of a perceptron and ``attention.output.dense`` end alike.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

CONVOLUTION, OTHER = "convolution", "other"
ATTENTION = r"(attn|attention|selfattention|encdecattention|crossattention|mha|self_attn|encoder_attn)\w*"
PATTERNS = {
    "attention q": r"q_proj|q_[ab]_proj|to_q|add_q_proj|wq(_[ab])?|q_lin|query(_proj)?|q|query_layer",
    "attention k": r"k_proj|to_k|add_k_proj|wk|k_lin|key(_proj)?|k|key_layer",
    "attention v": r"v_proj|to_v|add_v_proj|wv|v_lin|value(_proj)?|v|value_layer",
    "attention kv": r"kv_[ab]_proj(_with_mqa)?|wkv_[ab]|kv_proj|to_kv|kv",
    "attention qkv": r"c_attn|qkv_proj|query_key_value|wqkv|qkv|in_proj|to_qkv|attn_qkv",
    "attention o": (
        rf"o_proj|out_lin|to_out(\.\d)?|to_add_out|{ATTENTION}\.(c_proj|proj|out_proj|dense|output\.dense|o|wo)"
        r"|self_attention\.dense"
    ),
    "mlp gate+up": r"gate_up_proj",
    "router": r"router(\.\w+)?|block_sparse_moe\.gate|mlp\.gate|ffn\.gate|(moe|feed_forward)\.gate",
    "mlp gate": r"gate_proj|(feed_forward|ffn|mlp|experts\.\d+|shared_experts)\.w1|wi_0",
    "mlp up": r"up_proj|(feed_forward|ffn|mlp|experts\.\d+|shared_experts)\.w3|wi_1|wi|c_fc|fc1|fc_in|linear1|lin1"
    r"|intermediate\.dense|dense_h_to_4h|ff(n)?\.net\.0\.proj",
    "mlp down": r"down_proj|(feed_forward|ffn|mlp|experts\.\d+|shared_experts)\.w2|(mlp|ff|ffn)\.(c_proj|wo)"
    r"|densereludense\.wo|fc2|fc_out|linear2|lin2|output\.dense|dense_4h_to_h|ff(n)?\.net\.2",
    "embedding": r"embed_tokens|embed_positions|(tok_|word_|position_|token_type_)?embeddings?|wte|wpe|embed_in|shared"
    r"|relative_attention_bias|pos_embed|position_embedding|token_embedding|tok_embeddings|\w*embed(ding)?s?",
    "head": r"lm_head|embed_out|classifier|score|head|heads\.head|output|qa_outputs|predictions\.decoder",
}
"""Regular expressions of how a name ends, without ``.weight``; the first type that has one that fits is it. After
attention's own names, since ``self_attn.out_proj`` is one of these."""
ENDINGS = {kind: re.compile(rf"(.*[./])?({pattern})", re.IGNORECASE) for kind, pattern in PATTERNS.items()}
PART = re.compile(r"(.*)\[([^\[\]]+)\]")
BLOCK = re.compile(r"(.*?)\.?(?<![^.])(\d+)(\..*|$)")
PARTS = {"q": "attention q", "k": "attention k", "v": "attention v"}


def layer_type(name: str, convolution: bool = False) -> str:
    """The type of the layer whose matrix has this name: a key of `PATTERNS`, `CONVOLUTION` or `OTHER`.

    A factor that `fastrank.factorize` wrote, ``x.weight.U`` or ``x.weight.V``, has the type of ``x.weight``.
    """
    if convolution:
        return CONVOLUTION
    part = PART.fullmatch(name)
    if part is not None and part[2] in PARTS:
        return PARTS[part[2]]
    stem = re.sub(r"[._]?(weight|kernel)(\.[UV])?$", "", part[1] if part is not None else name)
    return next((kind for kind, ending in ENDINGS.items() if ending.fullmatch(stem)), OTHER)


def depths(names: Sequence[str]) -> list[int | None]:
    """How deep each matrix stands: the number of its block, among the blocks of all matrices; None where it is in none.

    A block is what has the first number in a name: ``model.layers.3``. Blocks are counted in the order of their
    numbers, also where the names come in another, and those of an encoder before those of a decoder.
    """
    found = [BLOCK.fullmatch(name) for name in names]
    stems = list(dict.fromkeys(match[1] for match in found if match))
    places = sorted({(stems.index(match[1]), int(match[2])) for match in found if match})
    order = {place: i for i, place in enumerate(places)}
    return [order[stems.index(match[1]), int(match[2])] if match else None for match in found]


def summary(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each type of layer, in the order of `PATTERNS`, of the rows of a table with a column ``layer_type``.

    Keys: ``layer_type, matrices, parameters``; ``rank`` and ``lowest_rank``, mean and least share of the largest
    possible rank; ``stable_rank``, the mean. Of matrices that are not finite only the numbers count; a rank that is not
    certified counts as the middle of its bounds. What no matrix of a type has is None.
    """
    by_type: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_type.setdefault(row["layer_type"], []).append(row)
    return [_summed(kind, by_type[kind]) for kind in sorted(by_type, key=[*PATTERNS, CONVOLUTION, OTHER].index)]


def _summed(kind: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    shares = [share for row in rows if (share := rank_share(row)) is not None]
    stable = [
        row["stable_rank"] for row in rows if row["stable_rank"] is not None and math.isfinite(row["stable_rank"])
    ]
    return {
        "layer_type": kind,
        "matrices": len(rows),
        "parameters": sum(row["rows"] * row["cols"] for row in rows),
        "rank": _mean(shares),
        "lowest_rank": min(shares, default=None),
        "stable_rank": _mean(stable),
    }


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def rank_share(row: Mapping[str, Any]) -> float | None:
    """The rank of a matrix over the largest that it could have; None where it is not finite."""
    most = min(row["rows"], row["cols"])
    return None if row["rank_lower"] is None else (row["rank_lower"] + row["rank_upper"]) / (2 * max(most, 1))
