"""LoRA: adapters as PEFT, loralib and others keep them, against their products formed in FP64."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastrank import RankTracker, Tolerance
from fastrank.products import lora


class LikePeft(nn.Module):
    """A linear layer, an embedding or a convolution with adapters, as PEFT's layers keep them."""

    def __init__(self, adapters, embedding=False, convolution=False):
        super().__init__()
        self.scaling = dict(adapters)
        if embedding:
            self.lora_A, self.lora_B = nn.ModuleDict(), nn.ModuleDict()  # empty there
            self.lora_embedding_A = nn.ParameterDict({name: torch.randn(2, 11) for name in adapters})
            self.lora_embedding_B = nn.ParameterDict({name: torch.randn(6, 2) for name in adapters})
        elif convolution:
            self.lora_A = nn.ModuleDict({name: nn.Conv2d(4, 2, 3, bias=False) for name in adapters})
            self.lora_B = nn.ModuleDict({name: nn.Conv2d(2, 8, 1, bias=False) for name in adapters})
        else:
            self.lora_A = nn.ModuleDict({name: nn.Linear(9, 3, bias=False) for name in adapters})
            self.lora_B = nn.ModuleDict({name: nn.Linear(3, 7, bias=False) for name in adapters})


class LikeLoralib(nn.Linear):
    def __init__(self):
        super().__init__(5, 4)
        self.lora_A, self.lora_B = nn.Parameter(torch.randn(2, 5)), nn.Parameter(torch.randn(4, 2))
        self.scaling = 0.25


class OfOnesOwn(nn.Module):
    def __init__(self):
        super().__init__()
        self.lora_A, self.lora_B = nn.Linear(9, 3, bias=False), nn.Linear(3, 7, bias=False)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.ModuleDict(
        {
            "peft": LikePeft({"default": 2.0, "other": 0.5}),
            "words": LikePeft({"default": 3.0}, embedding=True),
            "conv": LikePeft({"default": 1.0}, convolution=True),
            "loralib": LikeLoralib(),
            "own": OfOnesOwn(),
        }
    )


def products(model):
    """What the adapters add, formed in FP64."""

    def of(left, right, scaling=1.0):
        return scaling * left.detach().double().flatten(1) @ right.detach().double().flatten(1)

    peft, words, conv, loralib, own = model.values()
    return {
        "lora/peft[default]": of(peft.lora_B["default"].weight, peft.lora_A["default"].weight, 2.0),
        "lora/peft[other]": of(peft.lora_B["other"].weight, peft.lora_A["other"].weight, 0.5),
        "lora/words[default]": of(words.lora_embedding_B["default"], words.lora_embedding_A["default"], 3.0),
        "lora/conv[default]": of(conv.lora_B["default"].weight, conv.lora_A["default"].weight),
        "lora/loralib": of(loralib.lora_B, loralib.lora_A, 0.25),
        "lora/own": of(own.lora_B.weight, own.lora_A.weight),
    }


def test_rows_are_those_of_the_products(model):
    tracker = RankTracker(model, include=[], track=lora(model), spectrum=["effective_rank"], tolerance=Tolerance(0.4))
    with torch.no_grad():
        model.loralib.lora_B[:, 1] = 0
        model.own.lora_B.weight.zero_()
    tracker.step()
    latest, expected = tracker.latest(), products(model)
    assert list(latest) == tracker.names == list(expected)
    whole = RankTracker(
        model,
        include=[],
        track={name: lambda _, x=product: x for name, product in expected.items()},
        tolerance=Tolerance(0.4),
        spectrum=["effective_rank"],
    )
    whole.step()
    for name, row in whole.latest().items():
        assert latest[name]["rows"] <= 3
        for column in ("stable_rank", "spectral_norm", "frobenius_norm", "effective_rank"):
            assert latest[name][column] == pytest.approx(row[column], rel=1e-6, abs=1e-12)
        assert latest[name]["rank_lower"] == latest[name]["rank_upper"] == row["rank_lower"]
    assert latest["lora/own"]["rank_lower"] == 0


def test_no_adapters_are_an_error_and_so_are_products_of_another_kind(model):
    with pytest.raises(ValueError, match=r"lora: no module of the model has lora_A and lora_B"):
        lora(nn.Linear(2, 2))
    model.loralib.lora_B = nn.Parameter(torch.randn(4, 1))
    with pytest.raises(ValueError, match=r"'loralib', with B \(4, 1\) and A \(2, 5\)"):
        lora(model)


def test_experts_have_a_product_each():
    """As in PEFT's `ParamWrapper`, which keeps the adapters of a stack of experts in one pair of layers."""
    layer = LikePeft({})
    layer.num_experts, layer.scaling = 2, {"default": 0.5}
    layer.lora_A["default"], layer.lora_B["default"] = nn.Linear(9, 6, bias=False), nn.Linear(6, 7, bias=False)
    right = layer.lora_A["default"].weight.detach().double().reshape(2, -1, 9)
    left = layer.lora_B["default"].weight.detach().double().reshape(7, -1, 2)
    wanted = torch.linalg.svdvals(0.5 * torch.einsum("ore,eri->eoi", left, right))[:, :3]
    found = lora(nn.ModuleDict({"experts": layer}))["lora"](layer)
    assert found.keys() == {"experts[default]"}
    torch.testing.assert_close(torch.linalg.svdvals(found["experts[default]"]), wanted)
