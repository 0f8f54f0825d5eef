"""Detect the capture of a CUDA graph on a device, copy numbers between devices without making the host wait, and work
on small matrices on a CPU without waiting for its other threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

import torch
from torch import Tensor

UNPREPARED = "step: take one with the same parameters and options before capturing it in a CUDA graph"
"""Message of the `RuntimeError` raised where tables would have to be made during the capture of a CUDA graph, which is
not possible."""
ONE_THREAD_UP_TO = 256
"""Largest r = min(m, n) of matrices on a CPU that PyTorch solves in one thread while steps are tracked.

A solver of LAPACK makes its threads wait for each other hundreds of times in a matrix, and they wait by spinning. Where
another process has one of their cores, each time may take as long as that process may run: five matrices of 100 x 100
took 4 s in two threads beside two busy processes, and 20 ms in one.
"""
_number = RLock()
"""Of whoever changes how many threads PyTorch uses."""


def capturing(device: torch.device) -> bool:
    """Whether work launched on `device` now is captured in a CUDA graph instead of run."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def to_host(tensor: Tensor) -> Tensor:
    """Copy `tensor` to the host. From CUDA, the copy goes to pinned memory and may still be under way on return: it can
    be read when an event that `mark` records after this call has completed."""
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    return host.copy_(tensor, non_blocking=True)


def bring(tensor: Tensor, device: torch.device) -> Tensor:
    """The same numbers on `device`, for what is launched there from now on. The host waits only for those that come
    from another device to a CPU.

    PyTorch runs a copy between two CUDA devices on the current stream of the tensor's device, after what the current
    stream of `device` has to do so far; and the latter waits for the copy. A copy from a CPU goes by way of pinned
    memory, so that the tensor may be written to at once.
    """
    if tensor.device == device:
        return tensor
    if device.type != "cuda":
        return tensor.to(device)
    return (tensor.pin_memory() if tensor.device.type == "cpu" else tensor).to(device, non_blocking=True)


def mark(device: torch.device) -> torch.cuda.Event | None:
    """Record an event that completes when all work launched on `device` so far is done; None on a CPU."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event


@contextmanager
def one_thread(r: int) -> Iterator[None]:
    """PyTorch's calls on a CPU use one thread meanwhile, if the matrices are small: `r` <= ONE_THREAD_UP_TO.

    The number is one for the whole process, so that one thread of the user's waits here for another.
    """
    threads = 1
    if r <= ONE_THREAD_UP_TO:
        with _number:  # a thread that asks for the first time is given what the others have now, for good
            threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    with _number:
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
