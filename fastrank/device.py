"""Detect the capture of a CUDA graph on a device, and copy numbers from a device without making the host wait."""

from __future__ import annotations

import torch
from torch import Tensor

UNPREPARED = "step: take one with the same parameters and options before capturing it in a CUDA graph"
"""Message of the `RuntimeError` raised where tables would have to be made during the capture of a CUDA graph, which is
not possible."""


def capturing(device: torch.device) -> bool:
    """Whether work launched on `device` now is captured in a CUDA graph instead of run."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def to_host(tensor: Tensor) -> Tensor:
    """Copy `tensor` to the host. From CUDA, the copy goes to pinned memory and may still be under way on return: it can
    be read when an event that `mark` records after this call has completed."""
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    return host.copy_(tensor, non_blocking=True)


def mark(device: torch.device) -> torch.cuda.Event | None:
    """Record an event that completes when all work launched on `device` so far is done; None on a CPU."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event
