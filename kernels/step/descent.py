"""Descent: SGD's update of a block of elements in registers, and the tables that say where the parameters are.

    g <- g / scale,  -g to maximize,  g + decay w
    b <- g where fresh, else momentum b + (1 - dampening) g
    w <- w - lr (g + momentum b if nesterov else b)          without momentum g takes the place of b

All of it is FP32. Every kernel that steps parameters calls `descend`, and is launched with `enable_fp_fusion=False`, so
that the bits of an update do not depend on the kernel that makes it. Each product is fused with the sum that it goes
into, except `momentum b`, which is rounded alone. These are the bits of the for-loop and foreach forms of
`torch.optim.SGD` in FP32, whose `add(alpha=...)` is one FMA and whose `mul_(momentum)` is an operation of its own. Its
fused CUDA kernel has other bits: it computes these lines in FP64.

Tables on the device, for P parameters. The host writes the first two and most of the third by
`fastrank.kernels.pointers`. A parameter may be a stack (E, ...) of E slices, each with hyper-parameters of its own:

    pointers (P, 3) int64     addresses of the parameter, of its gradient (0: there is none, and no step) and of its
                              momentum buffer (0: none); all three have the same dense layout
    meta (P, 3) int64         number of elements of a slice; slot of the first slice; 1 if the momentum buffer is fresh,
                              which means that its memory holds no values yet
    hyper (slots, 2) FP32     learning rate and weight decay; the slots of a stack's slices follow each other
"""

from __future__ import annotations

import triton
import triton.language as tl

PARAMETER, GRADIENT, BUFFER = map(tl.constexpr, range(3))
POINTERS = tl.constexpr(3)
"""Number of fields of a row of `pointers`: addresses of parameter, gradient and momentum buffer."""

NUMEL, SLOT, FRESH = map(tl.constexpr, range(3))
META = tl.constexpr(3)
"""Number of fields of a row of `meta`: elements of a slice, slot of the first slice, whether the buffer is fresh."""

LR, DECAY = map(tl.constexpr, range(2))
HYPER = tl.constexpr(2)
"""Number of fields of a row of `hyper`: learning rate and weight decay."""


@triton.jit
def descend(w, g, b, lr, decay, momentum, undamped, scale, fresh, HAS_MOMENTUM: tl.constexpr, NESTEROV: tl.constexpr,
            MAXIMIZE: tl.constexpr):  # fmt: skip
    """New w and b, from blocks w, g and b, all FP32; without momentum b is returned as it is.

    undamped: 1 - dampening, computed on the host in FP64 and then rounded, as PyTorch does. scale: what g is divided
    by, or None. fresh: b has no values yet, and becomes g.
    """
    if scale is not None:
        g = tl.div_rn(g, scale)
    # Triton may turn a negation into 0 - g, which loses the sign of a zero; a product keeps it.
    if MAXIMIZE:
        g = g * -1.0
    # As in PyTorch, a decay of 0 is left out, so that it does not turn an infinite parameter into NaN.
    g = tl.where(decay != 0.0, tl.fma(decay, w, g), g)
    direction = g
    if HAS_MOMENTUM:
        b = tl.where(fresh, g, tl.fma(undamped, g, momentum * b))
        direction = tl.fma(momentum, b, g) if NESTEROV else b
    return tl.fma(lr * -1.0, direction, w), b
