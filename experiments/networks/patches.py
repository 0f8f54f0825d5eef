"""How many patches of a sample enter each layer: N of the rank bound ``rank(G) <= B*N`` (arXiv 2206.05794)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .checks import NetworkError

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def count_patches(model: nn.Module, sample_shape: Sequence[int]) -> dict[str, int]:
    """Number of vectors of one sample that each weight matrix multiplies.

    The gradient of a matrix is a sum of outer products, one for each of these N vectors of each sample in the batch.
    With batches of B samples its rank is therefore at most B*N.

    Args:
        model: any model; its ``nn.Linear`` layers and (not transposed) convolutions are counted. It is left as it was.
        sample_shape: shape of one sample, without the batch.

    Returns:
        N of every matrix, by the name that it has in a history, such as ``"blocks.0.conv1.weight"``. For a convolution
        N is the number of output positions, in each of its groups; for a linear layer that of tokens, which is 1 where
        a sample is one vector. For a matrix that is used several times it is the sum.

    Raises:
        NetworkError: the model does not accept such a sample, or a layer does not run.

    One sample of zeros is run in evaluation mode, where batch-norm needs no second sample and keeps its averages.
    """
    names: dict[Tensor, str] = {}  # by the parameter: a tied one is a single matrix, under its first name
    counts: dict[str, int] = {}
    hooks = []

    def counter(names: Sequence[str]) -> Callable[[nn.Module, Any, Tensor], None]:
        def count(layer: nn.Module, _: Any, output: Tensor) -> None:
            weight: Any = layer.weight
            for name in names:
                counts[name] += output.numel() // len(weight)

        return count

    for prefix, layer in model.named_modules():
        if isinstance(layer, LAYERS):
            name = names.setdefault(layer.weight, f"{prefix}.weight" if prefix else "weight")
            groups = getattr(layer, "groups", 1)
            matrices = [name] if groups == 1 else [f"{name}[{group}]" for group in range(groups)]
            counts.update(dict.fromkeys(matrices, 0))
            hooks.append(layer.register_forward_hook(counter(matrices)))
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        _run(model, sample_shape)
    finally:
        for module, training in modes:
            module.training = training
        for hook in hooks:
            hook.remove()
    for name, n in counts.items():
        if n == 0:
            raise NetworkError(f"{name}: its layer did not run, so its patches are not known")
    return counts


@torch.no_grad()
def _run(model: nn.Module, sample_shape: Sequence[int]) -> None:
    like = next(model.parameters(), torch.zeros(0))
    try:
        model(torch.zeros((1, *sample_shape), dtype=like.dtype, device=like.device))
    except (RuntimeError, ValueError, IndexError) as error:
        raise NetworkError(
            f"sample_shape: {type(model).__name__} does not accept a sample of {tuple(sample_shape)}: {error}"
        ) from error
