"""``fastrank.load_factorized``: puts the factors in a file into a model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..analysis import AnalyzeError
from .file import Pair, read
from .layers import by_clean_name, low_rank_layer, reason_against

Model = TypeVar("Model", bound=nn.Module)


def load_factorized(path: str | os.PathLike[str], model: Model, *, dense: bool = False, assign: bool = False) -> Model:
    """Load a file that `fastrank.factorize` wrote into a model: factors as layers, all else as `load_state_dict` does.

    Args:
        path: the file.
        model: of the architecture whose weights were factored; its own weights are replaced. A layer of which there are
            factors becomes two in sequence: an `nn.Linear` two of them, an `nn.Conv1d`, `nn.Conv2d` or `nn.Conv3d` a
            convolution with k channels and one of kernel 1. Their dtype, device, mode and `requires_grad` are those of
            the layer, and the bias is its own.
        dense: True loads the product, computed in FP64 and rounded to the factors' dtype, where a layer takes no
            factors. False (default): that is an error.
        assign: as of `load_state_dict`: True makes the file's tensors the model's, in their own dtype, which a model on
            the meta device needs. False (default) copies them into those of the model.

    Returns:
        The model. Its state dict has `x.0.weight` (V), `x.1.weight` (U) and `x.1.bias` in the place of `x.weight` and
        `x.bias`. Code that asks a layer for its `weight` gets the product.

    Raises:
        AnalyzeError: the file cannot be read; or it names a layer that takes no factors, or tensors that are missing,
            not expected, or of another shape. The model then has the layers that it had, but as with `load_state_dict`
            some weights may have been loaded. It is a ValueError.
        OSError: no such file.
        ImportError: safetensors is missing: the extra `history` has it.

    No factors are taken by layers of other types (among them embeddings, attention's projections and transposed
    convolutions), convolutions of several groups, parametrized layers, layers with hooks (such as those of pruning),
    and weights that are tied or sharded.
    """
    path = Path(path).expanduser()
    pairs, state = read(path)
    there = dict(chain(model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)))
    own = by_clean_name(there)
    state = {own.get(name, name): x for name, x in state.items()}
    layers: dict[str, nn.Module] = {}
    for name, pair in pairs.items():
        name, layer_path = own.get(name, name), own.get(name, name).rpartition(".")[0]
        reason = reason_against(model, name)
        if name not in there or (reason and not dense):
            raise AnalyzeError(f"{path}: has factors of {name}, but {reason or 'the model has no such weight'}")
        if not is_lazy(there[name]) and tuple(there[name].shape) != pair.shape:
            raise AnalyzeError(f"{path}: {name} has shape {pair.shape}, and {tuple(there[name].shape)} in the model")
        if reason:
            state[name] = pair.multiplied()
            continue
        layers[layer_path] = low_rank_layer(model.get_submodule(layer_path), len(pair.v))
        state |= _as_layers(layer_path, pair)
        if (bias := f"{layer_path}.bias") in state:
            state[f"{layer_path}.1.bias"] = state.pop(bias)
    before = {layer_path: model.get_submodule(layer_path) for layer_path in layers}
    try:
        _put(model, layers)
        model.load_state_dict(state, assign=assign)
    except BaseException as error:
        _put(model, before)
        if isinstance(error, RuntimeError):
            raise AnalyzeError(f"{path}: {error}") from error
        raise
    return model


def _as_layers(layer_path: str, pair: Pair) -> dict[str, Tensor]:
    k, window = len(pair.v), pair.shape[2:]
    return {
        f"{layer_path}.0.weight": pair.v.view(k, *pair.shape[1:]),
        f"{layer_path}.1.weight": pair.u.view(-1, k, *(1 for _ in window)),
    }


def _put(model: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    for layer_path, layer in layers.items():
        model.set_submodule(layer_path, layer)
