"""Limits of the kernels: which dtypes and numbers of columns they serve. Can be imported without Triton."""

from __future__ import annotations

import torch

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Dtypes of the matrices whose ranks `count` counts."""
NARROW = (torch.float16, torch.bfloat16, torch.float32)
"""Dtypes of the matrices that are sketched and of the parameters that are stepped: the product of two such numbers is
exact in FP64."""
KS = (16, 32, 64, 128)
"""Numbers of columns k that a basis may have; 16 is the least that an FP64 product of tiles takes."""
