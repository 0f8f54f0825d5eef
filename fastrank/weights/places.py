"""Places: where a model keeps its weights, under which names, and how a weight is read there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .effective import child_of, make_weight, parametrizations_of, parts_of, stored_in
from .readable import is_sharded, is_uninitialised

WRAPPERS = frozenset(
    {
        *("module", "_orig_mod"),  # DataParallel and DistributedDataParallel; torch.compile
        *("_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_fpw_module"),  # activation checkpointing; FSDP
        *("_forward_module", "_original_module"),  # Lightning Fabric
        *("_module", "_torch_module"),  # Opacus; ONNX Runtime
    }
)
"""Parts of names that wrappers put in."""
ALIASES = 8
"""Names by which a shared module is known at most; a model may have more ways to a module than can be followed."""

Links = tuple[tuple[nn.Module, str, nn.Module], ...]
"""A way through a model: (module, name of a child, that child), from the model on."""


def clean_name(name: str) -> str:
    """The name of a weight without the parts that wrappers put in, such as `module.` and `_orig_mod.`."""
    *path, own = name.split(".")
    return ".".join([*(part for part in path if part not in WRAPPERS), own])


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, where `model` is a wrapper around it, such as that of `torch.compile`."""
    children = dict(model.named_children())
    while len(children) == 1 and children.keys() <= WRAPPERS:
        (model,) = children.values()
        children = dict(model.named_children())
    return model


class Weight(NamedTuple):
    """A weight as it is now."""

    tensor: Tensor
    """Detached. Of an effective weight, it shares no memory with what it is made from."""
    parameter: Tensor
    """The parameter itself or, of an effective weight, the first of those that it is made from."""
    is_made: bool
    """Whether it is an effective weight, which the layer makes from other tensors."""


@dataclass(frozen=True)
class Place:
    """Where a model keeps a weight. The tensor itself is looked up at each step, and may be another one then."""

    name: str
    """Dotted, as in the model."""
    layer: nn.Module
    """The module that uses the weight."""
    attribute: str
    """Name of the weight in the layer."""
    owner: nn.Module
    """The module that stores it: the layer, or one of its parametrizations."""
    stored: str
    """Name of the parameter in `owner`."""
    links: Links
    """The way to `owner` from the model."""
    part_of: str = ""
    """Name of the effective weight that the layer makes from this parameter; empty for a weight that is used itself."""
    raw: bool = False
    """Whether the stored parameter is wanted, never a weight that is made."""

    @property
    def key(self) -> tuple[int, str]:
        """Equal for the places of one and the same weight, which is tied."""
        parameter = stored_in(self.owner, self.stored)
        return (id(self.owner), self.stored) if parameter is None else (id(parameter), "")

    def read(self) -> Weight | None:
        """The weight as it is now; None if the layer has none of this name any more."""
        parameter = stored_in(self.owner, self.stored)
        if parameter is not None:
            as_it_is = is_uninitialised(parameter) or is_sharded(parameter)  # whose shard is taken without a gradient
            return Weight(parameter if as_it_is else parameter.detach(), parameter, False)
        made = None if self.raw else make_weight(self.layer, self.attribute)
        if made is None:
            return None
        parts = list(parts_of(self.layer)[self.attribute].values())
        if is_sharded(made):
            return Weight(made, parts[0], True)
        memory = made.untyped_storage().data_ptr()
        dense = [part for part in parts if part.layout == torch.strided and not is_sharded(part)]
        if any(part.untyped_storage().data_ptr() == memory for part in dense):  # a view of what it is made from
            made = made.clone()
        return Weight(made, parts[0], True)


def list_places(model: nn.Module, raw: bool) -> Iterator[Place]:
    """Every weight of a model, once for each name by which a module can be reached that owns it.

    Args:
        model: its modules may be shared.
        raw: parameters as they are stored, instead of the weights that layers make from them.
    """
    for path, layer, links in _modules(model, "", (), Counter()):
        made = parts_of(layer)
        for attribute, parts in made.items() if not raw else ():
            if any(isinstance(part, nn.Parameter) for part in parts.values()):
                yield Place(path + attribute, layer, attribute, layer, attribute, links)
        hooked = {name: attribute for attribute, parts in made.items() for name in parts}
        for name, parameter in layer._parameters.items():
            if parameter is not None:
                attribute = hooked.get(name, name)
                whole = path + attribute if attribute != name and not raw else ""
                yield Place(path + name, layer, attribute, layer, name, links, whole, raw)
        for attribute, parametrization in parametrizations_of(layer).items():
            yield from _parts(path, layer, attribute, parametrization, links, raw)


def _parts(
    path: str, layer: nn.Module, attribute: str, parametrization: nn.Module, links: Links, raw: bool
) -> Iterator[Place]:
    """The parameters that a parametrization of a layer stores: its originals, seen as the layer sees its weight, and
    those of its modules, seen as these see them."""
    around = child_of(layer, "parametrizations")
    assert around is not None
    way: Links = (*links, (layer, "parametrizations", around), (around, attribute, parametrization))
    whole = "" if raw else path + attribute
    for place in list_places(parametrization, raw=True):
        name = f"{path}parametrizations.{attribute}.{place.name}"
        own = place.owner is parametrization
        seen_by, seen_as = (layer, attribute) if own else (place.layer, place.attribute)
        yield Place(name, seen_by, seen_as, place.owner, place.stored, (*way, *place.links), whole, True)


def _modules(module: nn.Module, path: str, links: Links, known: Counter[int]) -> Iterator[tuple[str, nn.Module, Links]]:
    """Yields each module but parametrizations, with its path, which ends in a dot, and the links that lead there."""
    known[id(module)] += 1
    if known[id(module)] > ALIASES:
        return
    yield path, module, links
    around = {id(module), *(id(parent) for parent, _, _ in links)}
    parametrized = bool(parametrizations_of(module))
    for name, child in module._modules.items():
        if child is not None and id(child) not in around and not (parametrized and name == "parametrizations"):
            yield from _modules(child, f"{path}{name}.", (*links, (module, name, child)), known)
