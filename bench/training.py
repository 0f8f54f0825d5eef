"""Providers of whole training steps in which the rank of every matrix is measured, and the same without.

A call trains a few steps. The bare network is the baseline of every provider: it is timed in turn with each, where the
machine is in the same state, and the overhead is the median of the ratios.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import baselines
import models
import torch
from providers import Provider
from torch import Tensor, nn
from workloads import TOLERANCE

import fastrank

STEPS = 20
"""Steps a call, a multiple of 10: measuring at every 10th step, the last one is measured too."""


class Outcome(NamedTuple):
    run: Run
    ranks: Callable[[], list[int]]
    """Reads the ranks of the last step: not part of the time, for a user reads them once in a while."""


Call = Callable[[], Outcome]


@dataclass(frozen=True)
class Training:
    """A network, and the shape of a batch of its inputs: pixels of images with a class each, or tokens.

    tokens: size of the vocabulary, if a batch is of tokens, each of which has another one as its target.
    steps: of a call.
    """

    name: str
    make: Callable[[], nn.Module]
    batch: tuple[int, ...]
    tokens: int = 0
    steps: int = STEPS

    @property
    def select(self) -> Literal["all", "paper"]:
        """Which matrices are tracked: all of a language model."""
        return "all" if self.tokens else "paper"

    @property
    def parameters(self) -> int:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in self.make().parameters())


TRAININGS = {
    t.name: t
    for t in (
        Training("digits-mlp-b8", partial(models.mlp_bn, 5, 100, 64), (8, 64)),
        Training("digits-mlp-b64", partial(models.mlp_bn, 5, 100, 64), (64, 64)),
        Training("transformer-256-2", partial(models.transformer, 2, 256, 256), (16, 64), tokens=256, steps=10),
        Training("resnet18-cifar-b128", models.resnet18, (128, 3, 32, 32)),
        Training("mlp-bn-10-100-b128", partial(models.mlp_bn, 10, 100, 3072), (128, 3072)),
    )
}


class Run:
    """A network in training on random data, the same in every process."""

    def __init__(self, training: Training, device: torch.device) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model = training.make().to(device)
            if training.tokens:
                self.inputs, self.targets = torch.randint(training.tokens, (2, training.steps, *training.batch)).to(
                    device
                )
            else:
                self.inputs = torch.randn(training.steps, *training.batch).to(device)
                self.targets = torch.randint(10, (training.steps, training.batch[0])).to(device)
        self.select = training.select
        self.optimizer = fastrank.SGD(self.model.parameters(), lr=0.1, weight_decay=5e-3)

    @property
    def matrices(self) -> list[Tensor]:
        """As the paper selects them: without the classifier head and the 1 x 1 shortcuts. Of a stack, all; of a
        language model, too."""
        if isinstance(self.model, models.StackedMLP):
            return [matrix for weight in self.model.weights for matrix in weight.detach()]
        layers = [m for m in self.model.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.Embedding)]
        weights = [m.weight.detach() for m in layers]
        if self.select == "all":
            return weights
        return [w.flatten(1) for w in weights[:-1] if w.shape[2:] != (1, 1)]

    def train(self) -> None:
        for x, y in zip(self.inputs, self.targets, strict=True):
            self.optimizer.zero_grad()
            self.step(x, y)

    def step(self, x: Tensor, y: Tensor) -> None:
        """One step; the models of a stack have a loss each."""
        logits, y = self.model(x).flatten(0, -2), y.flatten()
        models_ = len(logits) // len(y)
        (models_ * nn.functional.cross_entropy(logits, y.repeat(models_))).backward()
        self.optimizer.step()


def triangle(matrix: Tensor) -> Tensor:
    """FP64 matrix `(r, r)` with the singular values of the matrix, whose SVD costs a fraction where it is wide."""
    doubled = matrix.double()
    return torch.linalg.qr(doubled.mT if doubled.shape[0] < doubled.shape[1] else doubled, mode="r").R


def untracked(run: Run) -> Callable[[], None]:
    return run.train


def tracked(every: int, run: Run) -> Call:
    fastrank.prepare(run.model, run.optimizer)
    tracker = fastrank.RankTracker(run.model, run.optimizer, tolerance=TOLERANCE, select=run.select, every=every)

    def call() -> Outcome:
        run.train()
        return Outcome(run, lambda: [row["rank_lower"] for row in tracker.latest().values()])

    return call


def hooked(spectrum: baselines.Spectrum, every: int, run: Run) -> Call:
    """What a user would write: singular values in a hook, counted; nothing certified, nothing recorded."""
    ranks: list[Tensor] = []
    calls = itertools.count(1)

    def look(*_: object) -> None:
        if next(calls) % every == 0:
            ranks[:] = baselines.count(spectrum, run.matrices)

    run.optimizer.register_step_post_hook(look)

    def call() -> Outcome:
        run.train()
        return Outcome(run, lambda: [int(rank) for rank in ranks])

    return call


PROVIDERS = (
    Provider("fastrank.RankTracker", partial(tracked, 1), strict=True, kernels=TOLERANCE),
    Provider("torch.linalg.svdvals hook", partial(hooked, baselines.svdvals, 1)),
    Provider("gram eigvalsh hook", partial(hooked, baselines.gram_eigvalsh_batched, 1)),
    Provider("fastrank.RankTracker every 10", partial(tracked, 10), strict=True, kernels=TOLERANCE),
    Provider("torch.linalg.svdvals hook every 10", partial(hooked, baselines.svdvals, 10)),
)
