"""Parameter shapes of real networks: what a tracker sees, and what an optimizer steps over.

Shapes only, as each network's released code has them: matrices are the tracked ones, by the paper's selection (no
classifier head, no 1 x 1 shortcut convolution), convolutions viewed as `(c_out, c_in * kh * kw)`; the rest are all
other parameters, with their own shapes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

Shape = tuple[int, ...]


class Network(NamedTuple):
    matrices: tuple[tuple[int, int], ...]
    """(rows, cols) of each tracked matrix."""
    rest: tuple[Shape, ...]
    """Shapes of all other parameters: biases, norms, embeddings, the head."""

    @property
    def parameters(self) -> int:
        return sum(math.prod(shape) for shape in (*self.matrices, *self.rest))

    @property
    def full_rank(self) -> float:
        return sum(min(shape) for shape in self.matrices) / len(self.matrices)

    def stacked(self, models: int) -> Network:
        """So many independent models of this kind."""
        return Network(self.matrices * models, self.rest * models)


def mlp_bn(depth: int, width: int, features: int, classes: int) -> Network:
    """`depth` times Linear, batch-norm, ReLU; then a head (the paper's MLP-BN)."""
    sides = [features, *[width] * depth]
    matrices = tuple((width, side) for side in sides[:-1])
    return Network(matrices, ((width,),) * 3 * depth + ((classes, width), (classes,)))


def resnet18_cifar() -> Network:
    """ResNet-18 with a 3 x 3 stem, for 32 x 32 pixels and 10 classes (He et al. 2016)."""
    matrices: list[tuple[int, int]] = [(64, 27)]
    rest: list[Shape] = [(64,), (64,)]
    c_in = 64
    for c_out in (64, 128, 256, 512):
        matrices += [(c_out, c_in * 9)] + [(c_out, c_out * 9)] * 3
        rest += [(c_out,)] * 8
        if c_in != c_out:
            rest += [(c_out, c_in, 1, 1), (c_out,), (c_out,)]
        c_in = c_out
    return Network(tuple(matrices), (*rest, (10, 512), (10,)))


def vgg16_bn_cifar() -> Network:
    """VGG-16 with batch-norm and one linear layer, for 32 x 32 pixels and 10 classes (Simonyan & Zisserman 2015)."""
    widths = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    matrices = tuple((c_out, c_in * 9) for c_in, c_out in zip([3, *widths], widths, strict=False))
    rest = [(width,) for width in widths for _ in range(3)]  # bias, and the norm's two
    return Network(matrices, (*rest, (10, 512), (10,)))


def vit_b16() -> Network:
    """ViT-B/16 for 224 x 224 pixels and 1000 classes (Dosovitskiy et al. 2021)."""
    d = 768
    matrices = ((d, 3 * 16 * 16), *[(3 * d, d), (d, d), (4 * d, d), (d, 4 * d)] * 12)
    block: list[Shape] = [(3 * d,), (d,), (4 * d,), (d,), *[(d,)] * 4]
    return Network(matrices, ((d,), (1, 1, d), (1, 197, d), *block * 12, (d,), (d,), (1000, d), (1000,)))


def gpt2_small() -> Network:
    """GPT-2 with 12 layers; its output layer is the token embedding (Radford et al. 2019)."""
    d = 768
    matrices = ((d, 3 * d), (d, d), (d, 4 * d), (4 * d, d)) * 12
    block: list[Shape] = [(3 * d,), (d,), (4 * d,), (d,), *[(d,)] * 4]
    return Network(matrices, ((50257, d), (1024, d), *block * 12, (d,), (d,)))


def llama_7b_layer() -> Network:
    """One decoder layer of LLaMA-7B (Touvron et al. 2023)."""
    d, hidden = 4096, 11008
    return Network((*[(d, d)] * 4, (hidden, d), (hidden, d), (d, hidden)), ((d,), (d,)))
