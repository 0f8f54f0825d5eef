"""What the kernels can take, for those who choose what to give them. Without Triton."""

from __future__ import annotations

import torch

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Of the matrices whose ranks are counted."""
NARROW = (torch.float16, torch.bfloat16, torch.float32)
"""Of matrices that are sketched and parameters that are stepped: products of two such numbers are exact in FP64."""
KS = (16, 32, 64, 128)
"""Numbers of columns of a basis; 16 is the least that an FP64 product of tiles takes."""
