"""Descent: SGD's update of a block of elements in registers, and the tables that say where the elements are.

    g <- g / scale,  -g to maximize,  g + decay w
    b <- g where fresh, else momentum b + (1 - dampening) g
    w <- w - lr (g + momentum b if nesterov else b)          without momentum g takes the place of b

Every kernel that descends calls `descend`, and launches with `enable_fp_fusion=False`: the bits of an update do not
depend on the kernel it is made in. Each product is fused with its sum, but for `momentum b`, which rounds alone. These
are the bits of `torch.optim.SGD`'s for-loop and foreach forms in FP32, whose `add(alpha=...)` is one FMA and whose
`mul_(momentum)` is an operation of its own. Its fused CUDA kernel has other bits: it computes these lines in FP64.

Tables, on the device, int64 but for the last; the host writes the first two and most of the third by
`fastrank.kernels.pointers`:
    pointers (P, 3)    addresses of parameter, gradient (0: there is none, do nothing) and momentum buffer (0: none),
                       in one dense layout for all three
    meta (P, 3)        of a parameter: elements of a slice, slot, whether its buffer is fresh: yet to be written
    hyper (slots, 2)   FP32: lr and weight decay. A stack (E, ...) has E slots in a row, slice e the e-th
"""

from __future__ import annotations

import triton
import triton.language as tl

PARAMETER, GRADIENT, BUFFER = map(tl.constexpr, range(3))
POINTERS = tl.constexpr(3)
"""Fields of a row of `pointers`."""

NUMEL, SLOT, FRESH = map(tl.constexpr, range(3))
META = tl.constexpr(3)
"""Fields of a row of `meta`."""

LR, DECAY = map(tl.constexpr, range(2))
HYPER = tl.constexpr(2)
"""Fields of a row of `hyper`."""


@triton.jit
def descend(w, g, b, lr, decay, momentum, undamped, scale, fresh, HAS_MOMENTUM: tl.constexpr, NESTEROV: tl.constexpr,
            MAXIMIZE: tl.constexpr):  # fmt: skip
    """New w and b, FP32 as everything here; b comes back as it is without momentum.

    undamped: 1 - dampening, which the host rounds from FP64, as PyTorch's does. scale: what g is divided by, or None.
    """
    if scale is not None:
        g = tl.div_rn(g, scale)
    # A negation may be 0 - g to Triton, which loses the sign of a zero; a product does not.
    if MAXIMIZE:
        g = g * -1.0
    # PyTorch leaves out a decay of 0: it must not make a NaN of a parameter that is infinite.
    g = tl.where(decay != 0.0, tl.fma(decay, w, g), g)
    direction = g
    if HAS_MOMENTUM:
        b = tl.where(fresh, g, tl.fma(undamped, g, momentum * b))
        direction = tl.fma(momentum, b, g) if NESTEROV else b
    return tl.fma(lr * -1.0, direction, w), b
