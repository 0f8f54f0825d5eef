"""Ahead: every kernel that tracking a model may launch, asked for before the first one is launched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .. import backend
from ..kernels.limits import NARROW
from ..optim import SGD
from .basis_size import basis_sizes
from .compilation import compilation_of
from .matricize import find_parameters

if TYPE_CHECKING:
    from ..kernels.step import Kind
    from ..kernels.variant import Variant


class Needs(NamedTuple):
    """Variants of kernels; see `fastrank.tracking.compilation` for the difference."""

    urgent: list[Variant]
    later: list[Variant]


def prepare(model: nn.Module, optimizer: Optimizer | None = None) -> None:
    """Compile all kernels that tracking `model` may launch, and wait until they are there.

    Without it they are compiled in the background from the making of a `RankTracker` on: no step waits for more than
    those that count, and sketches begin when theirs are there. Call this before a step is captured in a CUDA graph,
    which stays as it was captured, or before steps are timed. Triton keeps what is compiled on disk, so that the next
    process finds it.

    Args:
        model: where it is to be trained. On a device that the kernels do not serve, such as a CPU, nothing is done.
        optimizer: whose steps will be followed. With a `fastrank.SGD` its own kernels are compiled as well.

    Raises:
        TypeError: `model` is no module, or `optimizer` no optimizer.
        ValueError: no parameter of the model is a matrix.
    """
    check_training(model, optimizer)
    parameters, _ = find_parameters(model, None, None, None, "all")
    found: dict[torch.device, list[Tensor]] = {}
    for matrix in (view for parameter in parameters for view in parameter.views()):
        found.setdefault(matrix.device, []).append(matrix)
    for device, matrices in found.items():
        if backend.kernels_serve(device):
            needs = needs_of(matrices, optimizer, device)
            compilation_of(device).request(*needs)
            compilation_of(device).wait(needs.urgent)
            compilation_of(device).wait(needs.later, here=False)


def check_training(model: object, optimizer: object) -> None:
    """Raises `TypeError`, naming the argument, for what is no model or, if there is one, no optimizer."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, not {type(model).__name__}")
    if optimizer is not None and not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer: expected a torch.optim.Optimizer, not {type(optimizer).__name__}")


def compile_ahead(matrices: Sequence[Tensor], optimizer: Optimizer | None, device: torch.device) -> Callable[[], None]:
    """Begins to compile what tracking `matrices` may launch, if they are on a device that the kernels serve.

    Returns what waits until all is there that the first step launches: it would be compiled twice otherwise.
    """
    if not backend.kernels_serve(device) or any(matrix.device != device for matrix in matrices):
        return lambda: None
    urgent, later = needs_of(matrices, optimizer, device)
    compilation_of(device).request(urgent, later)

    def until_compiled() -> None:
        nonlocal urgent
        if urgent:  # once is enough
            compilation_of(device).wait(urgent)
            urgent = []

    return until_compiled


def needs_of(matrices: Sequence[Tensor], optimizer: Optimizer | None, device: torch.device) -> Needs:
    """All that measuring `matrices` after each step of `optimizer` may launch on `device`."""
    from ..kernels.count import Shape, variants_of_counts
    from ..kernels.pointers import POKE
    from ..kernels.sketch import variants_of_sketches
    from ..kernels.step import sgd_sketch_variant, sgd_variant

    kinds, forms = list(_kinds(optimizer)), _forms(optimizer)
    present = [matrix for matrix in matrices if matrix.numel()]
    dtypes = list(dict.fromkeys(matrix.dtype for matrix in present))
    urgent = [sgd_variant(kind, *forms[0]) for kind in kinds]
    urgent += variants_of_counts([Shape.of(matrix).order for matrix in present], dtypes, device)
    urgent.append(POKE)
    choices = [
        (m.dtype, basis_sizes(min(m.shape))) for m in present if m.dtype != torch.float64
    ]  # which is not sketched
    first = dict.fromkeys((dtype, ks[0]) for dtype, ks in choices)
    more = dict.fromkeys((dtype, k) for dtype, ks in choices for k in ks if (dtype, k) not in first)

    def fused(dtype: torch.dtype, k: int, form: tuple[bool, bool]) -> list[Variant]:
        own = [kind for kind in kinds if kind.dtype == dtype]
        made = [sgd_sketch_variant(kind, k, device, *form) for kind in own]
        return [variant for variant in made if variant is not None]

    later: list[Variant] = []
    for dtype, k in [*first, *more]:
        later += [*variants_of_sketches(dtype, k, device), *fused(dtype, k, forms[0])]
    for form in forms[1:]:
        later += [sgd_variant(kind, *form) for kind in kinds]
        later += [variant for dtype, k in [*first, *more] for variant in fused(dtype, k, form)]
    return Needs(urgent, later)


def _forms(optimizer: Optimizer | None) -> list[tuple[bool, bool]]:
    """Whether steps have a `grad_scale` and a `found_inf`: as things are first, then what else there may be.

    `torch.amp.GradScaler` gives both, or after `unscale_` the second, to an optimizer made with `fused=True`, and only
    for as long as it steps.
    """
    now = (getattr(optimizer, "grad_scale", None) is not None, getattr(optimizer, "found_inf", None) is not None)
    fused = optimizer is not None and any(group.get("fused") for group in optimizer.param_groups)
    return [now, *([(True, True), (False, True)] if fused and not any(now) else [])]


def _kinds(optimizer: Optimizer | None) -> Iterable[Kind]:
    """Of the parameters that the kernels step, without duplicates."""
    if not isinstance(optimizer, SGD):
        return ()
    from ..kernels.step import Kind

    groups = [group for group in optimizer.param_groups if not isinstance(group["momentum"], Tensor)]
    return dict.fromkeys(
        Kind(param.dtype, float(group["momentum"]), float(group["dampening"]), group["nesterov"], group["maximize"])
        for group in groups
        for param in group["params"]
        if param.dtype in NARROW
    )
