"""Operators: functions that compilers of PyTorch take as they are, as one node of a graph, in the namespace `fastrank`.

What Dynamo would trace into and cannot compile, addresses of tensors and calls of kernels, is hidden in an operator.
`torch.compile` and `torch.export` then know of it what its schema and its fake implementation say: what it reads, what
it writes in place, and the shapes, dtypes and devices of what it returns.

Rooms register their operators in modules of their own, which are imported when a function is first traced: registering
takes 40 ms for all of them. Otherwise nothing calls operators, as PyTorch's dispatcher takes 20 to 40 us a call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_LIBRARY = torch.library.Library("fastrank", "FRAGMENT")  # type: ignore[no-untyped-call]
# A replay of a CUDA graph would run nothing of what an operator does on the host. Inductor leaves such operators out of
# its graphs.
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.cudagraph_unsafe)


def register(
    schema: str, real: Callable[..., Any], fake: Callable[..., Any], vmap: Callable[..., Any] | None = None
) -> None:
    """Register an operator, for tensors of any device.

    No gradient flows through it: what it returns requires none.

    Args:
        schema: in PyTorch's language, such as `"name.overload(Tensor A, *, int k) -> Tensor"`. What is written in place
            is marked there.
        real: does the work, with gradients disabled.
        fake: gets tensors without values, and returns such tensors with the shapes, strides, dtypes and devices of what
            `real` would return. It raises what `real` would, where shapes and dtypes tell.
        vmap: the rule of `torch.func.vmap`, see `torch.library.register_vmap` (default: vmap is an error).
    """
    name = schema.partition("(")[0]
    full = f"fastrank::{name}"
    _LIBRARY.define(schema, tags=_TAGS)  # type: ignore[no-untyped-call]
    _LIBRARY.impl(name, real, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake(full, fake, lib=_LIBRARY)
    packet, _, overload = name.partition(".")
    operator = getattr(getattr(torch.ops.fastrank, packet), overload or "default")

    def without_gradient(*args: Any, **kwargs: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*args, **kwargs)

    _LIBRARY.impl(name, without_gradient, "Autograd")  # type: ignore[no-untyped-call]
    if vmap is not None:
        torch.library.register_vmap(full, vmap, lib=_LIBRARY)
