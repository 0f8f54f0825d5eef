"""Every operation notices a wrong answer, and the right one has the error that rounding explains."""

from dataclasses import replace
from functools import partial

import models
import networks
import operations
import pytest
import steps
import torch
import training
from networks import Network
from operations import OPERATIONS
from workloads import TOLERANCE, Workload

from fastrank import RankBounds

CPU = torch.device("cpu")
SMALL = Workload("small", Network(((40, 60), (64, 48)), ((40,),)))


@pytest.fixture(scope="module")
def matrices():
    return SMALL.make(torch.float32, CPU)


def test_rank(matrices):
    rank = OPERATIONS["rank"]
    truth = torch.tensor([(s > TOLERANCE.value * s.norm()).sum() for s in matrices.sigma])
    assert rank.error(matrices, truth) == 0
    assert rank.error(matrices, truth + torch.tensor([0, -2])) == 2
    status = torch.zeros_like(truth)
    assert rank.error(matrices, RankBounds(truth, truth, status)) == 0
    assert rank.error(matrices, RankBounds(truth + 1, truth + 1, status)) == 1
    # A certificate has to be one; an interval that claims no more only has to be true.
    assert rank.error(matrices, RankBounds(truth - 3, truth + 1, status)) == 4
    assert rank.error(matrices, (truth - 3, truth + 1)) == 0
    assert rank.error(matrices, (truth + 1, truth + 2)) == 1


def test_spectrum(matrices):
    spectrum = OPERATIONS["spectrum"]
    assert spectrum.error(matrices, matrices.sigma) == 0
    off = [matrices.sigma[0], matrices.sigma[1] + 0.01 * matrices.sigma[1][0]]
    assert spectrum.error(matrices, off) == pytest.approx(0.01)
    assert spectrum.error(matrices, [matrices.sigma[0], matrices.sigma[1] * torch.nan]) == torch.inf


def test_norm(matrices):
    norm = OPERATIONS["norm"]
    assert norm.error(matrices, [s[0] for s in matrices.sigma]) == 0
    assert norm.error(matrices, [s[1] for s in matrices.sigma]) > norm.limit
    assert norm.error(matrices, [matrices.sigma[0][0], torch.tensor(torch.nan)]) == torch.inf


def test_lowrank(matrices):
    lowrank = OPERATIONS["lowrank"]
    exact = [torch.linalg.svd(m.double(), full_matrices=False) for m in matrices.matrices]
    best = [(U[:, :16], S[:16], Vh[:16]) for U, S, Vh in exact]
    assert abs(lowrank.error(matrices, best)) < 1e-6
    assert lowrank.error(matrices, [best[0], tuple(x * torch.nan for x in best[1])]) == torch.inf
    assert lowrank.error(matrices, [best[0], tuple(x * 0 for x in best[1])]) == pytest.approx(1)
    for k in (15, 17):
        assert lowrank.error(matrices, [(U[:, :k], S[:k], Vh[:k]) for U, S, Vh in exact]) == torch.inf


def test_step():
    step = OPERATIONS["step"]
    problem = step.make(SMALL, torch.float32, CPU)
    provider = steps.PROVIDERS[0]
    good = step.answer(provider.prepare(step.inputs(problem)))
    assert step.error(problem, good) < 4 * torch.finfo(torch.float32).eps
    one_less = step.inputs(problem)
    provider.prepare(one_less)()
    assert step.error(problem, one_less) > step.limit
    with torch.no_grad():
        good[-1].fill_(torch.nan)
    assert not step.error(problem, good) <= step.limit


def test_training():
    operation = OPERATIONS["training"]
    small = training.Training("small", partial(models.mlp_bn, 2, 20, 16), (8, 16))
    problem = operation.make(small, torch.float32, CPU)
    answer = operation.answer(training.PROVIDERS[0].prepare(operation.inputs(problem)))
    assert operation.error(problem, answer) == 0
    assert answer.ranks() == [16, 20]
    assert operation.error(problem, answer._replace(ranks=lambda: [16, 18])) == 2


def test_a_stack_of_perceptrons_trains_each_on_its_own():
    """The gradient of a model does not depend on those beside it; the first is that of a perceptron alone."""
    stack, alone = models.StackedMLP(3, 2, 20, 16), models.StackedMLP(1, 2, 20, 16)
    for weights, weight in zip(stack.weights, alone.weights, strict=True):
        weight.data.copy_(weights.data[:1])
    small = training.Training("small", lambda: stack, (8, 16))
    together, single = training.Run(small, CPU), training.Run(replace(small, make=lambda: alone), CPU)
    for run in (together, single):
        run.step(run.inputs[0], run.targets[0])
    assert [m.shape for m in together.matrices[:4]] == [(20, 16)] * 3 + [(20, 20)]
    for weights, weight in zip(stack.weights, alone.weights, strict=True):
        assert torch.allclose(weights.grad[0], weight.grad[0], rtol=1e-4, atol=1e-6)


def test_networks_in_training_are_those_of_the_workloads():
    resnet = training.TRAININGS["resnet18-cifar-b128"]
    assert resnet.parameters == networks.resnet18_cifar().parameters
    matrices = training.Run(resnet, CPU).matrices
    assert tuple(tuple(m.shape) for m in matrices) == networks.resnet18_cifar().matrices
    assert training.TRAININGS["mlp-bn-10-100-b128"].parameters == networks.mlp_bn(10, 100, 3072, 10).parameters


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
def test_every_operation_is_whole(operation):
    names = [provider.name for provider in operation.providers]
    assert len(set(names)) == len(names)
    assert any(name.startswith("fastrank") for name in names)
    assert len(names) >= 2
    assert set(operation.quick) <= set(operation.workloads)
    assert operation.unit
    assert operation.__doc__ != operations.Operation.__doc__


@pytest.mark.parametrize("name", ["rank", "spectrum", "norm", "lowrank"])
def test_every_provider_answers(name, matrices):
    """All that can run here, on wide and tall matrices; a rival's precision is its own affair, its form is not."""
    operation = OPERATIONS[name]
    answered = 0
    for provider in operation.providers:
        if provider.unavailable(CPU):
            continue
        answer = operation.answer(provider.prepare(operation.inputs(matrices)))
        assert operation.error(matrices, answer) <= operation.limit, provider.name
        answered += 1
    assert answered >= 3
