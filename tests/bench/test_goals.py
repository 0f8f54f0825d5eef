"""What the drill says of the goals: ours against the fastest right rival of each kind."""

from __future__ import annotations

import goals
import torch
from workloads import SPECTRA, TOLERANCE


def row(provider, time, workload="batch-640x512", status="ok"):
    return {"operation": "rank", "workload": workload, "provider": provider, "status": status, "wall_ms": str(time)}


def test_ours_is_compared_with_the_fastest_right_rival_of_each_kind():
    rows = [
        *(row("fastrank.rank_bounds", 9), row("fastrank.rank_bounds unresolved", 4), row("fastrank.matrix_rank", 1)),
        *(row("torch.linalg.svdvals", 900), row("torch.linalg.svdvals gesvda", 480)),
        *(row("gram LU signs", 30), row("cupy gesvda", 2, status="wrong"), row("gram eigvalsh batched", 28)),
        *(row("gram LU signs", 1, workload="square-512"), row("torch.matmul", 1) | {"operation": "gram"}),
    ]
    _, line = goals.lines(rows)
    assert line.split() == [
        *("batch-640x512", "4", "(5);", "torch.linalg.svdvals", "gesvda", "120x,", "gram", "eigvalsh", "batched", "7x")
    ]


def test_without_rows_of_ours_nothing_is_said():
    assert list(goals.lines([row("gram LU signs", 3)])) == []
    _, line = goals.lines([row("fastrank.rank_bounds", 3, workload="vit-b16")])
    assert line.endswith("(no goal); none measured, none measured")


def test_one_workload_takes_two_counts_and_one_does_not():
    """A lower count that is full proves the rank: no count above tau is needed."""
    ranks = {}
    for name in ("trained", "flat"):
        sigma = SPECTRA[name](512, torch.Generator().manual_seed(0))
        ranks[name] = int((sigma > TOLERANCE.value * torch.linalg.vector_norm(sigma)).sum())
        assert sigma.diff().max() <= 0
    assert ranks == {"trained": 308, "flat": 512}
