"""What tracking costs where the weights are sharded, beside the same training in one process.

    python bench/sharded_training.py [--processes 2] [--rounds 5] [--steps 10] [--width 256]

A small Llama is trained in one process, and by FSDP2 in several, each with one thread, on gloo. In a round steps are
timed without a tracker, with one, and without once more, each training for itself. The last says how far the others can
be believed. A figure is the median of all steps of the first process. What is measured is this machine's CPU: processes
share its cores, and the memory of one machine is the network.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import distributed, multiprocessing, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import fastrank

SKIPPED = 3
"""Steps at the begin of a training that are not timed."""


class Block(nn.Module):
    """The matrices of a Llama's layer; attention itself is left out, which has none."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = width * 43 // 16
        self.norm = nn.RMSNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gate, self.up = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        x = x + self.o(self.q(y) + self.k(y) * self.v(y).sigmoid())
        y = self.norm(x)
        return x + self.down(nn.functional.silu(self.gate(y)) * self.up(y))


def llama(width: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, width), *(Block(width) for _ in range(4)), nn.Linear(width, 1024, bias=False))


def seconds(model: nn.Module, tracked: bool, steps: int) -> list[float]:
    """The times of a training's steps."""
    optimizer = fastrank.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    data = torch.randn(64, 64)
    found = []
    with fastrank.RankTracker(model, optimizer) if tracked else nullcontext():
        for _ in range(SKIPPED + steps):
            if distributed.is_initialized():
                distributed.barrier()
            start = time.perf_counter()
            model(data).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            found.append(time.perf_counter() - start)
    return found[SKIPPED:]


def rounds(make: Callable[[], nn.Module], options: argparse.Namespace) -> dict[str, float]:
    """Medians in ms of the steps of each kind of training."""
    times: dict[str, list[float]] = {"untracked": [], "tracked": [], "untracked again": []}
    for _ in range(options.rounds):
        for kind, own in times.items():
            own += seconds(make(), kind == "tracked", options.steps)
    return {kind: 1000 * statistics.median(own) for kind, own in times.items()}


def in_several(rank: int, store: str, options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=options.processes)
    mesh = init_device_mesh("cpu", (options.processes,))

    def make() -> nn.Module:
        model = llama(options.width)
        for layer in model:
            fully_shard(layer, mesh=mesh)
        return fully_shard(model, mesh=mesh)

    found = rounds(make, options)
    if rank == 0:
        show(f"FSDP2, {options.processes} processes of 1 thread", found)
    distributed.destroy_process_group()


def show(name: str, found: dict[str, float]) -> None:
    untracked, tracked, again = found.values()
    print(
        f"{name}: {untracked:.1f} ms a step, tracked {tracked:.1f} ms, which is {tracked - untracked:.1f} ms more and "
        f"{tracked / untracked:.2f} times as long; untracked once more {again / untracked:.2f} times",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("processes", 2), ("rounds", 5), ("steps", 10), ("width", 256)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for threads in (1, options.processes):
        torch.set_num_threads(threads)
        show(f"unsharded, 1 process of {threads} threads", rounds(lambda: llama(options.width), options))
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(in_several, (f"{folder}/store", options), nprocs=options.processes)


if __name__ == "__main__":
    main()
