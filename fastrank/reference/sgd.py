"""SGD's update of a stack of E independent models, each slice with its own learning rate and weight decay.

For slice e of a parameter `W` of shape (E, ...), gradient `G` and momentum buffer `B` of the same shape, as
`torch.optim.SGD` has it:

    G[e] <- (-1 if maximize else 1) * G[e] / grad_scale + weight_decay[e] * W[e]
    B[e] <- G[e] on the first step, momentum * B[e] + (1 - dampening) * G[e] on later ones
    W[e] <- W[e] - lr[e] * (G[e] + momentum * B[e] if nesterov else B[e])

With `momentum` 0 there is no B, and G[e] takes its place in the last line. If `found_inf` is not 0, neither
W nor B changes. The host reads no tensor's values. (PyTorch leaves out a weight decay of 0; here 0 * W[e] is
added to a slice's gradient, which is the same as long as W[e] is finite.)
"""

import torch
from torch import Tensor


def stacked_sgd_(
    param: Tensor,
    grad: Tensor,
    momentum_buffer: Tensor | None,
    *,
    lr: float | Tensor,
    weight_decay: float | Tensor,
    momentum: float,
    dampening: float,
    nesterov: bool,
    maximize: bool,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> Tensor | None:
    """Update a stacked parameter and its momentum buffer in place, and return the buffer.

    `param`, `grad` and `momentum_buffer` have shape (E, ...); `lr` and `weight_decay` are a number or a
    tensor of 1 or E elements. `momentum_buffer` is None on the first step, which makes the buffer; with
    `momentum` 0 it stays None. `grad_scale` (by which the gradient is divided) and `found_inf` (not 0: the
    gradient overflowed) have one element. If a first step with momentum has overflowed, the caller must find
    that out and not call this function: there is no buffer yet that could be left as it is.
    """
    written = [tensor for tensor in (param, momentum_buffer) if tensor is not None]
    before = [] if found_inf is None else [tensor.clone() for tensor in written]
    if grad_scale is not None:
        wide = torch.promote_types(grad.dtype, torch.float32)  # the usual scale of 2^16 overflows float16
        grad = (grad.to(wide) / grad_scale.to(grad.device, non_blocking=True)).to(grad.dtype)
    if maximize:
        grad = -grad
    if isinstance(weight_decay, Tensor) or weight_decay != 0:
        decay = _per_slice(weight_decay, param)
        # a gradient of the decay itself needs the parameter as it is now
        grad = grad.addcmul(param.clone() if decay.requires_grad else param, decay).to(grad.dtype)
    if momentum == 0:
        direction = grad
    else:
        if momentum_buffer is None:
            momentum_buffer = grad.detach().clone()
        else:
            momentum_buffer.mul_(momentum).add_(grad, alpha=1 - dampening)
        direction = grad.add(momentum_buffer, alpha=momentum) if nesterov else momentum_buffer
    # addcmul instead of a multiplication and a subtraction: where the machine can, it rounds once, as add(alpha=...)
    param.addcmul_(direction, _per_slice(-lr, param))
    if found_inf is not None:
        overflowed = found_inf.to(param.device, non_blocking=True) != 0
        for tensor, old in zip(written, before, strict=True):
            tensor.copy_(torch.where(overflowed, old, tensor))
    return momentum_buffer


def _per_slice(value: float | Tensor, param: Tensor) -> Tensor:
    """`value` as a tensor that broadcasts over the slices of `param`.

    It is float32 for half precision: a learning rate rounded to bfloat16 is off by up to 0.4 %.
    """
    dtype = torch.promote_types(param.dtype, torch.float32)
    if not isinstance(value, Tensor):
        return torch.full((1,) * param.ndim, value, dtype=dtype, device=param.device)
    return value.to(param.device, dtype, non_blocking=True).reshape((-1, *[1] * (param.ndim - 1))[: param.ndim])
