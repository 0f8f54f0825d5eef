"""A plain convolutional network: CONV-L-H of arXiv 2206.05794."""

import torch
from torch import Tensor, nn

from .checks import NetworkError, Shape, at_least


class ConvNet(nn.Module):
    """Two 2x2 convolutions of stride 2, then ``depth`` 3x3 convolutions of stride 1, and a linear ``head``.

    Args:
        shape: channels, height and width of an image; both sides multiples of 4.
        classes: outputs.
        depth: 3x3 convolutions, with padding 1.
        width: channels of every convolution.

    Raises:
        NetworkError: a size below 1, or a side that is no multiple of 4.

    Every convolution has a bias and is followed by batch-norm, and every one but the first by ReLU. The head takes
    the whole map, flattened. Initialisation is PyTorch's default, as in the paper's code.
    """

    def __init__(self, shape: Shape, classes: int, depth: int, width: int) -> None:
        channels, *sides = shape
        at_least(1, classes=classes, depth=depth, width=width)
        if any(side % 4 for side in sides):
            raise NetworkError(
                f"name: convnet halves an image twice and needs sides that are multiples of 4, "
                f"not {sides[0]} x {sides[1]}; pad or crop the images, or use another network"
            )
        super().__init__()
        self.layers = nn.ModuleList(
            [
                nn.Conv2d(channels, width, 2, stride=2),
                nn.Conv2d(width, width, 2, stride=2),
                *(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth)),
            ]
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in self.layers)
        self.head = nn.Linear(width * (sides[0] // 4) * (sides[1] // 4), classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(batch, classes)`` of ``x``, ``(batch, channels, height, width)``."""
        for i, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            x = norm(layer(x))
            if i > 0:  # the paper's code has no ReLU between the two convolutions of stride 2
                x = torch.relu(x)
        logits: Tensor = self.head(x.flatten(1))
        return logits
