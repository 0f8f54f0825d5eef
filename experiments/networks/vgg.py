"""VGG-16 with batch-norm for small images (Simonyan & Zisserman, arXiv 1409.1556)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from .checks import Shape, at_least, side_at_least

# Channels of the convolutions of each stage; a max-pool ends a stage.
STAGES = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)


class VGG16(nn.Module):
    """13 convolutions of 3x3 with bias, batch-norm and ReLU, a max-pool after each stage, and one linear ``head``.

    Args:
        shape: channels, height and width of an image, of at least 17 x 17 pixels.
        classes: outputs.

    Raises:
        NetworkError: fewer than one class, or an image too small for five max-pools.

    The five max-pools round up, and a global average comes before the head. At 32 x 32 both change nothing: this is
    the paper's network, whose last map is one pixel. At 28 x 28, rounding down would leave the last max-pool a single
    pixel and the head nothing; and the head has 512 inputs whatever the size, so that all matrices keep their shapes.
    Initialisation is PyTorch's default, as in the paper's code.
    """

    def __init__(self, shape: Shape, classes: int) -> None:
        at_least(1, classes=classes)
        side_at_least(17, "vgg16_bn", shape, "five max-pools must each have something to halve")
        super().__init__()
        widths = [shape[0], *(width for stage in STAGES for width in stage)]
        self.layers = nn.ModuleList(nn.Conv2d(widths[i], widths[i + 1], 3, padding=1) for i in range(len(widths) - 1))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths[1:])
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(batch, classes)`` of ``x``, ``(batch, channels, height, width)``."""
        blocks = zip(self.layers, self.norms, strict=True)
        for stage in STAGES:
            for _ in stage:
                layer, norm = next(blocks)
                x = torch.relu(norm(layer(x)))
            x = max_pool2d(x, 2, ceil_mode=True)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits
