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

from fastrank import RankBounds, testing

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


def test_lowrank_of_a_zero_matrix(matrices):
    zeros = matrices._replace(matrices=[torch.zeros(40, 60)], sigma=[torch.zeros(40, dtype=torch.float64)])
    right = torch.linalg.qr(torch.randn(40, 16)).Q, torch.zeros(16), torch.eye(16, 60)
    assert OPERATIONS["lowrank"].error(zeros, [right]) == 0
    assert OPERATIONS["lowrank"].error(zeros, [(right[0], right[1] + 1e-9, right[2])]) > 1


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


def test_a_transformer_is_tracked_whole():
    """The 6 matrices of each layer, the embedding and the head: those of the tracker, in its order."""
    operation = OPERATIONS["training"]
    small = training.Training("small", partial(models.transformer, 2, 64, 20), (3, 5), tokens=20, steps=10)
    problem = operation.make(small, torch.float32, CPU)
    answer = operation.answer(training.PROVIDERS[0].prepare(operation.inputs(problem)))
    assert operation.error(problem, answer) == 0
    assert len(answer.ranks()) == 14
    assert [tuple(m.shape) for m in answer.run.matrices[:7]] == [(20, 64), *[(64, 64)] * 4, (256, 64), (64, 256)]
    x = answer.run.inputs[0]
    changed = x.clone()
    changed[:, 3] = (x[:, 3] + 1) % 20
    alike = torch.isclose(answer.run.model(x), answer.run.model(changed)).all(-1)
    assert alike.tolist() == [[True] * 3 + [False] * 2] * 3  # no token sees a later one


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


@pytest.mark.filterwarnings("ignore")  # rivals warn of what they like
@pytest.mark.parametrize("name", ["rank", "spectrum", "norm", "lowrank", "gram"])
def test_every_provider_answers_again_when_its_buffer_has_other_values(name, matrices):
    operation = OPERATIONS[name]
    for provider in operation.providers:
        if provider.unavailable(CPU):
            continue
        inputs = operation.inputs(matrices)
        call = provider.prepare(inputs)
        assert operation.recheck(matrices, inputs, [call]) <= operation.limit, provider.name
        remembered = provider.prepare(operation.inputs(matrices))()
        error = operation.recheck(matrices, operation.inputs(matrices), [call, lambda known=remembered: known])
        assert error > operation.limit, provider.name


def step_call(provider):
    step = OPERATIONS["step"]
    problem = step.make(SMALL, torch.float32, CPU)
    inputs = step.inputs(problem)
    call = provider.prepare(inputs)
    for _ in range(1000):
        call()
    return step, problem, inputs, call


@pytest.mark.parametrize("provider", steps.PROVIDERS[:1] + steps.PROVIDERS[-2:], ids=lambda p: p.name)
def test_a_step_that_has_taken_many_is_checked_by_going_on(provider):
    step, problem, inputs, call = step_call(provider)
    assert step.recheck(problem, inputs, [call, call]) < 4 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("cheat", ["rests", "knows its gradients", "has no momentum", "has no decay"])
def test_a_step_that_leaves_something_out_is_seen(cheat):
    step, problem, inputs, _ = step_call(steps.PROVIDERS[-1])
    known = [parameter.grad.clone() for parameter in inputs]
    options = {
        "has no momentum": {"lr": 0.1, "weight_decay": 5e-4},
        "has no decay": {"lr": 0.1, "momentum": 0.9},
    }.get(cheat, steps.OPTIONS)
    optimizer = torch.optim.SGD(inputs, **options)

    def cheating():
        if cheat == "rests":
            return inputs
        given = [parameter.grad for parameter in inputs]
        if cheat == "knows its gradients":
            for parameter, gradient in zip(inputs, known, strict=True):
                parameter.grad = gradient
        optimizer.step()
        for parameter, gradient in zip(inputs, given, strict=True):
            parameter.grad = gradient
        return inputs

    assert step.recheck(problem, inputs, [cheating]) > step.limit


def test_training_is_checked_again_on_the_weights_as_they_are_then():
    operation = OPERATIONS["training"]
    small = training.Training("small", partial(models.mlp_bn, 2, 20, 16), (8, 16))
    problem = operation.make(small, torch.float32, CPU)
    run = operation.inputs(problem)
    call = training.PROVIDERS[0].prepare(run)
    assert operation.recheck(problem, run, [call]) == 0

    def remembering():
        answer = call()
        with torch.no_grad():
            run.matrices[0][1:].zero_()
        return answer

    assert operation.recheck(problem, run, [remembering]) > 0


@pytest.mark.parametrize("shape", [(20, 31), (31, 20), (12, 12)])
def test_a_triangle_has_the_singular_values_of_its_matrix(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    R = training.triangle(matrix)
    assert R.shape == (min(shape),) * 2
    assert torch.allclose(testing.true_singular_values(R), testing.true_singular_values(matrix), rtol=1e-13)


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
def test_the_headline_is_measured_against_telling_rivals(operation):
    assert set(operation.headline) <= set(operation.workloads)
    if operation.headline and operation.baseline is None:  # whose first rival it is
        assert any(p.telling and not p.ours for p in operation.providers)


def test_only_proofs_and_exact_products_count_their_flops():
    counted = {p.name for o in OPERATIONS.values() for p in o.providers if p.products is not None}
    assert {name for name in counted if not name.startswith("fastrank")} == {"torch.matmul by shape", "cublas dsyrk"}
    assert {"fastrank.rank_bounds", "fastrank.rank_bounds unresolved", "fastrank.svdvals"} <= counted
    assert "fastrank.matrix_rank" not in counted
