"""Networks that the benchmarks train: two of the paper's, with 10 classes, and a transformer."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, relu, scaled_dot_product_attention


def mlp_bn(depth: int, width: int, features: int) -> nn.Sequential:
    """`depth` times Linear, batch-norm, ReLU; then a head."""
    layers = [
        layer
        for c_in, c_out in itertools.pairwise([features, *[width] * depth])
        for layer in (nn.Linear(c_in, c_out), nn.BatchNorm1d(c_out), nn.ReLU())
    ]
    return nn.Sequential(*layers, nn.Linear(width, 10))


class StackedMLP(nn.Module):
    """E perceptrons `mlp_bn` at once, without a batch-norm's own parameters; answers `(E, b, 10)`."""

    def __init__(self, stack: int, depth: int, width: int, features: int) -> None:
        super().__init__()
        sizes = [*itertools.pairwise([features, *[width] * depth]), (width, 10)]
        self.weights = nn.ParameterList(torch.randn(stack, out, n) / n**0.5 for n, out in sizes)

    def forward(self, x: Tensor) -> Tensor:
        x = x.expand(len(self.weights[0]), *x.shape)
        for weight in self.weights[:-1]:
            x = x @ weight.mT
            x = relu((x - x.mean(1, keepdim=True)) * (x.var(1, keepdim=True) + 1e-5).rsqrt())
        return x @ self.weights[-1].mT


class Layer(nn.Module):
    """A transformer's layer, which norms first: causal attention with heads of 64, then a network four times as wide
    (Vaswani et al. 2017; Radford et al. 2019)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.before(x)
        q, k, v = (f(y).unflatten(-1, (-1, 64)).transpose(-3, -2) for f in (self.query, self.key, self.value))
        heads = scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(heads.transpose(-3, -2).flatten(-2))
        return x + self.down(gelu(self.up(self.between(x))))


def transformer(depth: int, width: int, vocabulary: int) -> nn.Sequential:
    """A language model that tells positions apart by its causal attention alone: 6 matrices a layer, and 2."""
    layers = [Layer(width) for _ in range(depth)]
    return nn.Sequential(
        nn.Embedding(vocabulary, width), *layers, nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
    )


def conv_bn(c_in: int, c_out: int, size: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c_in, c_out, size, stride, size // 2, bias=False), nn.BatchNorm2d(c_out))


class Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut, which is a 1 x 1 convolution where the shape changes."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.first = conv_bn(c_in, c_out, 3, stride)
        self.second = conv_bn(c_out, c_out, 3, 1)
        self.shortcut = nn.Identity() if c_in == c_out else conv_bn(c_in, c_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.second(relu(self.first(x))) + self.shortcut(x))


def resnet18() -> nn.Sequential:
    """ResNet-18 with a 3 x 3 stem, for inputs `(b, 3, 32, 32)` (He et al. 2016)."""
    sizes = [(64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2)]
    blocks = [Block(*size) for size in (*sizes, (512, 512, 1))]
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10)]
    return nn.Sequential(conv_bn(3, 64, 3, 1), nn.ReLU(), *blocks, *pool)
