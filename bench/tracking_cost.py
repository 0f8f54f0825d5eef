"""What tracking costs: whole training steps with and without a tracker, on this machine's CPU.

    python bench/tracking_cost.py [--steps 400] [--rounds 7]

The digits network (MLP with batch-norm, 64-100-100-100-100-100-10), plain SGD with weight decay, one thread. Each
round trains the same steps untracked, tracked, and with `torch.linalg.svdvals` of the same matrices (FP32, looped, what
a user would write; no rank, no proof, nothing recorded) in turn; ratios are taken within a round, where the machine is
the same, and the median over rounds is reported with the 20th and 80th percentile. The table goes to
`bench/results/tracking_cost.csv`, one row a configuration.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import fastrank

ROOT = Path(__file__).parents[1]
CONFIGURATIONS = [(batch_size, every) for batch_size in (8, 64) for every in (1, 10)]


def network() -> nn.Module:
    torch.manual_seed(0)
    widths = [64, 100, 100, 100, 100, 100]
    hidden = [
        layer
        for c_in, c_out in itertools.pairwise(widths)
        for layer in (nn.Linear(c_in, c_out), nn.BatchNorm1d(c_out), nn.ReLU())
    ]
    return nn.Sequential(*hidden, nn.Linear(100, 10))


def training(batch_size: int, every: int | None, svdvals: bool = False) -> Callable[[int], float]:
    """A run that trains so many steps when called; returns milliseconds a step.

    It is tracked at each `every`-th step; or bare; or followed by `torch.linalg.svdvals` at each `every`-th step.
    """
    model = network()
    optimizer = fastrank.SGD(model.parameters(), lr=0.1, weight_decay=5e-3)
    if every is not None and svdvals:
        hidden = [module.weight for module in model if isinstance(module, nn.Linear)][:-1]
        calls = itertools.count(1)

        def look(*_: object) -> None:
            if next(calls) % every == 0:
                for weight in hidden:
                    torch.linalg.svdvals(weight.detach())

        optimizer.register_step_post_hook(look)
    elif every is not None:
        fastrank.RankTracker(model, optimizer, select="paper", every=every)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(1024, 64, generator=generator)
    targets = torch.randint(10, (1024,), generator=generator)

    def run(steps: int) -> float:
        start = time.perf_counter()
        for i in range(steps):
            rows = slice(i * batch_size % 960, i * batch_size % 960 + batch_size)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[rows]), targets[rows]).backward()
            optimizer.step()
        return (time.perf_counter() - start) / steps * 1e3

    return run


def measure(batch_size: int, every: int, steps: int, rounds: int) -> dict[str, object]:
    runs = [training(batch_size, None), training(batch_size, every), training(batch_size, every, svdvals=True)]
    for run in runs:
        run(20)
    times = [[run(steps) for run in runs] for _ in range(rounds)]
    untracked, tracked, svdvals = zip(*times, strict=True)
    ratios = [t / u for u, t in zip(untracked, tracked, strict=True)]
    deciles = statistics.quantiles(ratios, n=10)
    return {
        "batch_size": batch_size,
        "every": every,
        "untracked_ms": round(statistics.median(untracked), 3),
        "tracked_ms": round(statistics.median(tracked), 3),
        "ratio": round(statistics.median(ratios), 2),
        "ratio_p20": round(deciles[1], 2),
        "ratio_p80": round(deciles[7], 2),
        "svdvals_ratio": round(statistics.median(s / u for u, s in zip(untracked, svdvals, strict=True)), 2),
    }


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    dirty = git("status", "--porcelain", "--", "fastrank", "bench/tracking_cost.py")
    return git("rev-parse", "--short=12", "HEAD") + ("+dirty" if dirty else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    where = {"device": cpu_name(), "threads": 1, "torch": torch.__version__, "commit": commit()}
    rows = [measure(*c, arguments.steps, arguments.rounds) | where for c in CONFIGURATIONS]
    out = ROOT / "bench" / "results" / "tracking_cost.csv"
    out.parent.mkdir(exist_ok=True)
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print("  ".join(f"{key}={value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
