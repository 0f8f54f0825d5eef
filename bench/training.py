"""Providers of whole training steps in which the rank of every matrix is measured, and the same without.

A call trains STEPS steps. The bare network is the baseline of every provider: it is timed in turn with each, where the
machine is in the same state, and the overhead is the median of the ratios.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import baselines
import torch
from networks import Network, mlp_bn
from providers import Provider
from torch import Tensor, nn
from workloads import TOLERANCE

import fastrank

STEPS = 20
"""Steps a call; measuring at every 10th step, the last one is measured too."""


class Outcome(NamedTuple):
    run: Run
    ranks: Callable[[], list[int]]
    """Reads the ranks of the last step: not part of the time, for a user reads them once in a while."""


Call = Callable[[], Outcome]


@dataclass(frozen=True)
class Training:
    """A network (MLP with batch-norm), and the size of its batches."""

    name: str
    depth: int
    width: int
    features: int
    batch_size: int

    @property
    def network(self) -> Network:
        return mlp_bn(self.depth, self.width, self.features, classes=10)


TRAININGS = {
    t.name: t
    for t in (
        Training("digits-mlp-b8", depth=5, width=100, features=64, batch_size=8),
        Training("digits-mlp-b64", depth=5, width=100, features=64, batch_size=64),
        Training("mlp-bn-10-100-b128", depth=10, width=100, features=3072, batch_size=128),
    )
}


class Run:
    """A network in training on random data, the same in every process."""

    def __init__(self, training: Training, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)
        self.model = _model(training, generator).to(device)
        self.optimizer = fastrank.SGD(self.model.parameters(), lr=0.1, weight_decay=5e-3)
        self.inputs = torch.randn(STEPS, training.batch_size, training.features, generator=generator).to(device)
        self.targets = torch.randint(10, (STEPS, training.batch_size), generator=generator).to(device)

    @property
    def matrices(self) -> list[Tensor]:
        """The hidden matrices, as the paper selects them: without the classifier head."""
        return [layer.weight.detach() for layer in self.model if isinstance(layer, nn.Linear)][:-1]

    def train(self) -> None:
        for x, y in zip(self.inputs, self.targets, strict=True):
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(x), y).backward()
            self.optimizer.step()


def _model(training: Training, generator: torch.Generator) -> nn.Sequential:
    sides = [training.features, *[training.width] * training.depth]
    hidden = [
        layer
        for c_in, c_out in itertools.pairwise(sides)
        for layer in (nn.Linear(c_in, c_out), nn.BatchNorm1d(c_out), nn.ReLU())
    ]
    model = nn.Sequential(*hidden, nn.Linear(training.width, 10))
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Linear):
                layer.weight.uniform_(-1, 1, generator=generator).div_(layer.in_features**0.5)
                layer.bias.zero_()
    return model


def untracked(run: Run) -> Callable[[], None]:
    return run.train


def tracked(every: int, run: Run) -> Call:
    tracker = fastrank.RankTracker(run.model, run.optimizer, tolerance=TOLERANCE, select="paper", every=every)

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
    Provider("fastrank.RankTracker", partial(tracked, 1), strict=True),
    Provider("torch.linalg.svdvals hook", partial(hooked, baselines.svdvals, 1)),
    Provider("gram eigvalsh hook", partial(hooked, baselines.gram_eigvalsh_batched, 1)),
    Provider("fastrank.RankTracker every 10", partial(tracked, 10), strict=True),
    Provider("torch.linalg.svdvals hook every 10", partial(hooked, baselines.svdvals, 10)),
)
