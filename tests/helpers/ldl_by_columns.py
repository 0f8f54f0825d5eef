"""The LDL^T that all others are compared with."""

from __future__ import annotations

import torch


def ldl_by_columns(a):
    """L and d of an LDL^T of `a` (r, r) without pivoting, one column at a time."""
    a, r = a.clone(), len(a)
    lower, d = torch.eye(r, dtype=torch.float64), torch.empty(r, dtype=torch.float64)
    for j in range(r):
        d[j] = a[j, j]
        lower[j + 1 :, j] = a[j + 1 :, j] / d[j]
        a[j + 1 :, j + 1 :] -= torch.outer(lower[j + 1 :, j], a[j + 1 :, j])
    return lower, d
