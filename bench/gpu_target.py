"""What memory checkers look at: one tracked step of a perceptron, or one count of a 700 x 700 matrix.

    python bench/gpu_target.py step | count [--device cuda]

Small enough for tools that make a kernel a hundred times slower; exits with 1 where what came out is wrong as well.
"""

from __future__ import annotations

import argparse
import os
import sys

os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"  # or an access beyond a tensor is one within PyTorch's own pool

import models
import torch

import fastrank
from fastrank import testing


def step(device: torch.device) -> bool:
    """Two steps: the first makes tables and bases, the second goes on from them.

    Gradients are noise: a backward pass would spend most of the time in cuBLAS, which is not what is looked at.
    """
    torch.manual_seed(0)
    model = models.mlp_bn(3, 100, 64).to(device)
    optimizer = fastrank.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-3)
    fastrank.prepare(model, optimizer)
    tracker = fastrank.RankTracker(model, optimizer)
    for _ in range(2):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    rows = tracker.latest()
    weights = dict(model.named_parameters())
    right = []
    for name, row in rows.items():
        truth = testing.true_rank(weights[name].detach().cpu(), fastrank.Tolerance())
        right.append(row["rank_lower"] <= truth.upper and truth.lower <= row["rank_upper"])
    print(f"{len(rows)} matrices, {sum(right)} with true bounds")
    return all(right) and len(rows) == 4


def count(device: torch.device) -> bool:
    """By many programs: 700 is more than one program factors."""
    case = testing.make("geometric", 700, 700, seed=0)
    bounds = fastrank.linalg.rank_bounds([case.matrix.to(device)], case.tolerance, resolve=False)
    lower, upper = int(bounds.lower), int(bounds.upper)
    truth = testing.true_rank(case.matrix, case.tolerance)
    print(f"rank {lower} to {upper}; the truth: {int(truth.lower)} to {int(truth.upper)}")
    return lower <= truth.upper and truth.lower <= upper


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=("step", "count"))
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    options = parser.parse_args()
    return not {"step": step, "count": count}[options.target](options.device)


if __name__ == "__main__":
    sys.exit(main())
