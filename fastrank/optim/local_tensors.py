"""Local tensors: the parts of DTensors that are in this process, for a step that treats each element by itself.

Where a parameter, its gradient and its momentum buffer are DTensors that are placed alike, SGD's step of their local
tensors is its step of the DTensors, and no process has to hear from another. PyTorch finds that out at each operation
anew, which takes longer than the operation.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Update = Callable[[list[Tensor], list[Tensor], "list[Tensor | None]"], None]
"""Updates parameters, given their gradients and momentum buffers. Puts new buffers into the last list."""


def is_sharded(tensor: object) -> bool:
    """Whether a tensor is a DTensor, and not of a subclass of it. Does not import DTensor, which is slow: as long as
    nobody has imported it, there is none."""
    return type(tensor) is _kind()


def local(tensor: Tensor) -> Tensor:
    """The part of a DTensor that is in this process; any other tensor as it is."""
    # `to_local` is the public way. It makes a new view of a parameter each time, which takes twenty times as long. The
    # attribute has had this name in every version of PyTorch that has DTensors.
    return tensor._local_tensor if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def with_local(tensors: Sequence[Tensor]) -> list[Tensor]:
    """`tensors`, and the local tensors of those that are DTensors: all whose versions a step has to count up.

    PyTorch's operations count up the DTensor's version only. But whoever has the local tensor has to know of the step
    as well.
    """
    kind = _kind()
    return [*tensors, *(tensor._local_tensor for tensor in tensors if type(tensor) is kind)]  # type: ignore[attr-defined]


def as_placed(part: Tensor, param: Tensor) -> Tensor:
    """A DTensor with the placements of `param`, whose local tensor is `part`; if `param` is no DTensor, `part`."""
    if not is_sharded(param):
        return part
    mesh, placements = param.device_mesh, param.placements  # type: ignore[attr-defined]
    options = {"run_check": False, "shape": param.shape, "stride": param.stride()}
    return type(param).from_local(part, mesh, placements, **options)  # type: ignore[attr-defined,no-any-return]


def placed_alike(tensor: Any, param: Any) -> bool:
    """Whether two tensors are DTensors of one shape whose local tensors are the same parts of them. Sums that are not
    complete yet (`Partial`) are no parts."""
    return is_sharded(param) and _can_be_placed([tensor], param) and tensor.placements == param.placements


def whole(value: Tensor | None) -> Tensor | None:
    """All of a tensor, as a plain one. Of a DTensor, all its processes have to ask for it."""
    return value if value is None or not is_sharded(value) else value.full_tensor()  # type: ignore[attr-defined]


def cut_along(param: Tensor, axis: int) -> bool:
    """Whether a parameter is a DTensor that is shared out among several processes along one of its axes."""
    if not is_sharded(param):
        return False
    placements, sizes = param.placements, param.device_mesh.shape  # type: ignore[attr-defined]
    # Some classes of placements that cut along an axis are no subclasses of others, but all of them have a `dim`.
    return any(getattr(p, "dim", None) == axis and n > 1 for p, n in zip(placements, sizes, strict=True))


def local_as_before(tensors: Sequence[Tensor]) -> Callable[[Sequence[Any]], Sequence[Any] | None]:
    """A function that takes as many tensors and returns their local ones; None if a DTensor has become another kind of
    tensor or is placed in another way. It keeps no tensor alive."""
    kind = _kind()
    at = [(i, x.device_mesh, x.placements) for i, x in enumerate(tensors) if type(x) is kind]  # type: ignore[attr-defined]
    if not at:
        return lambda others: others

    def taken(others: Sequence[Any]) -> Sequence[Any] | None:
        found = list(others)
        for i, mesh, placements in at:
            if type(found[i]) is not kind or not _same_places(found[i], mesh, placements):
                return None
            found[i] = found[i]._local_tensor
        return found

    return taken


def update_local(
    update: Update, params: list[Tensor], grads: list[Tensor], buffers: list[Tensor | None], *, writes_grads: bool
) -> None:
    """Have `update` update tensors, of which some are DTensors: their local ones, if these are the same parts.

    Gradients and buffers that are placed in another way than their parameters are brought to the same places first, in
    which all processes take part. A new buffer is placed as its parameter.

    Args:
        writes_grads: whether `update` writes gradients.
    """
    kind = _kind()
    sharded = [i for i, param in enumerate(params) if type(param) is kind]
    given = {i: [x for x in (grads[i], *buffers[i : i + 1]) if x is not None] for i in sharded}
    if not sharded or not all(_can_be_placed(tensors, params[i]) for i, tensors in given.items()):
        update(params, grads, buffers)
        return
    for i in sharded:
        grads[i] = _placed_as(grads[i], params[i])
        if buffers and (buffer := buffers[i]) is not None:
            buffers[i] = _placed_as(buffer, params[i])
    parts = [buffer if buffer is None else local(buffer) for buffer in buffers]
    written = [x for x in (*params, *buffers, *(grads if writes_grads else ())) if x is not None and is_sharded(x)]
    update([local(param) for param in params], [local(grad) for grad in grads], parts)
    torch.autograd.graph.increment_version(with_local(written))  # PyTorch's fused form counts up none
    for i, part in enumerate(parts):
        if part is not None and buffers[i] is None:
            buffers[i] = as_placed(part, params[i])


def _can_be_placed(tensors: Sequence[Any], param: Any) -> bool:
    """Whether `_placed_as` can place tensors as `param`, a DTensor."""
    kind, mesh, shape = type(param), param.device_mesh, param.shape
    return not any(placement.is_partial() for placement in param.placements) and all(
        type(x) is kind and _same_mesh(x.device_mesh, mesh) and x.shape == shape for x in tensors
    )


def _placed_as(tensor: Any, param: Any) -> Tensor:
    same = tensor.placements == param.placements
    placed: Tensor = tensor if same else tensor.redistribute(param.device_mesh, param.placements)
    return placed


def _same_places(tensor: Any, mesh: object, placements: object) -> bool:
    return _same_mesh(tensor.device_mesh, mesh) and bool(tensor.placements == placements)


def _same_mesh(mesh: object, other: object) -> bool:
    # Meshes are as good as always the same object, and to compare them takes longer.
    return mesh is other or bool(mesh == other)


def _kind() -> type | None:
    return getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)
