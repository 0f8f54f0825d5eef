"""A small vision transformer (Dosovitskiy et al., arXiv 2010.11929)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from .checks import NetworkError, Shape, at_least

# Standard deviation of the initial positions, as in the original.
POSITION_STD = 0.02


def _linear(features: int, outputs: int) -> nn.Linear:
    """A linear layer as the original initialises those of its blocks."""
    layer = nn.Linear(features, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Attention(nn.Module):
    """Multi-head self-attention over tokens, ``(batch, tokens, width)``.

    ``q``, ``k`` and ``v`` are layers of their own: fused into one of ``(3*width, width)``, three matrices would be
    stacked, and the rank of the stack is another quantity.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = _linear(width, width), _linear(width, width), _linear(width, width)
        self.out = _linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        # (batch, tokens, width) -> (batch, heads, tokens, width/heads)
        q, k, v = (layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed: Tensor = self.out(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return mixed


class Block(nn.Module):
    """Attention and a two-layer perceptron, each after a layer-norm and added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2, self.up, self.down = nn.LayerNorm(width), _linear(width, 4 * width), _linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        y: Tensor = self.down(gelu(self.up(self.norm2(x))))
        return x + y


class ViT(nn.Module):
    """Patches as tokens, a class token, learned positions, pre-norm blocks, and a linear ``head`` on the class token.

    Args:
        shape: channels, height and width of an image; ``patch`` divides both sides.
        classes: outputs.
        depth: blocks.
        width: features of a token, a multiple of ``heads``; the perceptrons have four times as many.
        heads: attention heads.
        patch: side of a patch in pixels, at least 2.

    Raises:
        NetworkError: an option out of range, or at odds with another or with the image.

    The paper's selection takes the patch embedding and six matrices a block. Initialisation is the original's: Xavier
    uniform weights and zero biases in the blocks, positions of standard deviation 0.02, class token and head zero. At
    the first step the head alone has a gradient that is not zero. The patch embedding has PyTorch's default. There is
    no dropout.
    """

    def __init__(self, shape: Shape, classes: int, depth: int, width: int, heads: int, patch: int) -> None:
        at_least(1, classes=classes, depth=depth, width=width, heads=heads)
        at_least(2, patch=patch)  # the paper's selection takes a 1x1 convolution for a shortcut
        if width % heads:
            raise NetworkError(f"width: {width} is not a multiple of the {heads} heads; change one of them")
        channels, *sides = shape
        if any(side % patch for side in sides):
            common = ", ".join(str(p) for p in range(2, min(sides) + 1) if not any(side % p for side in sides))
            remedy = f"use one of {common}" if common else "pad or crop the images"
            raise NetworkError(f"patch: {patch} does not divide both sides of {sides[0]} x {sides[1]} pixels; {remedy}")
        super().__init__()
        tokens = 1 + (sides[0] // patch) * (sides[1] // patch)
        self.embed = nn.Conv2d(channels, width, patch, stride=patch)
        # Kept as vectors: what is added to tokens multiplies nothing, so it is no weight matrix to be tracked.
        self.class_token = nn.Parameter(torch.zeros(width))
        self.positions = nn.Parameter(POSITION_STD * torch.randn(tokens * width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(batch, classes)`` of ``x``, ``(batch, channels, height, width)``."""
        patches = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.class_token.expand(len(x), 1, -1), patches), dim=1)
        x = x + self.positions.view(x.shape[1:])
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x[:, 0]))
        return logits
