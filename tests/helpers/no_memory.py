"""Memory that runs out: the n-th allocation fails, as PyTorch, NumPy, pyarrow and CUDA say it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

HOST = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"
ERRORS: list[Callable[[], Exception]] = [
    MemoryError,
    lambda: RuntimeError(f"{HOST} 32 bytes. Error code 12 (Cannot allocate memory)"),
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
]
ELSEWHERE = [(np, name) for name in ("empty", "zeros", "full", "tile", "repeat", "stack", "concatenate")]
ELSEWHERE += [(pa, name) for name in ("array", "concat_tables")]


class NoMemory(TorchDispatchMode):
    """In its `with` block, the allocation with the number `at`, from 0, fails: by an operation of PyTorch that makes a
    tensor, or by a function that makes an array. `failed` says whether it has come to that."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self._left, self._at, self.failed, self._patch = at, at, False, pytest.MonkeyPatch()

    def __enter__(self) -> NoMemory:
        for module, name in ELSEWHERE:
            self._patch.setattr(module, name, self._counted(getattr(module, name)))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patch.undo()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view and not func._schema.is_mutable:
            self._allocate(ERRORS[self._at % 3])
        return func(*args, **(kwargs or {}))

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            self._allocate(MemoryError)
            return call(*args, **options)

        return counted

    def _allocate(self, error: Callable[[], Exception]) -> None:
        self._left -= 1
        if self._left == -1:
            self.failed = True
            raise error()


def is_of_memory(error: BaseException) -> bool:
    """Whether an error, or what it was raised from, says that there is no memory."""
    said = isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate" in str(error)
    return said or (error.__cause__ is not None and is_of_memory(error.__cause__))


def at_every_allocation(run: Callable[[], Any], check: Callable[[Any], None], least: int, step: int = 1) -> None:
    """Have each allocation of `run` fail in its turn, until none is left. `check` is told what `run` has returned, or
    None where the error of the allocation has come out of it.

    Args:
        least: how many allocations there are, at the least.
        step: 1 for each of them; 3 for every third.
    """
    at = 0
    while True:
        result = said = None
        with NoMemory(at) as memory:
            try:
                result = run()
            except Exception as error:
                said = error
        if said is not None and not (memory.failed and is_of_memory(said)):
            raise said
        assert torch.is_grad_enabled()
        assert not torch.is_autocast_enabled("cpu")
        check(result)
        if not memory.failed:
            break
        at += step
    assert at >= least, f"only {at} allocations"
