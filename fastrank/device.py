"""What several rooms ask of a device: whether it is capturing a CUDA graph, and how numbers leave it without a wait."""

from __future__ import annotations

import torch
from torch import Tensor

UNPREPARED = "step: take one with the same parameters and options before capturing it in a CUDA graph"
"""Message of the `RuntimeError` where a capture would have to make tables, which a graph cannot."""


def capturing(device: torch.device) -> bool:
    """Whether what is launched on `device` now is captured in a CUDA graph instead of run."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def to_host(tensor: Tensor) -> Tensor:
    """A copy on the host; on CUDA it is under way, into pinned memory, until what `mark` returns after it has come."""
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    return host.copy_(tensor, non_blocking=True)


def mark(device: torch.device) -> torch.cuda.Event | None:
    """When everything that has been launched is done; None where it is."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event
