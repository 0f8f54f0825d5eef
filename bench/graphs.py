"""Providers of whole training steps in one CUDA graph: forward, backward, update and, or not, the rank of every matrix.

The graph takes Python's time out of both, so that what tracking costs the device is what is seen.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import models
import timing
import torch
from providers import Provider
from training import STEPS, TRAININGS, Call, Outcome, Run, Training
from workloads import TOLERANCE

import fastrank

WARM_UP = 3
TRAININGS_IN_GRAPHS = {
    t.name: t
    for t in (
        TRAININGS["resnet18-cifar-b128"],
        TRAININGS["mlp-bn-10-100-b128"],
        Training("mlp-bn-10-100-x64-b128", partial(models.StackedMLP, 64, 10, 100, 3072), (128, 3072)),
    )
}


def capture(run: Run, after: Callable[[], None] = lambda: None) -> Callable[[int], None]:
    """Warms up, and captures a step and what comes after it; the answer replays them with the batch of a number."""
    x, y = run.inputs[0].clone(), run.targets[0].clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            run.optimizer.zero_grad()
            run.step(x, y)
            after()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    run.optimizer.zero_grad()
    with timing.capture(graph):
        run.step(x, y)
        after()

    def replay(i: int) -> None:
        x.copy_(run.inputs[i])
        y.copy_(run.targets[i])
        graph.replay()

    return replay


def untracked(run: Run) -> Callable[[], None]:
    replay = capture(run)

    def call() -> None:
        for i in range(STEPS):
            replay(i)

    return call


def tracked(fused: bool, run: Run) -> Call:
    """Fused: the optimizer's pass over the weights makes the sketches; else they are a pass of their own."""
    stack = ["weights.*"] if isinstance(run.model, models.StackedMLP) else None
    optimizer = run.optimizer if fused else None
    fastrank.prepare(run.model, optimizer)
    tracker = fastrank.RankTracker(run.model, optimizer, tolerance=TOLERANCE, select="paper", include=stack)
    replay = capture(run) if fused else capture(run, tracker.step)

    def call() -> Outcome:
        for i in range(STEPS):
            replay(i)
            tracker.replayed()
        return Outcome(run, lambda: [row["rank_lower"] for row in tracker.latest().values()])

    return call


PROVIDERS = (
    Provider("fastrank.RankTracker", partial(tracked, True), ("triton",), ("cuda",), strict=True, kernels=TOLERANCE),
    Provider(
        "fastrank.RankTracker, sketches apart", partial(tracked, False), ("triton",), ("cuda",), strict=True,
        kernels=TOLERANCE,
    ),
)  # fmt: skip
