"""Parameters that the kernels of SGD step, with gradients that depend on the step's number only."""

from __future__ import annotations

import torch
from torch.nn import Parameter

SHAPES = [(7,), (5, 3), (), (2, 3, 3, 3)]
MOMENTUM = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}


def parameters(device, shapes=SHAPES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [Parameter(torch.randn(shape, generator=generator).to(device)) for shape in shapes]


def step(optimizer, params, number, missing=()):
    fresh = parameters(params[0].device, [p.shape for p in params], seed=1 + number)
    for i, (param, grad) in enumerate(zip(params, fresh, strict=True)):
        param.grad = None if i in missing else grad.detach()
    optimizer.step()
