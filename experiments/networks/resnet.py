"""ResNet-18 for small images (He et al., arXiv 1512.03385; the stem is that of CIFAR experiments)."""

import torch
from torch import Tensor, nn

from .checks import Shape, at_least, side_at_least

CHANNELS = (64, 128, 256, 512)


def _conv3x3(c_in: int, c_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1, bias=False)


class Block(nn.Module):
    """Two 3x3 convolutions with batch-norm, added to the input or to a 1x1 convolution of it."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv3x3(c_in, c_out, stride), nn.BatchNorm2d(c_out)
        self.conv2, self.norm2 = _conv3x3(c_out, c_out), nn.BatchNorm2d(c_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or c_in != c_out:
            self.shortcut = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride=stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResNet18(nn.Module):
    """A 3x3 stem, four stages of two blocks with 64 to 512 channels, a global average, and a linear ``head``.

    Args:
        shape: channels, height and width of an image, of at least 5 x 5 pixels.
        classes: outputs.

    Raises:
        NetworkError: fewer than one class, or an image that the three strides shrink to a pixel too soon.

    No max-pool, no bias before batch-norm. The paper selects 17 matrices, all but the head and the three 1x1
    shortcuts. Initialisation is PyTorch's default, as in the paper's code. The average before the head is over 4 x 4
    pixels there, which is the global average for images of 32 x 32 and fits no other size.
    """

    def __init__(self, shape: Shape, classes: int) -> None:
        at_least(1, classes=classes)
        side_at_least(5, "resnet18", shape, "three convolutions of stride 2 must each have something to halve")
        super().__init__()
        self.stem, self.norm = _conv3x3(shape[0], CHANNELS[0]), nn.BatchNorm2d(CHANNELS[0])
        self.blocks = nn.ModuleList()
        c_in = CHANNELS[0]
        for stage, c_out in enumerate(CHANNELS):
            self.blocks.extend([Block(c_in, c_out, stride=2 if stage else 1), Block(c_out, c_out, stride=1)])
            c_in = c_out
        self.head = nn.Linear(c_in, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(batch, classes)`` of ``x``, ``(batch, channels, height, width)``."""
        x = torch.relu(self.norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits
