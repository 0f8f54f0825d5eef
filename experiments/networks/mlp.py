"""Multilayer perceptrons: MLP-BN-L-H of arXiv 2206.05794, and the same without batch-norm."""

import torch
from torch import Tensor, nn

from .checks import at_least


class MLP(nn.Module):
    """``depth`` hidden blocks of Linear, BatchNorm1d and ReLU, and a linear classifier ``head``.

    Args:
        features: numbers in one sample: the product of its dimensions.
        classes: outputs.
        depth: hidden blocks.
        width: units of each block.
        batch_norm: False leaves the norms out.

    Raises:
        NetworkError: a size below 1.

    Initialisation is PyTorch's default, as in the paper's code.
    """

    def __init__(self, features: int, classes: int, depth: int, width: int, batch_norm: bool = True) -> None:
        at_least(1, features=features, classes=classes, depth=depth, width=width)
        super().__init__()
        widths = [features] + [width] * depth
        self.layers = nn.ModuleList(nn.Linear(widths[i], widths[i + 1]) for i in range(depth))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) if batch_norm else nn.Identity() for _ in range(depth))
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(batch, classes)`` of ``x``, ``(batch, ...)``, whose samples are flattened."""
        x = x.flatten(1)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = torch.relu(norm(layer(x)))
        logits: Tensor = self.head(x)
        return logits
