"""Factors in a model: two layers give what the product gives, and what cannot take factors is named."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from fastrank import AnalyzeError, factorize, load_factorized
from fastrank.factors.layers import LowRankLayer, by_clean_name
from fastrank.testing import make

CONVOLUTIONS = [
    (nn.Conv1d(12, 20, 3), (12, 9)),
    (nn.Conv1d(12, 20, 5, stride=2, padding=4, dilation=2, padding_mode="circular"), (12, 17)),
    (nn.Conv2d(12, 20, 3, padding="same", bias=False), (12, 7, 8)),
    (nn.Conv2d(12, 20, (1, 3), stride=(2, 1), padding=(1, 2), padding_mode="reflect"), (12, 7, 8)),
    (nn.Conv2d(12, 20, 3, dilation=2, padding=2, dtype=torch.float64), (12, 7, 8)),
    (nn.Conv3d(6, 20, 2, stride=2), (6, 4, 5, 6)),
]


def lower(model: nn.Module, rank: int = 3) -> nn.Module:
    """The same model, whose matrices are of this rank but for a thousandth."""
    with torch.no_grad():
        for x in model.parameters():
            if x.ndim > 1:
                rows, cols = x.flatten(1).shape
                matrix = make("low_rank", rows, cols, seed=rows).matrix.double()
                u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
                s[rank:] = 1e-4
                x.copy_((u * s @ vh).view(x.shape))
    return model


def dense(path, model, name):
    """A copy of a model whose weight of this name is the product of the factors in a file."""
    from safetensors.torch import load_file

    held = load_file(path)
    expected = copy.deepcopy(model)
    weight = expected.get_parameter(name)
    with torch.no_grad():
        weight.copy_((held[f"{name}.U"].double() @ held[f"{name}.V"].double()).view(weight.shape))
    return expected


@pytest.mark.parametrize(("layer", "shape"), CONVOLUTIONS, ids=[f"{i}" for i in range(len(CONVOLUTIONS))])
def test_two_convolutions_are_the_one_with_the_product(layer, shape, tmp_path):
    model = lower(nn.Sequential(copy.deepcopy(layer)))
    table = factorize(model, tmp_path / "y", error=0.01)
    assert table["kept"].tolist() == [""]
    loaded = load_factorized(tmp_path / "y", nn.Sequential(copy.deepcopy(layer)))
    assert isinstance(loaded[0], LowRankLayer)
    expected = dense(tmp_path / "y", model, "0.weight")
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1)).to(layer.weight.dtype)
    close = {"rtol": 1e-4, "atol": 1e-5} if x.dtype == torch.float32 else {"rtol": 1e-11, "atol": 1e-12}
    torch.testing.assert_close(loaded(x), expected(x), **close)
    torch.testing.assert_close(loaded[0].weight, expected[0].weight, **close)
    assert not torch.allclose(loaded(x), expected(x) + 1e-3)


class Net(nn.Module):
    """Linear layers in all places where a model may have them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(30, 24)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(24, 24, bias=False), nn.BatchNorm1d(24))])
        self.heads = nn.ModuleDict({"a": nn.Linear(24, 20)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.heads["a"](self.blocks[0](self.first(x)).relu())


@pytest.fixture
def trained(tmp_path):
    model = lower(Net())
    model.blocks[0][1].running_mean.uniform_(-1, 1)
    table = factorize(model.state_dict(), tmp_path / "y", error=0.01)
    assert table["kept"].tolist() == [""] * 3
    return model


def test_a_model_computes_what_it_computed_and_can_be_trained_on(trained, tmp_path):
    trained.eval()
    model = Net().eval()
    model.first.weight.requires_grad_(False)
    bias, state = model.first.bias, torch.random.get_rng_state()
    loaded = load_factorized(tmp_path / "y", model)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert loaded is model
    x = torch.randn(5, 30, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(loaded(x), trained(x), rtol=1e-3, atol=1e-3)
    assert model.first.bias is bias
    assert not any(part.training for part in model.modules())
    assert [x.requires_grad for x in model.first.parameters()] == [False, False, True]
    assert [*model.state_dict()][:3] == ["first.0.weight", "first.1.weight", "first.1.bias"]
    loaded(x).square().sum().backward()
    assert model.heads["a"][0].weight.grad is not None
    again = load_factorized(tmp_path / "y", Net())
    again.load_state_dict(loaded.state_dict())


def test_the_weight_of_a_replaced_layer_is_still_there(trained, tmp_path):
    """Such as for `nn.TransformerEncoderLayer`, which reads weights of its own linear layers in evaluation."""
    layer = lower(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)).eval()
    factorize(layer, tmp_path / "z", error=0.01)
    loaded = load_factorized(tmp_path / "z", nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval())
    assert isinstance(loaded.linear1, LowRankLayer)
    assert not isinstance(loaded.self_attn.out_proj, LowRankLayer)
    with torch.inference_mode():
        x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(3))
        torch.testing.assert_close(loaded(x), layer(x), rtol=1e-3, atol=1e-3)
    weight = load_factorized(tmp_path / "y", Net()).first.weight
    assert weight.requires_grad
    torch.testing.assert_close(weight, trained.first.weight, rtol=0, atol=1e-3)


def test_wrapped_models_and_models_without_memory(trained, tmp_path):
    loaded = load_factorized(tmp_path / "y", nn.DataParallel(Net()))
    assert isinstance(loaded.module.first, LowRankLayer)
    with torch.device("meta"):
        model = Net()
    loaded = load_factorized(tmp_path / "y", model, assign=True).eval()
    x = torch.ones(2, 30)
    torch.testing.assert_close(loaded(x), trained.eval()(x), rtol=1e-3, atol=1e-3)
    half = load_factorized(tmp_path / "y", Net().bfloat16())
    assert {x.dtype for x in half.first.parameters()} == {torch.bfloat16}


def parametrized() -> nn.Module:
    model = Net()
    parametrizations.weight_norm(model.first)
    return model


def pruned() -> nn.Module:
    model = Net()
    prune.l1_unstructured(model.first, "weight", 0.5)
    return model


def hooked() -> nn.Module:
    model = Net()
    model.first.register_forward_hook(lambda *_: None)
    return model


def tied() -> nn.Module:
    model = Net()
    model.other = nn.Linear(30, 24)
    model.other.weight = model.first.weight
    return model


def shared() -> nn.Module:
    model = Net()
    model.other = model.first
    return model


def other(layer: nn.Module) -> nn.Module:
    model = Net()
    model.first = layer
    return model


REFUSED = {
    "parametrized": (parametrized, "its layer is parametrized"),
    "pruned": (pruned, "its layer has hooks"),
    "hooked": (hooked, "its layer has hooks"),
    "tied": (tied, "it is tied"),
    "shared": (shared, "it is tied"),
    "embedding": (lambda: other(nn.Embedding(24, 30)), "its layer is of type Embedding"),
    "subclass": (lambda: other(type("Mine", (nn.Linear,), {})(30, 24)), "its layer is of type Mine"),
    "lazy": (lambda: other(nn.LazyLinear(24)), "its layer is of type LazyLinear"),
    "absent": (lambda: other(nn.Identity()), "its layer is of type Identity"),
    "no layer": (lambda: nn.Linear(30, 24), "the model has no layer 'first'"),
    "shape": (lambda: other(nn.Linear(31, 24)), r"has shape \(24, 30\), and \(24, 31\) in the model"),
    "convolution": (lambda: other(nn.Conv2d(30, 24, 1)), r"has shape \(24, 30\), and \(24, 30, 1, 1\)"),
    "bias": (lambda: other(nn.Linear(30, 24, bias=False)), r'Unexpected key\(s\) in state_dict: "first.1.bias"'),
    "more": (lambda: nn.ModuleDict({**dict(Net().named_children()), "more": nn.Linear(2, 2)}), "Missing key.*more.w"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_takes_no_factors_is_named_and_the_layers_stay(name, trained, tmp_path):
    make_model, said = REFUSED[name]
    model = make_model()
    before = [*model.named_modules()]
    with pytest.raises(AnalyzeError, match=said) as caught:
        load_factorized(tmp_path / "y", model)
    assert str(tmp_path / "y") in str(caught.value)
    assert [*model.named_modules()] == before


def test_a_convolution_of_groups_and_the_model_itself_are_refused(tmp_path):
    factorize(lower(nn.Sequential(nn.Conv2d(6, 20, 3))), tmp_path / "y", error=0.01)
    with pytest.raises(AnalyzeError, match="a convolution of 2 groups"):
        load_factorized(tmp_path / "y", nn.Sequential(nn.Conv2d(12, 20, 3, groups=2)))
    with pytest.raises(AnalyzeError, match="is of type ConvTranspose2d"):
        load_factorized(tmp_path / "y", nn.Sequential(nn.ConvTranspose2d(20, 6, 3)))
    factorize(lower(nn.Linear(30, 20)).state_dict(), tmp_path / "z", error=0.01)
    with pytest.raises(AnalyzeError, match=r"make it a part of an nn\.Sequential"):
        load_factorized(tmp_path / "z", nn.Linear(30, 20))


@pytest.mark.parametrize("name", ["embedding", "lazy"])
def test_dense_multiplies_where_a_layer_takes_no_factors(name, trained, tmp_path):
    model = REFUSED[name][0]()
    if name == "embedding":
        model.first.register_parameter("bias", nn.Parameter(torch.zeros(24)))
    loaded = load_factorized(tmp_path / "y", model, dense=True)
    torch.testing.assert_close(loaded.first.weight, trained.first.weight, rtol=0, atol=1e-3)
    assert isinstance(loaded.heads["a"], LowRankLayer)


@pytest.mark.parametrize(("name", "said"), [("pruned", "hooks"), ("shape", "has shape"), ("absent", "Identity")])
def test_dense_does_not_load_what_has_no_place(name, said, trained, tmp_path):
    with pytest.raises(AnalyzeError, match=said):
        load_factorized(tmp_path / "y", REFUSED[name][0](), dense=True)


def test_names_that_a_file_cannot_tell_apart_are_nobody_s():
    assert by_clean_name(["module.a", "b", "c.module.a"]) == {"a": "module.a", "b": "b", "c.a": "c.module.a"}
    assert by_clean_name(["module.a", "a", "b"]) == {"b": "b"}
