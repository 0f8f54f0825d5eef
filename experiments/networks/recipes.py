"""Making a network from its name and options."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from .checks import NetworkError, Shape, at_least
from .convnet import ConvNet
from .mlp import MLP
from .resnet import ResNet18
from .vgg import VGG16
from .vit import ViT

__all__ = ["NETWORKS", "NetworkError", "Recipe", "Shape", "build"]


@dataclass(frozen=True)
class Recipe:
    """How a network is made: by ``make(shape, classes, **options)``, with a positive integer for every option."""

    make: Callable[..., nn.Module]
    options: tuple[str, ...] = ()


def _mlp(shape: Shape, classes: int, depth: int, width: int) -> nn.Module:
    return MLP(math.prod(shape), classes, depth, width, batch_norm=False)


def _mlp_bn(shape: Shape, classes: int, depth: int, width: int) -> nn.Module:
    return MLP(math.prod(shape), classes, depth, width, batch_norm=True)


NETWORKS: dict[str, Recipe] = {
    "mlp_bn": Recipe(_mlp_bn, ("depth", "width")),
    "mlp": Recipe(_mlp, ("depth", "width")),
    "convnet": Recipe(ConvNet, ("depth", "width")),
    "resnet18": Recipe(ResNet18),
    "vgg16_bn": Recipe(VGG16),
    "vit": Recipe(ViT, ("depth", "width", "heads", "patch")),
}


def build(
    name: str, *, shape: Shape, classes: int, seed: int, device: torch.device | str = "cpu", **options: int
) -> nn.Module:
    """Make a network, with initial parameters that depend on ``seed`` alone and not on the device.

    Args:
        name: one of `NETWORKS`.
        shape: channels, height and width of an image.
        classes: outputs.
        seed: 0 or more; seeds PyTorch's CPU generator, which is then left as it was.
        device: where the parameters are put (default: the CPU). ``"meta"`` makes shapes without values, in no time.
        options: the network's own, such as ``depth`` and ``width``: all that its `Recipe` names, and no other.

    Returns:
        The network, in training mode.

    Raises:
        NetworkError: an unknown name, a missing or unknown option, or one that does not work with another or with
            the image. The message starts with the option's name and says what would work.
    """
    if name not in NETWORKS:
        raise NetworkError(f"name: unknown network {name!r}; known: {', '.join(NETWORKS)}")
    recipe = NETWORKS[name]
    for option in options:
        if option not in recipe.options:
            known = ", ".join(recipe.options) or "none"
            raise NetworkError(f"{option}: {name} has no such option; remove it (its options: {known})")
    for option in recipe.options:
        if option not in options:
            raise NetworkError(f"{option}: is missing; {name} needs {', '.join(recipe.options)}")
    if len(shape) != 3:
        raise NetworkError(f"shape: must be channels, height and width, not {shape!r}")
    at_least(1, **{f"shape[{i}]": side for i, side in enumerate(shape)})
    at_least(0, seed=seed)
    values = "meta" if torch.device(device).type == "meta" else "cpu"
    with torch.random.fork_rng(devices=[]), torch.device(values):
        # Not torch.manual_seed, which seeds the generators of CUDA devices as well.
        torch.default_generator.manual_seed(seed)
        network = recipe.make(shape, classes, **options)
    return network.to(device)
