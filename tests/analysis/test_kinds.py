"""The type and the depth of a layer are told by the names that the common libraries give."""

from __future__ import annotations

import pytest
import torch

from fastrank import analyze
from fastrank.analysis.kinds import depths, layer_type, summary

NAMES = {
    "attention q": """model.layers.0.self_attn.q_proj bert.encoder.layer.0.attention.self.query layers.0.attention.wq
        encoder.block.0.layer.0.SelfAttention.q a.to_q transformer.layer.0.attention.q_lin m.self_attn.q_a_proj""",
    "attention k": "layers.0.attention.wk model.layers.0.self_attn.k_proj vit.layer.3.attention.attention.key",
    "attention v": "encoder.block.0.layer.0.SelfAttention.v a.attn1.to_v",
    "attention kv": "model.layers.0.self_attn.kv_a_proj_with_mqa model.layers.0.self_attn.kv_b_proj",
    "attention qkv": """h.0.attn.c_attn gpt_neox.layers.0.attention.query_key_value blocks.0.attn.qkv
        model.layers.0.self_attn.qkv_proj h.1.attn.Wqkv""",
    "attention o": """model.layers.0.self_attn.o_proj h.0.attn.c_proj bert.encoder.layer.0.attention.output.dense
        model.decoder.layers.0.self_attn.out_proj layers.0.attention.wo encoder.block.0.layer.0.SelfAttention.o
        gpt_neox.layers.0.attention.dense blocks.0.attn.proj transformer.h.0.self_attention.dense a.attn1.to_out.0""",
    "mlp gate+up": "model.layers.0.mlp.gate_up_proj model.layers.0.mlp.experts.gate_up_proj",
    "mlp gate": """model.layers.0.mlp.gate_proj layers.0.feed_forward.w1 m.block_sparse_moe.experts.3.w1
        encoder.block.0.layer.1.DenseReluDense.wi_0""",
    "mlp up": """model.layers.0.mlp.up_proj h.0.mlp.c_fc bert.encoder.layer.0.intermediate.dense decoder.layers.0.fc1
        layers.0.feed_forward.w3 gpt_neox.layers.0.mlp.dense_h_to_4h layers.0.linear1 a.ff.net.0.proj""",
    "mlp down": """model.layers.0.mlp.down_proj h.0.mlp.c_proj bert.encoder.layer.0.output.dense decoder.layers.0.fc2
        layers.0.feed_forward.w2 encoder.block.0.layer.1.DenseReluDense.wo gpt_neox.layers.0.mlp.dense_4h_to_h""",
    "router": "model.layers.0.block_sparse_moe.gate model.layers.0.mlp.gate model.layers.0.mlp.router",
    "embedding": "model.embed_tokens wte wpe bert.embeddings.word_embeddings tok_embeddings shared gpt_neox.embed_in",
    "head": "lm_head output embed_out classifier score head",
    "other": "fc 0 pooler.dense layer1.0 model.layers.0.mamba.in_proj_x",
}


@pytest.mark.parametrize("kind", NAMES)
def test_a_type_is_told_by_how_a_name_ends(kind: str) -> None:
    for name in NAMES[kind].split():
        assert layer_type(f"{name}.weight") == layer_type(name) == kind, name
        assert layer_type(f"{name}.weight.U") == layer_type(f"{name}.weight.V") == kind, name  # factors
        assert layer_type(f"{name}.weight", convolution=True) == "convolution"
    assert layer_type("a.self_attn.in_proj_weight[q]") == "attention q"
    assert layer_type("a.self_attn.in_proj_weight[0]") == layer_type("a.self_attn.in_proj_weight") == "attention qkv"


def test_blocks_are_counted_in_the_order_of_their_numbers() -> None:
    names = ["model.embed", "e.block.10.q", "e.block.2.q", "e.block.2.experts.7.w1", "d.block.0.q", "layer1.0.conv1"]
    assert depths(names) == [None, 1, 0, 0, 2, 3]
    assert depths(["0.weight", "3.weight", "fc2.weight"]) == [0, 1, None]


def test_a_summary_has_a_row_for_each_type() -> None:
    state = {
        "layers.0.mlp.up_proj.weight": torch.eye(4),
        "layers.1.mlp.up_proj.weight": torch.diag(torch.tensor([1.0, 1, 0, 0])),
        "layers.1.q_proj.weight": torch.full((3, 5), torch.nan),
        "conv.weight": torch.ones(2, 3, 3, 3),
    }
    table = analyze(state)
    assert table.layer_type.tolist() == ["mlp up", "mlp up", "attention q", "convolution"]
    nowhere = {"rank": None, "lowest_rank": None, "stable_rank": None}
    assert table.attrs["layer_types"] == [
        {"layer_type": "attention q", "matrices": 1, "parameters": 15, **nowhere},
        {"layer_type": "mlp up", "matrices": 2, "parameters": 32, "rank": 0.75, "lowest_rank": 0.5, "stable_rank": 3.0},
        {"layer_type": "convolution", "matrices": 1, "parameters": 54, "rank": 0.5, "lowest_rank": 0.5}
        | {"stable_rank": pytest.approx(1)},
    ]
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.Flatten(), torch.nn.Linear(3, 2))
    assert analyze(model).layer_type.tolist() == ["convolution", "other"]
    assert summary([]) == []
