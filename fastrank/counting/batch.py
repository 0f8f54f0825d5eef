"""Handle matrices of different shapes, dtypes and devices as a few stacks of matrices that agree in all three."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

WORKSPACE = 256 * 2**20
"""Bytes that the Gram matrices of one stack may take; a larger stack is worked through in pieces."""
CACHE = 4 * 2**20
"""The same on a CPU, small enough to stay in its caches. Tracking 320 matrices of 100 x 100 on one core takes 415 us a
matrix with all Gram matrices at once, and 289 to 302 us with 1 to 16 MiB of them at a time. What is saved is half of
the products' time, and allocations that the system has to fill with zeros each time."""


@dataclass(frozen=True)
class Group:
    """Matrices that fit into one stack: same smaller and larger side, dtype and device."""

    indices: tuple[int, ...]
    """Positions in the list of matrices."""
    rows: int
    columns: int
    """rows <= columns: a tall matrix enters transposed, which changes no singular value."""

    def stack(self, matrices: Sequence[Tensor]) -> Tensor:
        """Stack this group's matrices as `(b, rows, columns)`; `matrices` is the whole list that `group` was given."""
        chosen = (matrices[i] for i in self.indices)
        return torch.stack([m.mT if m.shape[0] > m.shape[1] else m for m in chosen])


def group(matrices: Sequence[Tensor], budget: int | None = None) -> list[Group]:
    """Sort 2-D `matrices` into groups, in order of first appearance.

    budget: bytes that the Gram matrices of one group may take; a larger group is split. Default `WORKSPACE`; on a CPU,
        `CACHE`.
    """
    members: dict[tuple[int, int, torch.dtype, torch.device], list[int]] = {}
    for i, matrix in enumerate(matrices):
        rows, columns = sorted(matrix.shape)
        members.setdefault((rows, columns, matrix.dtype, matrix.device), []).append(i)
    groups = []
    for (rows, columns, _, device), indices in members.items():
        size = chunk_size(rows, device, budget)
        groups += [Group(tuple(indices[i : i + size]), rows, columns) for i in range(0, len(indices), size)]
    return groups


def chunk_size(r: int, device: torch.device, budget: int | None = None) -> int:
    """How many matrices of smaller side `r` have Gram matrices of at most `budget` bytes together (default: that of
    `group` for the `device`); at least 1."""
    if budget is None:
        budget = CACHE if device.type == "cpu" else WORKSPACE
    return max(1, budget // max(1, 8 * r * r))


def over_matrices(
    matrices: Tensor | Sequence[Tensor], measure: Callable[..., Sequence[Tensor]], *arguments: Tensor
) -> list[Tensor]:
    """Apply `measure` to stacks and put its answers back in the order of the matrices.

    Args:
        matrices: `(b, m, n)`, or 2-D tensors of any shapes.
        measure: takes a stack `(b', r, n)`, r <= n, and the stack's share of each argument; returns tensors `(b',)`.
        arguments: tensors `(b,)`, one value per matrix.

    Returns:
        As many tensors as `measure` returns, `(b,)` each, on the first matrix's device.
    """
    if isinstance(matrices, Tensor):
        wide = matrices.mT if matrices.shape[-2] > matrices.shape[-1] else matrices
        size = chunk_size(wide.shape[-2], wide.device)
        parts = [measure(*pieces) for pieces in zip(*(torch.split(t, size) for t in (wide, *arguments)), strict=True)]
        return [torch.cat(columns) for columns in zip(*parts, strict=True)]
    groups = group(matrices)
    if not groups:
        return list(measure(torch.empty(0, 0, 0), *arguments))
    device = matrices[0].device
    order = torch.tensor([i for g in groups for i in g.indices], device=device).argsort()
    parts = [measure(g.stack(matrices), *(a[list(g.indices)] for a in arguments)) for g in groups]
    return [torch.cat([c.to(device) for c in columns])[order] for columns in zip(*parts, strict=True)]
