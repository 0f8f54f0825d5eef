"""Networks, by name."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """``depth`` hidden blocks of Linear, BatchNorm1d and ReLU, and a linear classifier ``head``.

    Initialisation is PyTorch's default, as in the paper's code.
    """

    def __init__(self, features: int, classes: int, depth: int, width: int) -> None:
        super().__init__()
        widths = [features] + [width] * depth
        self.layers = nn.ModuleList(nn.Linear(widths[i], widths[i + 1]) for i in range(depth))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(depth))
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(batch, classes)`` of ``x``, ``(batch, features)``."""
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = torch.relu(norm(layer(x)))
        logits: Tensor = self.head(x)
        return logits


# name -> (features, classes, depth, width) -> network
MODELS: dict[str, Callable[[int, int, int, int], nn.Module]] = {"mlp_bn": MLP}


def build(name: str, *, features: int, classes: int, depth: int, width: int, seed: int) -> nn.Module:
    """A network whose initial parameters depend on ``seed`` alone. Leaves the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS[name](features, classes, depth, width)
