"""Attention: the products of every head, against scores and outputs that the layers themselves compute in FP64."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastrank import RankTracker
from fastrank.products import attention_ov, attention_qk


class Conv1D(nn.Module):
    """As GPT-2's linear layers, which store their weights `(inputs, outputs)`."""

    def __init__(self, outputs, inputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))


def linear(inputs, outputs):
    return nn.Linear(inputs, outputs, bias=False)


def module(children, **attributes):
    made = nn.Module()
    for name, child in children.items():
        made.add_module(name, child)
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def like_gpt2():
    return module({"c_attn": Conv1D(36, 12), "c_proj": Conv1D(12, 12)}, num_heads=3, head_dim=4)


def like_llama():
    children = {"q_proj": linear(10, 24), "k_proj": linear(10, 12), "v_proj": linear(10, 12), "o_proj": linear(24, 10)}
    return module(children, head_dim=6)


def like_bert():
    own = module({name: linear(8, 8) for name in ("query", "key", "value")}, num_attention_heads=2)
    return module({"self": own, "output": module({"dense": linear(8, 8)})})


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def rows(layer):
    return layer.weight.detach().double().mT if isinstance(layer, Conv1D) else layer.weight.detach().double()


def whole(query, key, value, output, heads, shared=1):
    """The products of every head, formed."""
    q, k, v = (x.chunk(n) for x, n in ((query, heads), (key, heads // shared), (value, heads // shared)))
    o = output.chunk(heads, 1)
    return (
        [q[h].mT @ k[h // shared] for h in range(heads)],
        [o[h] @ v[h // shared] for h in range(heads)],
    )


def assert_tracked(model, path, expected, **explicit):
    for kind, function, products in zip(("qk", "ov"), (attention_qk, attention_ov), expected, strict=True):
        tracker = RankTracker(model, include=[], track=function(model, **explicit.get(kind, {})))
        tracker.step()
        latest = tracker.latest()
        assert list(latest) == [f"{path}{kind}[{h}]" for h in range(len(products))]
        for row, product in zip(latest.values(), products, strict=True):
            sigma = torch.linalg.svdvals(product)
            assert row["rank_lower"] == row["rank_upper"] == int((sigma > 1e-3 * sigma.norm()).sum())
            assert row["spectral_norm"] == pytest.approx(sigma[0].item(), rel=1e-6)
            assert row["frobenius_norm"] == pytest.approx(sigma.norm().item(), rel=1e-12)


@pytest.mark.parametrize("sizes", [{}, {"kdim": 5, "vdim": 7}], ids=["in_proj", "separate"])
def test_multihead_attention(sizes):
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(12, 3, **sizes)})
    layer = model["attention"]
    if sizes:
        query, key, value = layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight
    else:
        query, key, value = layer.in_proj_weight.chunk(3)
    given = (x.detach().double() for x in (query, key, value, layer.out_proj.weight))
    assert_tracked(model, "attention.", whole(*given, 3))


def test_the_products_are_those_of_the_layer_itself():
    """Scores and outputs of `nn.MultiheadAttention`, from the products of its weights."""
    layer = nn.MultiheadAttention(6, 2, bias=False, dtype=torch.float64)
    x = torch.randn(4, 6, dtype=torch.float64)
    given = (*layer.in_proj_weight.detach().chunk(3), layer.out_proj.weight.detach())
    qk, ov = whole(*given, 2)
    attention = [torch.softmax(x @ product @ x.mT / 3**0.5, -1) for product in qk]
    expected = sum(a @ x @ product.mT for a, product in zip(attention, ov, strict=True))
    torch.testing.assert_close(layer(x, x, x, need_weights=False)[0], expected)
    assert_tracked(layer, "", (qk, ov))


def test_transformer_layers_have_theirs():
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 2, enable_nested_tensor=False)
    assert list(attention_qk(model)) == ["layers.0.self_attn.qk", "layers.1.self_attn.qk"]


def test_gpt2():
    model = nn.ModuleDict({"h": like_gpt2()})
    query, key, value = rows(model["h"].c_attn).chunk(3)
    assert_tracked(model, "h.", whole(query, key, value, rows(model["h"].c_proj), 3))


def test_heads_that_share_keys_and_values():
    model = nn.ModuleDict({"layer": like_llama()})
    given = [rows(child) for child in model["layer"].children()]
    assert_tracked(model, "layer.", whole(*given, 4, shared=2))


def test_bert_has_its_outputs_elsewhere():
    model = nn.ModuleDict({"attention": like_bert()})
    own = model["attention"].get_submodule("self")
    given = [rows(child) for child in own.children()]
    assert_tracked(model, "attention.self.", whole(*given, rows(model["attention"].output.dense), 2))


def test_any_other_layer_by_globs():
    children = {"to_q": linear(10, 24), "to_k": linear(10, 12), "to_v": linear(10, 12), "to_out": linear(24, 10)}
    model = nn.ModuleDict({"layer": module(children)})
    given = [rows(child) for child in children.values()]
    named = {"qk": {"query": "*to_q.weight", "key": "*to_k.weight"}}
    named["ov"] = {"output": "*to_out.weight", "value": "*to_v.weight"}
    explicit = {kind: {"heads": 4, **globs} for kind, globs in named.items()}
    assert_tracked(model, "layer.", whole(*given, 4, shared=2), **explicit)


def test_what_is_not_found_or_does_not_fit_is_said():
    with pytest.raises(ValueError, match=r"attention_qk: no attention layer was found.*MultiheadAttention.*q_proj"):
        attention_qk(nn.Linear(4, 4))
    model = nn.ModuleDict({"layer": like_llama()})
    with pytest.raises(ValueError, match="heads, query and key go together"):
        attention_qk(model, heads=4)
    with pytest.raises(ValueError, match=r"0 query='nothing', 1 key='\*k_proj\.weight' match"):
        attention_qk(model, heads=4, query="nothing", key="*k_proj.weight")
    track = attention_qk(model, heads=5, query="*q_proj.weight", key="*k_proj.weight")
    with pytest.raises(ValueError, match="24 and 12 rows cannot be cut into 5 heads"):
        RankTracker(model, track=track)
    model["layer"].num_heads = 2  # with a gate beside each query, as some layers have
    with pytest.raises(ValueError, match="2 heads of 6 do not make 24 queries"):
        attention_ov(model)
    model["layer"].num_heads, model["layer"].q_proj = 4, module({"base_layer": linear(10, 24)})
    gated = like_llama()
    gated.num_key_value_groups, gated.q_proj = 2, linear(10, 48)  # as Qwen3-Next's
    with pytest.raises(ValueError, match="48 queries are not 2 for each of 12 keys; projections that make gates"):
        attention_qk(gated)
    mixed = like_bert()
    mixed.output.dense = linear(16, 8)  # as ConvBERT's, to which half comes from a convolution
    with pytest.raises(ValueError, match="'self' gives its projection to outputs more than its heads"):
        RankTracker(mixed, track=attention_ov(mixed))
    with pytest.raises(ValueError, match="needs a weight that is a matrix, and has none"):
        attention_qk(model)


def test_models_of_hugging_face():
    transformers = pytest.importorskip("transformers")
    tiny = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "intermediate_size": 8,
        "vocab_size": 9,
    }
    made = {
        "h.0.attn": (transformers.GPT2Model, transformers.GPT2Config(n_embd=16, n_layer=1, n_head=4, vocab_size=9)),
        "layers.0.self_attn": (transformers.LlamaModel, transformers.LlamaConfig(**tiny, num_key_value_heads=2)),
        "encoder.layer.0.attention.self": (transformers.BertModel, transformers.BertConfig(**tiny)),
    }
    for path, (kind, config) in made.items():
        model = kind(config)
        track = attention_qk(model) | attention_ov(model)
        assert list(track) == [f"{path}.qk", f"{path}.ov"]
        tracker = RankTracker(model, include=[], track=track)
        tracker.step()
        assert [row["rows"] for row in tracker.latest().values()] == [4] * 8
