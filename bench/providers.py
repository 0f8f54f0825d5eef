"""What a provider is: one way of doing an operation, ours or a rival's."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any

import timing
import torch
from torch import Tensor

from fastrank import Tolerance, backend


@dataclass(frozen=True)
class Provider:
    """One way of doing an operation.

    Args:
        name: as in the results.
        prepare: takes inputs of its own and returns the call to be timed, which returns the answer.
        needs: packages it imports.
        devices: kinds of device it runs on.
        strict: whether it promises a right answer: then a wrong one is a failure of the suite, not a finding.
        graph: whether its call can be captured in a CUDA graph.
        buffers: most buffers to rotate over. 1: preparing one is so expensive that it is visited once, too.
        products: arithmetic of the matrix products that this kind of answer cannot do without, as a proof cannot do
            without FP64 ones: the operation's flops then count in the floor of its time. None: only its bytes do.
        compiled: whether its first calls compile for long: it is measured after the others that are as telling.
        telling: whether it is among the rivals that a user would pick first: they are measured before the others.
        kernels: in which arithmetic our kernels make its Grams and sketches on CUDA: "fp64", "integers", or what
            `backend.integer_products` chooses for a tolerance. None: it has no Grams or sketches of theirs.
    """

    name: str
    prepare: Callable[[Any], Callable[[], Any]]
    needs: tuple[str, ...] = ()
    devices: tuple[str, ...] = ("cpu", "cuda")
    strict: bool = False
    graph: bool = False
    buffers: int = timing.MOST_BUFFERS
    products: torch.dtype | None = None
    telling: bool = False
    compiled: bool = False
    kernels: str | Tolerance | None = None

    @property
    def ours(self) -> bool:
        return self.name.startswith("fastrank")

    def unavailable(self, device: torch.device) -> str | None:
        """Why it cannot run here, or None."""
        if device.type not in self.devices:
            return f"not for {device.type}"
        missing = [name for name in self.needs if importlib.util.find_spec(name) is None]
        return f"{', '.join(missing)} not installed" if missing else None

    def path(self, device: torch.device, dtype: torch.dtype) -> str:
        """What a row says of products on a device: "fp64" or "integers"; empty where no kernel of ours makes any."""
        if self.kernels is None or not backend.kernels_serve(device):
            return ""
        if isinstance(self.kernels, str):
            return self.kernels
        return "integers" if dtype != torch.float64 and backend.integer_products(device, [self.kernels]) else "fp64"

    def needs_products(self, device: torch.device, dtype: torch.dtype) -> torch.dtype | None:
        """`products`, or None where Grams are made from INT8 slices: the rate of FP64 products is then no floor."""
        return None if self.path(device, dtype) == "integers" else self.products


def of(run: Callable[[list[Tensor]], Any]) -> Callable[[list[Tensor]], Callable[[], Any]]:
    """`prepare` of a provider that needs no preparation."""
    return lambda matrices: partial(run, matrices)


def by_shape(matrices: list[Tensor], run: Callable[[Tensor], Any]) -> list[Any]:
    """`run` on stacks `(b, r, n)`, r <= n, of matrices of one shape; its answers one a matrix, in their order.

    What a user with many layers would write around a batched function; the stacking is part of the time.
    """
    return stacked([wide(matrix) for matrix in matrices], run, key=lambda m: m.shape)


def wide(matrix: Tensor) -> Tensor:
    """The matrix or its transpose, whichever has no more rows than columns."""
    return matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix


def stacked(tensors: list[Tensor], run: Callable[[Tensor], Any], key: Callable[[Tensor], Hashable]) -> list[Any]:
    """`run` on stacks of tensors of one key; its answers one a tensor, in their order."""
    places: dict[Hashable, list[int]] = {}
    for i, tensor in enumerate(tensors):
        places.setdefault(key(tensor), []).append(i)
    answers: list[Any] = [None] * len(tensors)
    for indices in places.values():
        for i, answer in zip(indices, run(torch.stack([tensors[i] for i in indices])), strict=True):
            answers[i] = answer
    return answers
