"""LoRA: the products B A of a model's low-rank adapters, without forming them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..weights import clean_name, read_weight, whole
from .core import join, triangle

PAIRS = (("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B"))
"""Under which names modules keep the two factors: PEFT's layers and embeddings, and loralib's."""


class Pair(NamedTuple):
    """The factors of one adapter."""

    left: Tensor
    """B `(m, r)`, or a stack of them."""
    right: Tensor
    """A `(r, n)`, or a stack."""
    scaling: float


def lora(model: nn.Module, *, name: str = "lora") -> dict[str, Callable[[nn.Module], dict[str, Tensor]]]:
    """The products `scaling * B A` of a model's LoRA adapters, for `track` of `RankTracker`.

    Found are modules with `lora_A` and `lora_B`: PEFT's layers, for each of their adapters, embeddings and convolutions
    too, and each expert of a stack; loralib's; and others that keep parameters or linear layers under these names. The
    products are not formed, see `core`: their rows have the shape `(r, r)`, so that a product of full rank is one that
    uses all of its r columns.

    Args:
        model: its adapters are settled when the tracker is made.
        name: of the products: `lora/PATH`, in PEFT's models `lora/PATH[ADAPTER]` (default `"lora"`).

    Raises:
        ValueError: the model has no such module, or the factors of one do not multiply.
    """
    if not _pairs(model):
        found = " or ".join(f"{a} and {b}" for a, b in PAIRS)
        raise ValueError(f"lora: no module of the model has {found}")
    return {name: lambda _: _cores(_pairs(model))}


@torch.no_grad()
def _cores(pairs: Mapping[str, Pair]) -> dict[str, Tensor]:
    """The scaled core of each pair: those of equal shapes by one decomposition."""
    alike: dict[object, list[str]] = {}
    for label, (left, right, _) in pairs.items():
        alike.setdefault((left.shape, right.shape, left.dtype, right.dtype, left.device), []).append(label)
    found: dict[str, Tensor] = {}
    for labels in alike.values():
        lefts = torch.stack([pairs[label].left for label in labels])
        rights = torch.stack([pairs[label].right for label in labels])
        cores = join(triangle(lefts), triangle(rights.mT))
        found |= {label: own * pairs[label].scaling for label, own in zip(labels, cores, strict=True)}
    return {label: found[label] for label in pairs}


def _pairs(model: nn.Module) -> dict[str, Pair]:
    found: dict[str, Pair] = {}
    for path, module in model.named_modules():
        for adapter, left, right in _factors(module):
            label = (clean_name(path) if path else "model") + (f"[{adapter}]" if adapter else "")
            if isinstance(getattr(module, "conv", None), nn.Module) or left.shape[-1] != right.shape[-2]:
                raise ValueError(
                    f"lora: the adapter of {label!r}, with B {tuple(left.shape)} and A {tuple(right.shape)}, is no "
                    "product of two matrices; track what it adds by a function of your own"
                )
            scaling = getattr(module, "scaling", 1.0)
            scaling = scaling.get(adapter, 1.0) if isinstance(scaling, Mapping) else scaling
            found[label] = Pair(left, right, float(scaling))
    return found


def _factors(module: nn.Module) -> Iterator[tuple[str, Tensor, Tensor]]:
    """The adapters of a module: name, which may be empty, B and A."""
    for a, b in PAIRS:
        rights, lefts = getattr(module, a, None), getattr(module, b, None)
        if isinstance(rights, nn.ModuleDict | nn.ParameterDict) and isinstance(lefts, nn.ModuleDict | nn.ParameterDict):
            for adapter in rights:
                if adapter in lefts:
                    yield adapter, *_of_experts(module, _matrix(lefts[adapter]), _matrix(rights[adapter]))
        elif isinstance(rights, nn.Module | Tensor) and isinstance(lefts, nn.Module | Tensor):
            yield "", _matrix(lefts), _matrix(rights)


def _of_experts(module: nn.Module, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The factors of each expert, where PEFT keeps those of all experts of a layer in one: A one after the other, and
    the columns of B in turns."""
    experts = getattr(module, "num_experts", 1)
    if experts == 1 or left.shape[1] != right.shape[0] or left.shape[1] % experts:
        return left, right
    return left.reshape(len(left), -1, experts).movedim(-1, 0), right.reshape(experts, -1, right.shape[1])


def _matrix(factor: nn.Module | Tensor) -> Tensor:
    """A factor as a matrix; a convolution's `(out, in, kernel)` as `(out, in * kernel)`."""
    weight = read_weight(factor, "weight") if isinstance(factor, nn.Module) else whole(factor)
    if weight is None or weight.ndim < 2:
        raise ValueError(f"lora: a factor of type {type(factor).__name__} has no weight that is a matrix")
    return weight.flatten(1)
