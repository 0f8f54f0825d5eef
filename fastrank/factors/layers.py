"""Layers: two in sequence in the place of one whose weight is U V.

    Linear(n, m)              Linear(n, k) without a bias,      then Linear(k, m) with the bias
    Conv(c_in, c_out, ...)    Conv(c_in, k, ...) without one,   then Conv(k, c_out, 1) with the bias

The first convolution has the stride, padding and dilation of the one that it replaces: the second one mixes channels
only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import skip_init

from ..weights import clean_name, is_sharded, parametrizations_of, stored_in

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class LowRankLayer(nn.Sequential):
    """Two layers in sequence whose weights are factors, V in `[0]` and U in `[1]`, in the place of one layer.

    Code that looks at `weight` or `bias` of the layer that was here finds them: `weight` is the product U V, made anew
    each time.
    """

    @property
    def weight(self) -> Tensor:
        """U V in the shape of the weight that the factors replace, with its gradient."""
        layers: Any = self
        v, u = (layer.weight for layer in layers)
        product: Tensor = (u.flatten(1) @ v.flatten(1)).view(len(u), *v.shape[1:])
        return product

    @property
    def bias(self) -> Tensor | None:
        """The second layer's."""
        layers: Any = self
        bias: Tensor | None = layers[1].bias
        return bias


def by_clean_name(names: Iterable[str]) -> dict[str, str]:
    """The names of a model's tensors by those that a file has, without the parts that wrappers put in; those that are
    then not of one tensor alone are left out."""
    found = list(names)
    counts = Counter(map(clean_name, found))
    return {clean_name(name): name for name in found if counts[clean_name(name)] == 1}


def reason_against(model: nn.Module, name: str) -> str:
    """Why the weight of this name in a model cannot be replaced by factors; empty where it can."""
    path, _, attribute = name.rpartition(".")
    try:
        layer = model.get_submodule(path)
    except AttributeError:
        return f"the model has no layer {path!r}"
    if parametrizations_of(layer):
        return "its layer is parametrized: remove_parametrizations makes it a plain one"
    if type(layer) is not nn.Linear and type(layer) not in CONVOLUTIONS:
        return f"its layer is of type {type(layer).__name__}"
    if any(getattr(layer, hooks) for hooks in HOOKS):
        return "its layer has hooks, such as those of pruning, which two layers in its place would not have"
    weight = stored_in(layer, attribute)
    if attribute != "weight" or weight is None:
        return f"its layer has no weight of the name {attribute!r}"
    groups = getattr(layer, "groups", 1)
    if groups != 1:
        return f"its layer is a convolution of {groups} groups"
    if not path:
        return "its layer is the model itself: make it a part of an nn.Sequential"
    if is_sharded(weight):
        return "it is sharded"
    owners = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    return "it is tied: the model has it more than once" if owners[id(weight)] > 1 else ""


def low_rank_layer(layer: nn.Module, k: int) -> LowRankLayer:
    """Layers of rank k for a linear layer or a convolution, with weights that are not initialised, and its own bias."""
    like: Any = layer
    if isinstance(layer, nn.Linear):
        first, second = _empty(like, layer.in_features, k), _empty(like, k, layer.out_features)
    else:
        window = {name: getattr(like, name) for name in ("stride", "padding", "dilation", "padding_mode")}
        first = _empty(like, like.in_channels, k, like.kernel_size, **window)
        second = _empty(like, k, like.out_channels, 1)
    second.bias = like.bias
    return LowRankLayer(first, second).train(layer.training)


def _empty(like: Any, *sizes: Any, **options: Any) -> Any:
    """A layer like another one, of other sizes, without a bias; its weight takes no random numbers."""
    place = {"device": like.weight.device, "dtype": like.weight.dtype}
    made: Any = skip_init(type(like), *sizes, bias=False, **options, **place)  # type: ignore[no-untyped-call]
    made.weight.requires_grad_(like.weight.requires_grad)
    return made
