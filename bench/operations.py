"""The operations that are measured: what each is given, what counts as its error, and what it costs at least."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import baselines
import costs
import grams
import graphs
import lowrank
import ours
import steps
import torch
import training
from costs import Cost
from operation import Operation, worst
from providers import Provider
from timing import Call
from torch import Tensor
from workloads import TOLERANCE, WORKLOADS, Matrices, Workload

import fastrank
from fastrank import testing

K = lowrank.K
TINY = torch.finfo(torch.float64).tiny


def _those(chosen: Callable[[Workload], bool]) -> dict[str, Workload]:
    return {name: workload for name, workload in WORKLOADS.items() if chosen(workload)}


class Rank(Operation):
    """Numerical rank of every matrix at 1e-3 of its Frobenius norm."""

    name, unit, limit = "rank", "ranks off by, at most", 0
    providers = (*ours.RANK, *baselines.RANK)
    quick = (
        *("resnet18-cifar", "mlp-bn-10-100", "square-128", "square-256", "square-512", "square-1024"),
        *("square-512-gaussian", "families-96x128", "clustered-96x128"),
    )
    headline = (
        *("resnet18-cifar", "square-4096", "batch-640x512", "mlp-bn-10-100", "square-512", "square-1024"),
        *("square-512-flat", "vit-b16"),
    )

    def error(self, problem: Matrices, answer: Any) -> float:
        """Largest distance of a rank from what the truth leaves open.

        `RankBounds` have to be as tight as that, too; a plain pair of lower and upper bounds only has to be true.
        """
        lower, upper = answer[:2] if isinstance(answer, tuple) else (answer, answer)
        errors = []
        for low, high, sigma in zip(lower, upper, problem.sigma, strict=True):
            tau = TOLERANCE.value * torch.linalg.vector_norm(sigma)
            slack = problem.slack * sigma[0]
            least, most = ((sigma > t).sum().item() for t in (tau + slack, tau - slack))
            errors += [least - int(high), int(low) - most]
            if isinstance(answer, fastrank.RankBounds):
                errors.append(int(high) - int(low) - (most - least))
        return float(worst(errors))

    def cost(self, workload: Workload, dtype: torch.dtype) -> Cost:
        return costs.rank(workload.shapes, dtype)


class Spectrum(Operation):
    """Singular values of every matrix."""

    name, unit, limit = "spectrum", "of sigma_1, at most", 1e-4
    providers = (*ours.SPECTRUM, *baselines.SPECTRUM)
    quick = ("mlp-bn-10-100", "square-512")

    def error(self, problem: Matrices, answer: list[Tensor]) -> float:
        """Largest error of a singular value, relative to sigma_1."""
        pairs = zip(answer, problem.sigma, strict=True)
        return worst(((computed.cpu().double() - s).abs().max() / s[0].clamp(min=TINY)).item() for computed, s in pairs)

    def cost(self, workload: Workload, dtype: torch.dtype) -> Cost:
        return costs.spectrum(workload.shapes, dtype)


class Norm(Operation):
    """Spectral norm of every matrix."""

    name, unit, limit = "norm", "of sigma_1, at most", 1e-4
    providers = (*ours.NORM, *baselines.NORM)
    quick = ("mlp-bn-10-100", "square-512", "square-1024")

    def error(self, problem: Matrices, answer: list[Tensor]) -> float:
        pairs = zip(answer, problem.sigma, strict=True)
        return worst(((computed.cpu().double() - s[0]).abs() / s[0].clamp(min=TINY)).item() for computed, s in pairs)

    def cost(self, workload: Workload, dtype: torch.dtype) -> Cost:
        return costs.norm(workload.shapes, dtype)


class LowRank(Operation):
    """The first K singular triplets of every matrix."""

    name, unit, limit = "lowrank", "of the best answer's energy missed", 0.1
    providers = lowrank.PROVIDERS
    workloads = _those(lambda w: min(map(min, w.shapes)) >= lowrank.K)
    quick = ("mlp-bn-10-100", "square-512", "square-1024")
    headline = ("resnet18-cifar",)

    def error(self, problem: Matrices, answer: list[lowrank.Factors]) -> float:
        """Largest `(||W - U S Vh||^2 - best^2) / ||W_K||^2`, norms Frobenius, W_K the best matrix of rank K.

        Infinite for another number of triplets than K.
        """
        errors = []
        for matrix, sigma, factors in zip(problem.matrices, problem.sigma, answer, strict=True):
            U, S, Vh = (x.to(matrix.device, torch.float64) for x in factors)
            if (U.shape, S.shape, Vh.shape) != ((len(matrix), K), (K,), (K, matrix.shape[1])):
                return math.inf
            residual = torch.linalg.matrix_norm(matrix.double() - (U * S) @ Vh).item()
            best, top = (torch.linalg.vector_norm(part).item() for part in (sigma[K:], sigma[:K]))
            errors.append((residual**2 - best**2) / max(top**2, TINY))  # a zero matrix has no energy to miss
        return worst(errors)

    def cost(self, workload: Workload, dtype: torch.dtype) -> Cost:
        return costs.lowrank(workload.shapes, dtype, lowrank.K + lowrank.OVERSAMPLE, lowrank.POWER_ITERS)


class Step(Operation):
    """One optimizer step over every parameter of a network."""

    name, unit, limit = "step", "of a parameter's largest element, at most", 1e-6
    providers = steps.PROVIDERS
    workloads = _those(lambda w: bool(w.network.rest) and w.spectrum == "trained")
    quick = ("resnet18-cifar", "mlp-bn-10-100")
    headline = ("resnet18-cifar", "vit-b16", "mlp-bn-10-100")
    checked_calls = steps.CHECKED_STEPS

    def make(self, workload: Workload, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        return steps.make_parameters(workload, dtype, device)

    def inputs(self, problem: list[Tensor]) -> list[Tensor]:
        return steps.clone(problem, problem[0].dtype, problem[0].device)

    def bytes(self, problem: list[Tensor]) -> int:
        return sum(3 * parameter.nbytes for parameter in problem)  # with gradient and momentum

    def answer(self, call: steps.Call) -> list[Tensor]:
        return [call() for _ in range(steps.CHECKED_STEPS)][-1]

    def warm(self, call: steps.Call) -> None:
        self.answer(call)

    def recheck(self, problem: list[Tensor], inputs: list[Tensor], calls: Sequence[Call]) -> float:
        """Two steps more, with other gradients in place before the second: see `steps.continued_error`."""
        return worst(steps.continued_error(inputs, call) for call in calls)

    def error(self, problem: list[Tensor], answer: list[Tensor]) -> float:
        return steps.relative_error(problem, answer)

    def cost(self, workload: Workload, dtype: torch.dtype) -> Cost:
        return costs.step(workload.network.parameters, dtype)


class TrainingStep(Operation):
    """Whole training steps with the rank of every matrix measured, against the same without."""

    name, unit, limit = "training", "ranks off by, at most", 0
    providers = training.PROVIDERS
    workloads = training.TRAININGS
    quick = ("digits-mlp-b8", "digits-mlp-b64", "transformer-256-2")
    headline = ("resnet18-cifar-b128",)
    baseline = Provider("untracked", training.untracked)
    threads = 1  # as a sweep's worker has it; two threads are no faster on matrices this small

    def make(self, workload: training.Training, dtype: torch.dtype, device: torch.device) -> tuple[Any, torch.device]:
        return workload, device

    def inputs(self, problem: tuple[Any, torch.device]) -> training.Run:
        return training.Run(*problem)

    def bytes(self, problem: tuple[Any, torch.device]) -> int:
        return 4 * problem[0].parameters

    def error(self, problem: Any, answer: training.Outcome) -> float:
        """Largest distance of the last step's ranks from those of the weights as they are now."""
        errors = []
        for rank, matrix in zip(answer.ranks(), answer.run.matrices, strict=True):
            truth = testing.true_rank(training.triangle(matrix), TOLERANCE)
            errors += [int(truth.lower) - rank, rank - int(truth.upper)]
        return float(worst(errors))

    def recheck(self, problem: Any, inputs: training.Run, calls: Sequence[Call]) -> float:
        """Trains on: there is no remembering the ranks of weights that go on changing."""
        return worst(self.error(problem, call()) for call in calls)

    def cost(self, workload: Any, dtype: torch.dtype) -> None:
        return None


class GraphedStep(TrainingStep):
    """The same in one CUDA graph, against the same without."""

    name, providers, workloads, quick = "graph", graphs.PROVIDERS, graphs.TRAININGS_IN_GRAPHS, ()
    baseline = Provider("untracked", graphs.untracked, devices=("cuda",))
    captures = True


class Gram(Operation):
    """FP64 Gram of every matrix, the first half of its certified rank."""

    name, unit, limit = "gram", "of the trace, at most", 1e-12
    providers = grams.PROVIDERS
    quick = ("resnet18-cifar", "square-1024")
    headline = ("resnet18-cifar", "batch-640x512", "square-4096", "vit-b16")

    def error(self, problem: Matrices, answer: list[Tensor]) -> float:
        return worst([grams.relative_error(problem.matrices, answer)])

    def cost(self, workload: Workload, dtype: torch.dtype) -> Cost:
        return costs.gram(workload.shapes, dtype)


OPERATIONS = {o.name: o for o in (Rank(), Step(), Gram(), LowRank(), TrainingStep(), GraphedStep(), Norm(), Spectrum())}
"""By name, the most telling first."""
