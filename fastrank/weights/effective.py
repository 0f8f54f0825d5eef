"""Effective weights: the weight that a layer uses, where it is made from other tensors at each forward.

    parametrized    `torch.nn.utils.parametrize`, and so weight_norm, spectral_norm and orthogonal of `parametrizations`
    hooked          by a hook before the forward: the older `weight_norm` and `spectral_norm`, and pruning

Reading such a weight changes nothing: no parameter, buffer or attribute of a module, no global random generator, and no
weight that `parametrize.cached` keeps. It is computed as in evaluation, in which `spectral_norm` leaves its vectors as
they are, from the tensors of now; what the last forward has left in the module is not looked at.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ..device import capturing
from .pieces import whole

T = TypeVar("T")

SUFFIXES = {WeightNorm: ("_g", "_v"), SpectralNorm: ("_orig", "_u", "_v"), BasePruningMethod: ("_orig", "_mask")}
"""Endings of the names of the tensors from which each kind of hook makes a weight."""
PURE = "torch.nn.utils.parametrizations"
"""Module of the parametrizations that are known to change nothing in evaluation, and to draw no random numbers."""


def parametrizations_of(layer: nn.Module) -> dict[str, ParametrizationList]:
    """The parametrizations of a layer's tensors, by attribute."""
    found = child_of(layer, "parametrizations")
    children = found._modules.items() if isinstance(found, nn.ModuleDict) else ()
    return {name: child for name, child in children if isinstance(child, ParametrizationList)}


def child_of(module: nn.Module, name: str) -> nn.Module | None:
    """The child of a module of this name; None if there is none."""
    return _entry(module._modules, name)


def stored_in(module: nn.Module, name: str) -> Tensor | None:
    """The parameter or buffer that a module stores under this name; None if there is none."""
    parameter = _entry(module._parameters, name)
    return parameter if parameter is not None else _entry(module._buffers, name)


def _entry(entries: Mapping[str, T | None], name: str) -> T | None:
    """An entry of one of a module's own dictionaries; None if it is not there."""
    # Those of a scripted module are no dict, and have no `get`.
    return (entries if isinstance(entries, dict) else dict(entries.items())).get(name)


def parts_of(layer: nn.Module) -> dict[str, dict[str, Tensor]]:
    """The weights that `layer` makes, by their attribute: the parameters and buffers of each, by name in the layer."""
    found: dict[str, dict[str, Tensor]] = {}
    for attribute, parametrization in parametrizations_of(layer).items():
        prefix = f"parametrizations.{attribute}."
        own = [*parametrization.named_parameters(), *parametrization.named_buffers()]
        found[attribute] = {prefix + name: tensor for name, tensor in own}
    for attribute, hook in _hooks(layer).items():
        names = [attribute + suffix for suffix in _suffixes(hook)]
        stored = {name: stored_in(layer, name) for name in names}
        found[attribute] = {name: tensor for name, tensor in stored.items() if tensor is not None}
    return found


def read_weight(layer: nn.Module, attribute: str) -> Tensor | None:
    """The weight that `layer` uses under this name, stored or made, detached; None if it has none. A sharded one is
    gathered, for which all ranks have to call this."""
    stored = stored_in(layer, attribute)
    found = make_weight(layer, attribute) if stored is None else stored
    return None if found is None else whole(found)


@torch.no_grad()
def make_weight(layer: nn.Module, attribute: str) -> Tensor | None:
    """The weight that `layer` would use now, detached; None if it does not make one of this name.

    Raises:
        RuntimeError: its parametrization returns no tensor.
    """
    parametrization = parametrizations_of(layer).get(attribute)
    made = _evaluate(parametrization) if parametrization is not None else _hooked(layer, attribute, _hooks(layer))
    if made is not None and not isinstance(made, Tensor):
        raise RuntimeError(f"the parametrization of {attribute!r} returns a {type(made).__name__}, and no tensor")
    return None if made is None else made.detach()


def _hooks(layer: nn.Module) -> dict[str, Any]:
    """The hooks that make a layer's weights, by the attribute that they write."""
    found: list[Any] = [hook for hook in layer._forward_pre_hooks.values() if isinstance(hook, tuple(SUFFIXES))]
    return {hook._tensor_name if isinstance(hook, BasePruningMethod) else hook.name: hook for hook in found}


def _suffixes(hook: Any) -> tuple[str, ...]:
    return next(suffixes for kind, suffixes in SUFFIXES.items() if isinstance(hook, kind))


def _hooked(layer: nn.Module, attribute: str, hooks: dict[str, Any]) -> Any:
    """The weight that a hook makes; None if no hook does.

    The hook gets an object that has the tensors it asks for, of which some may be made by another hook. It does not get
    the layer, into which it would write.
    """
    hook: Any = hooks.get(attribute)
    if hook is None:
        return None
    tensors = {}
    for name in (attribute + suffix for suffix in _suffixes(hook)):
        stored = stored_in(layer, name)
        tensors[name] = _hooked(layer, name, hooks) if stored is None else stored
    own = SimpleNamespace(**tensors)
    options = {"do_power_iteration": False} if isinstance(hook, SpectralNorm) else {}
    compute: Any = hook.apply_mask if isinstance(hook, BasePruningMethod) else hook.compute_weight
    return compute(own, **options)


def _evaluate(parametrization: ParametrizationList) -> Any:
    """What the modules of a parametrization make of its tensors. Those of PyTorch are called as they are; any other
    works on copies of the tensors, and whatever else it could change is put back."""
    modules = list(parametrization.modules())
    attributes = [(module, dict(module.__dict__)) for module in modules]
    try:
        for module in modules:
            module.training = False
        if all(type(module).__module__ == PURE for module in modules if module is not parametrization):
            return parametrization.forward()
        tensors = {**dict(parametrization.named_parameters()), **dict(parametrization.named_buffers())}
        with surroundings_kept({tensor.device for tensor in tensors.values()}):
            copies = {name: tensor.detach().clone() for name, tensor in tensors.items()}
            return torch.func.functional_call(parametrization, copies, ())
    finally:
        for module, before in attributes:
            module.__dict__.clear()
            module.__dict__.update(before)


@contextmanager
def surroundings_kept(devices: set[torch.device]) -> Iterator[None]:
    """Puts the global random generators back at the end, and lets `parametrize.cached` keep nothing meanwhile.

    Not the generator of a device whose work is being captured in a CUDA graph: a capture cannot read it, and counts
    what it draws by itself.
    """
    cuda = [device for device in devices if device.type == "cuda" and not capturing(device)]
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (the global one)
    caching = parametrize._cache_enabled
    parametrize._cache_enabled = 0
    try:
        with torch.random.fork_rng(cuda):
            yield
    finally:
        parametrize._cache_enabled = caching
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
