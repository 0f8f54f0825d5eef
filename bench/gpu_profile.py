"""Where a tracked step's time goes on the device: a row for each kernel of a ResNet-18 step in a CUDA graph.

    python bench/gpu_profile.py [--device cuda] [--results FILE.csv] [--replays 20] [--cases decided ...]

    decided    every matrix has rank 8: the sketches prove it, and the counting kernels return at once
    counted    Gaussian matrices: the sketches leave every rank open, and all matrices are counted
    untracked  the optimizer's step alone
    training   forward, backward and the step, counted: what share of a whole training step tracking has

Times are those of the profiler (CUPTI), in microseconds a step; on a CPU, where it shows that this runs, those of
PyTorch's operations.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import models
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import fastrank

COLUMNS = ("case", "kernel", "calls", "us", "share")
SHOWN = 14
"""Kernels of a case that are printed; all are in the file."""
WARM_UP = 12
CASES = ("decided", "counted", "untracked", "training")


def prepared(case: str, device: torch.device) -> Callable[[], None]:
    """A step of that case; its gradients are small, so that ranks stay what they are."""
    torch.manual_seed(0)
    model = models.resnet18().to(device)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
        if case == "decided" and parameter.ndim > 1:
            rows, columns = parameter.shape[0], parameter[0].numel()
            product = torch.randn(rows, 8, device=device) @ torch.randn(8, columns, device=device)
            parameter.data.copy_(product.view(parameter.shape) / columns**0.5)
    optimizer = fastrank.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4)
    if case != "untracked":
        fastrank.prepare(model, optimizer)
        fastrank.RankTracker(model, optimizer, select="paper")  # the optimizer's hooks hold it
    x = torch.randn(128 if device.type == "cuda" else 2, 3, 32, 32, device=device)
    y = torch.arange(len(x), device=device) % 10

    def step() -> None:
        if case == "training":
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def repeated(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """The step as a CUDA graph's replay, once it is warm; as it is on a CPU. Rows that nobody reads are overwritten."""
    if device.type != "cuda":
        step()
        return step
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    graph.replay()
    torch.cuda.synchronize()
    return graph.replay


def events(call: Callable[[], None], replays: int, device: torch.device) -> Iterator[tuple[str, float]]:
    """Name and microseconds of everything that ran on the device, from the profiler's trace."""
    cuda = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as profiler:
        for _ in range(replays):
            call()
        if cuda:
            torch.cuda.synchronize()
    kinds = {"kernel", "gpu_memcpy", "gpu_memset"} if cuda else {"cpu_op"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        traced = json.loads(path.read_text())["traceEvents"]
    yield from ((event["name"], float(event["dur"])) for event in traced if event.get("cat") in kinds)


def table(case: str, replays: int, found: Iterator[tuple[str, float]]) -> list[dict[str, object]]:
    """A row a kernel, the costliest first; calls and microseconds are those of one step."""
    times: dict[str, list[float]] = defaultdict(list)
    for name, microseconds in found:
        times[name].append(microseconds)
    total = sum(map(sum, times.values())) or 1.0
    ordered = sorted(times.items(), key=lambda item: -sum(item[1]))
    return [
        {
            "case": case,
            "kernel": name[:100],
            "calls": round(len(each) / replays, 2),
            "us": round(sum(each) / replays, 2),
            "share": round(sum(each) / total, 4),
        }
        for name, each in ordered
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--results", type=Path, help="where all rows go, case after case")
    parser.add_argument("--replays", type=int, default=20)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES, help="default: all")
    options = parser.parse_args()
    replays = options.replays if options.device.type == "cuda" else 1
    rows: list[dict[str, object]] = []
    totals = []
    for case in options.cases:
        call = repeated(prepared(case, options.device), options.device)
        own = table(case, replays, events(call, replays, options.device))
        totals.append(f"{case} {sum(float(str(row['us'])) for row in own):.0f}")
        print(f"{case:38}{'calls':>8}{'us':>10}{'share':>8}")
        for row in own[:SHOWN]:
            print(f"  {str(row['kernel'])[:36]:36}{row['calls']:8}{row['us']:10}{row['share']:8.1%}", flush=True)
        rows += own
        if options.results:
            options.results.parent.mkdir(parents=True, exist_ok=True)
            with options.results.open("w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
    print(f"us a step: {', '.join(totals)}")


if __name__ == "__main__":
    main()
