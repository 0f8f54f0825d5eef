"""Ahead: lists every kernel that tracking a model may launch, and has it compiled before its first launch.

`RankTracker` calls `compile_ahead` when it is constructed; a user who does not want to train while kernels are being
compiled calls `fastrank.prepare`. `compilation` does the work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .. import backend
from ..kernels.limits import NARROW
from ..measuring import basis_sizes, by_device, compile_for_cpu
from ..measuring.compilation import compilation_of
from ..metrics import Tolerance
from ..optim import SGD
from ..weights import Choice, Source, TrackedWeights
from .optimizers import Followed, find_optimizers

if TYPE_CHECKING:
    from ..kernels.launch import AnyVariant
    from ..kernels.step import Kind


class Needs(NamedTuple):
    """Variants of kernels that are to be compiled: `urgent` ones are launched by the first step, others later."""

    urgent: list[AnyVariant]
    later: list[AnyVariant]


def prepare(model: nn.Module, optimizer: Optimizer | Sequence[Optimizer] | None = None) -> None:
    """Compile all kernels that tracking `model` may launch, and wait until they are compiled.

    Without this call they are compiled in the background, from the construction of a `RankTracker` on: a step waits
    for no more than the kernels that count, and sketches begin when their own kernels are compiled. Call it before a
    step is captured in a CUDA graph, which stays as it was captured, or before steps are timed. Triton keeps compiled
    kernels on disk, where the next process finds them. On a device with little FP64 the kernels depend on the
    tolerances: those for the default tolerance are compiled.

    Numba does the same for CPUs: the first measurement on a machine waits for it.

    Args:
        model: on the device where it is to be trained. On a device that no kernels serve nothing is done.
        optimizer: the one, or those, whose steps will be followed (default None). The kernels of a `fastrank.SGD` are
            compiled as well.

    Raises:
        TypeError: `model` is not a module, or `optimizer` is not an optimizer.
        ValueError: no parameter of the model is a matrix.
    """
    optimizers = [followed.optimizer for followed in find_optimizers(optimizer)]
    sources = TrackedWeights(model, Choice()).sources()
    for device, indices in by_device(sources).items():
        if backend.kernels_serve(device):
            needs = needs_of([sources[i].matrix for i in indices], optimizers, device, [Tolerance()])
            compilation_of(device).request(*needs)
            compilation_of(device).wait(needs.urgent)
            compilation_of(device).wait(needs.later, here=False)
        elif backend.compiled_serve(device):
            compile_for_cpu()


def compile_ahead(
    sources: Sequence[Source], followed: Sequence[Followed], tolerances: Sequence[Tolerance]
) -> Callable[[], None]:
    """Begins to compile, in the background, the kernels that tracking the matrices of `sources` may launch, on each
    device that has any of them and that the kernels serve.

    Returns:
        A function that waits until the kernels of the first step are compiled. Call it before that step: a launch that
        comes earlier would compile its kernel a second time.
    """
    urgent: dict[torch.device, list[AnyVariant]] = {}
    for device, indices in by_device(sources).items():
        if backend.kernels_serve(device):
            matrices = [sources[i].matrix for i in indices]
            urgent[device], later = needs_of(matrices, [found.optimizer for found in followed], device, tolerances)
            compilation_of(device).request(urgent[device], later)

    def until_compiled() -> None:
        while urgent:  # empty after the first call
            device, variants = urgent.popitem()
            compilation_of(device).wait(variants)

    return until_compiled


def needs_of(
    matrices: Sequence[Tensor],
    optimizers: Sequence[Optimizer],
    device: torch.device,
    tolerances: Sequence[Tolerance] = (),
) -> Needs:
    """All kernel variants that measuring `matrices` after each step of `optimizers` may launch on `device`.

    Urgent are the optimizer's step, the counts, and what writes tables and rows. Later come, for each number of columns
    k that `basis_sizes` allows, the sketch and the step that is fused with it, then the other `_forms` of both steps.
    """
    from ..kernels.count import Shape, variants_of_counts
    from ..kernels.pointers import POKE
    from ..kernels.record import RECORD
    from ..kernels.sketch import variants_of_sketches
    from ..kernels.step import sgd_sketch_variant, sgd_variant

    kinds = list(dict.fromkeys(kind for optimizer in optimizers for kind in _kinds(optimizer)))
    forms = list(dict.fromkeys(form for optimizer in optimizers for form in _forms(optimizer))) or [(False, False)]
    present = [matrix for matrix in matrices if matrix.numel()]
    products = backend.integer_products(device, tolerances)
    urgent: list[AnyVariant] = [sgd_variant(kind, *forms[0]) for kind in kinds]
    urgent += variants_of_counts([(m.dtype, Shape.of(m)) for m in present], device, products)
    urgent += [POKE, RECORD]
    # FP64 matrices are not sketched.
    choices = [(m.dtype, basis_sizes(min(m.shape))) for m in present if m.dtype != torch.float64]
    first = dict.fromkeys((dtype, ks[0]) for dtype, ks in choices)
    more = dict.fromkeys((dtype, k) for dtype, ks in choices for k in ks if (dtype, k) not in first)

    integers = backend.sketches_by_integers(device, tolerances)

    def fused(dtype: torch.dtype, k: int, form: tuple[bool, bool]) -> list[AnyVariant]:
        own = [kind for kind in kinds if kind.dtype == dtype]
        return [sgd_sketch_variant(kind, k, device, *form, integers=integers) for kind in own]

    later: list[AnyVariant] = []
    for dtype, k in [*first, *more]:
        later += [*variants_of_sketches([(dtype, k)], device, integers), *fused(dtype, k, forms[0])]
    for form in forms[1:]:
        later += [sgd_variant(kind, *form) for kind in kinds]
        later += [variant for dtype, k in [*first, *more] for variant in fused(dtype, k, form)]
    return Needs(urgent, later)


def _forms(optimizer: Optimizer) -> list[tuple[bool, bool]]:
    """Whether a step is given a `grad_scale` and a `found_inf`: first as it is now, then as it may be later.

    `torch.amp.GradScaler` gives both, or after `unscale_` only `found_inf`, to an optimizer made with `fused=True`, and
    only for the duration of its step.
    """
    now = (getattr(optimizer, "grad_scale", None) is not None, getattr(optimizer, "found_inf", None) is not None)
    fused = any(group.get("fused") for group in optimizer.param_groups)
    return [now, *([(True, True), (False, True)] if fused and not any(now) else [])]


def _kinds(optimizer: Optimizer) -> Iterable[Kind]:
    """The kinds of step of the parameters that the kernels step, each once; none without a `fastrank.SGD`."""
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
