"""Networks against their definitions, written out another way."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import max_pool2d

from fastrank.experiments.networks.recipes import build

CIFAR, DIGITS = (3, 32, 32), (1, 8, 8)


def test_convnet_has_no_relu_between_its_first_two_convolutions() -> None:
    model, x = build("convnet", shape=DIGITS, classes=10, seed=0, depth=2, width=16), torch.randn(4, *DIGITS)
    blocks = [nn.Sequential(*pair) for pair in zip(model.layers, model.norms, strict=True)]
    relu = nn.ReLU()
    expected = nn.Sequential(*blocks[:2], relu, blocks[2], relu, blocks[3], relu, nn.Flatten(), model.head)
    assert torch.equal(model(x), expected(x))


def test_vgg_at_32_pixels_is_the_papers() -> None:
    """Rounding up and averaging do nothing there."""
    model, x = build("vgg16_bn", shape=CIFAR, classes=10, seed=0), torch.randn(2, *CIFAR)
    y = x
    for i, (layer, norm) in enumerate(zip(model.layers, model.norms, strict=True)):
        y = torch.relu(norm(layer(y)))
        if i in (1, 3, 6, 9, 12):
            y = max_pool2d(y, 2)
    assert torch.equal(model(x), model.head(y.flatten(1)))


def test_vit_is_a_pre_norm_transformer() -> None:
    """Against PyTorch's own encoder layer, which fuses the three, in double precision."""
    model = build("vit", shape=CIFAR, classes=10, seed=0, depth=1, width=32, heads=4, patch=4).double()
    nn.init.normal_(model.head.weight)
    block, stock = (
        model.blocks[0],
        nn.TransformerEncoderLayer(32, 4, 128, 0.0, "gelu", batch_first=True, norm_first=True),
    )
    names = {
        "norm1": "norm1",
        "norm2": "norm2",
        "up": "linear1",
        "down": "linear2",
        "attention.out": "self_attn.out_proj",
    }
    state = {
        f"{theirs}.{p}": getattr(block.get_submodule(ours), p)
        for ours, theirs in names.items()
        for p in ("weight", "bias")
    }
    qkv = [block.get_submodule(f"attention.{layer}") for layer in "qkv"]
    state |= {f"self_attn.in_proj_{p}": torch.cat([getattr(layer, p) for layer in qkv]) for p in ("weight", "bias")}
    stock.double().load_state_dict(state)
    x = torch.randn(3, *CIFAR, dtype=torch.float64)
    tokens = [model.embed(x[:, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]).flatten(1) for i in range(8) for j in range(8)]
    sequence = torch.stack([model.class_token.expand(3, -1), *tokens], dim=1) + model.positions.view(65, 32)
    torch.testing.assert_close(model(x), model.head(model.norm(stock(sequence)[:, 0])))


def test_initial_values_of_the_vit() -> None:
    model = build("vit", shape=CIFAR, classes=10, seed=0, depth=1, width=256, heads=4, patch=4)
    assert not model.head.weight.any()
    assert not model.class_token.any()
    assert model.positions.std().item() == pytest.approx(0.02, rel=0.05)  # 16,640 values: a deviation is 0.5 %
    for layer in ("attention.q", "attention.k", "attention.v", "attention.out", "up", "down"):
        weight = model.blocks[0].get_submodule(layer).weight
        bound = math.sqrt(6 / sum(weight.shape))  # Glorot & Bengio's uniform distribution
        assert 0.99 * bound < weight.abs().max() <= bound
