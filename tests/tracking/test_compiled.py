"""A compiled step of a tracked model is one graph, and leaves the rows that a step without compiler leaves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

import fastrank
from fastrank import RankTracker, linalg

# PyTorch's compiler imports something that PyTorch itself deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
STEPS = 5


@pytest.fixture(autouse=True)
def _nothing_compiled_before() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Run:
    """A small model that is trained with two optimizers."""

    def __init__(self, **options: Any) -> None:
        torch.manual_seed(0)
        first, last = nn.Linear(8, 8), nn.Linear(8, 4)
        self.model = nn.Sequential(first, nn.Tanh(), last)
        self.optimizers = [
            fastrank.SGD(first.parameters(), lr=0.1, momentum=0.9),
            fastrank.SGD(last.parameters(), lr=0.2),
        ]
        self.tracker = RankTracker(self.model, self.optimizers, **options)
        self.data = torch.randn(STEPS, 3, 8)
        self.close_after = STEPS

    def train(self, counter: CompileCounterWithBackend | None, *, fullgraph: bool = True) -> Any:
        """Trained once and read: the rows, the parameters, and what was computed after each step."""

        def update(x: torch.Tensor) -> Any:
            for optimizer in self.optimizers:
                optimizer.step()
            return self.model(x), linalg.spectral_norm(self.model[0].weight)

        if counter is not None:
            update = torch.compile(update, backend=counter, fullgraph=fullgraph)
        after = []
        for i, x in enumerate(self.data):
            self.model.zero_grad()
            self.model(x).square().mean().backward()
            after += update(x)
            if i + 1 == self.close_after:
                self.tracker.close()
        return self.tracker.to_arrow().to_pylist(), [*self.model.parameters(), *after]


def assert_same(ours: Any, theirs: Any) -> None:
    assert ours[0] == theirs[0]
    assert all(torch.equal(a, b) for a, b in zip(ours[1], theirs[1], strict=True))


# Of the two, the first writes parameters at once and the second at the end of a graph.
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_step_leaves_the_same_rows(backend):
    counter = CompileCounterWithBackend(backend)
    assert_same(Run().train(counter), Run().train(None))
    assert counter.frame_count == 2  # the first step makes momentum buffers


def test_inductor_leaves_the_same_rows():
    """Of a step, and of functions of matrices: where it generates code, as for a forward, it rounds in its own way."""
    answers = []
    for compiled in (True, False):
        run = Run()
        steps = [optimizer.step for optimizer in run.optimizers]
        weights = [run.model[0].weight, run.model[2].weight]

        def update(steps=steps, weights=weights):
            for step in steps:
                step()
            bounds, factors = linalg.rank_bounds(weights), linalg.svd_lowrank(weights[0], 2)
            return [*bounds, *factors, *linalg.svdvals(weights)]

        update = torch.compile(update, fullgraph=True) if compiled else update
        after = []
        for x in run.data[:3]:
            run.model.zero_grad()
            run.model(x).square().mean().backward()
            after += update()
        answers.append((run.tracker.to_arrow().to_pylist(), [*run.model.parameters(), *after]))
    assert len(answers[0][0]) == 3 * 2
    assert_same(*answers)


def test_every_nth_step_and_a_tracker_that_is_closed():
    runs = [Run(every=2), Run(every=2)]
    for run in runs:
        run.close_after = 4
    counter = CompileCounterWithBackend("aot_eager")
    rows = runs[0].train(counter)
    assert_same(rows, runs[1].train(None))
    assert {row["step"] for row in rows[0]} == {1, 2, 4}
    assert counter.frame_count == 3  # once more without the tracker


def test_gradients_are_recorded_outside_the_graph():
    """They may be written in the graph, which then knows better than the parameter what they are."""
    options = {"of": ("weight", "gradient", "update")}
    assert_same(
        Run(**options).train(CompileCounterWithBackend("aot_eager"), fullgraph=False), Run(**options).train(None)
    )
    with pytest.raises(torch._dynamo.exc.Unsupported, match="records more than parameters"):
        Run(of=("weight", "gradient")).train(CompileCounterWithBackend("aot_eager"))


def test_a_parameter_that_the_graph_does_not_know_is_an_error():
    run = Run()
    run.model[2].weight = nn.Parameter(torch.zeros(4, 8))
    with pytest.raises(RuntimeError, match="parameters of the model were replaced since this RankTracker was made"):
        run.train(CompileCounterWithBackend("aot_eager"))


@pytest.mark.skipif(not hasattr(torch._dynamo.config, "trace_autograd_ops"), reason="this PyTorch traces no backward")
def test_a_whole_training_step_is_one_graph():
    answers = []
    counter = CompileCounterWithBackend("aot_eager")
    for compiled in (True, False):
        run = Run()

        def train(x: torch.Tensor, run: Run = run) -> torch.Tensor:
            loss = run.model(x).square().mean()
            loss.backward()
            for optimizer in run.optimizers:
                optimizer.step()
            for parameter in run.model.parameters():
                parameter.grad = None
            return loss.detach()

        step = torch.compile(train, backend=counter, fullgraph=True) if compiled else train
        with torch._dynamo.config.patch(trace_autograd_ops=True):
            losses = [step(x) for x in run.data]
        answers.append((run.tracker.to_arrow().to_pylist(), [*run.model.parameters(), *losses]))
    assert_same(*answers)
    assert counter.frame_count == 2


def test_the_operator_is_what_it_says_to_pytorch():
    from fastrank.tracking.graphs import operator  # noqa: F401

    run = Run()
    for optimizer in run.optimizers:
        optimizer.step()
    graph = run.tracker._hooks._in_graph
    arguments = (graph._calls, [p.detach() for p in graph._parameters], graph._number, 0)
    torch.library.opcheck(torch.ops.fastrank.take_step.default, arguments)
