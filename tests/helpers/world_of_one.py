"""A job of one process, this one: DTensors without other processes."""

from __future__ import annotations

from contextlib import contextmanager

import torch.distributed as dist


@contextmanager
def world_of_one(device):
    """`with world_of_one("cpu") as mesh:` `torch.distributed` is initialised; `mesh` has the one device."""
    from torch.distributed.tensor import init_device_mesh

    device = str(device).partition(":")[0]
    dist.init_process_group("nccl" if device == "cuda" else "gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield init_device_mesh(device, (1,))
    finally:
        dist.destroy_process_group()
