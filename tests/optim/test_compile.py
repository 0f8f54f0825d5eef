"""A `torch.compile`d step: one graph, as of `torch.optim.SGD`, and the same trajectory."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import Parameter
from torch.testing import assert_close
from world_of_one import world_of_one

import fastrank.optim
from fastrank.optim import operator

# PyTorch's compiler imports something that PyTorch itself deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")

STACKED = {"lr": torch.tensor([0.5, 0.1, 0.0]), "weight_decay": torch.tensor([0.1, 0.0, 0.2])}


@pytest.fixture(autouse=True)
def _nothing_compiled_before() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def run(
    kind: Any, counter: CompileCounterWithBackend | None, *, fullgraph: bool = False, **options: Any
) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    params = [Parameter(torch.randn(shape, generator=generator)) for shape in [(3, 5), (3,), (3, 2, 2)]]
    optimizer = kind(params, **options)
    step = optimizer.step if counter is None else torch.compile(optimizer.step, backend=counter, fullgraph=fullgraph)
    for _ in range(5):
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator)
        step()
    return [param.detach() for param in params]


@pytest.mark.parametrize(
    "options",
    [
        {"lr": 0.1, "foreach": False},
        {"lr": torch.tensor(0.1), "momentum": 0.9, "nesterov": True, "foreach": True},
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.1, "weight_decay": 0.1, "fused": True},
    ],
    ids=["forloop", "foreach", "fused"],
)
def test_compiled_step_is_torch_compiled_step(options: dict[str, Any]) -> None:
    counters = [CompileCounterWithBackend("aot_eager") for _ in range(2)]
    ours = run(fastrank.optim.SGD, counters[0], **options)
    stock = run(torch.optim.SGD, counters[1], **options)
    assert_close(ours, stock, rtol=0, atol=0)
    assert counters[0].frame_count == counters[1].frame_count
    assert counters[0].frame_count > 0 or options.get("fused")  # PyTorch does not compile its fused update


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_compiled_stacked_step(momentum: float) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled = run(fastrank.optim.SGD, counter, **STACKED, momentum=momentum)
    assert counter.frame_count > 0
    assert_close(compiled, run(fastrank.optim.SGD, None, **STACKED, momentum=momentum), rtol=0, atol=0)


def test_inductor() -> None:
    options = {**STACKED, "momentum": 0.9, "nesterov": True}
    counter = CompileCounterWithBackend("inductor")
    compiled = run(fastrank.optim.SGD, counter, **options)
    assert counter.frame_count > 0
    # Where no kernel serves, generated code rounds in its own way: an ulp an operation.
    bound = {"rtol": 0, "atol": 0} if operator.HOST_SERVES else {"rtol": 1e-5, "atol": 1e-6}
    assert_close(compiled, run(fastrank.optim.SGD, None, **options), **bound)


@pytest.mark.parametrize(
    "options",
    [
        {"lr": 0.1},
        {"lr": torch.tensor(0.1), "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        {**STACKED, "momentum": 0.9, "dampening": 0.5, "maximize": True},
        {"lr": 0.1, "momentum": 0.9, "foreach": True},
        {"lr": 0.1, "momentum": 0.9, "weight_decay": torch.tensor(0.1), "foreach": False},
    ],
    ids=["plain", "tensor", "stacked", "foreach", "decay"],
)
def test_a_step_is_one_graph_with_the_bits_of_a_step_at_once(options: dict[str, Any]) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled = run(fastrank.optim.SGD, counter, fullgraph=True, **options)
    assert_close(compiled, run(fastrank.optim.SGD, None, **options), rtol=0, atol=0)
    assert counter.frame_count == (2 if "momentum" in options else 1)  # the first one makes momentum buffers


def test_a_tensor_lr_that_changes_compiles_nothing() -> None:
    lr, counter = torch.tensor(0.5), CompileCounterWithBackend("aot_eager")
    weight = Parameter(torch.ones(3))
    optimizer = fastrank.optim.SGD([weight], lr=lr)
    step = torch.compile(optimizer.step, backend=counter, fullgraph=True)
    for _ in range(3):
        weight.grad = torch.ones(3)
        step()
        optimizer.param_groups[0]["lr"].mul_(0.5)
    assert weight.tolist() == [1 - 0.5 - 0.25 - 0.125] * 3
    assert counter.frame_count == 1


@pytest.mark.parametrize("layout", ["same", "other"])
@pytest.mark.parametrize("fresh", [True, False])
def test_the_operator_is_what_it_says_to_pytorch(fresh: bool, layout: str) -> None:
    generator = torch.Generator().manual_seed(0)
    w, g, b = (torch.randn(3, 5, generator=generator) for _ in range(3))
    w, b = (w, b) if layout == "same" else (w.mT.contiguous().mT, b.bfloat16().float())
    arguments = ([w], [g], [b], [fresh], 0.1, None, 0.0, torch.tensor(0.1), 0.9, 0.0, True, False)
    theirs, optimizer = Parameter(w.clone()), None
    torch.library.opcheck(torch.ops.fastrank.sgd_.default, arguments)
    optimizer = torch.optim.SGD([theirs], lr=0.1, weight_decay=0.1, momentum=0.9, nesterov=True)
    theirs.grad = g
    if not fresh:
        optimizer.state[theirs]["momentum_buffer"] = b.clone()
    optimizer.step()
    torch.ops.fastrank.sgd_(*arguments)
    assert_close([w, b], [theirs.detach(), optimizer.state[theirs]["momentum_buffer"]], rtol=0, atol=0)


def test_compiled_step_of_dtensors_is_torch_compiled_step() -> None:
    """The compiler has to see the DTensors, and not their local tensors."""
    results, counted = [], []
    with world_of_one("cpu") as mesh:
        from torch.distributed.tensor import Shard, distribute_tensor

        for kind in (fastrank.optim.SGD, torch.optim.SGD):
            generator = torch.Generator().manual_seed(0)
            values = [torch.randn(shape, generator=generator) for shape in [(3, 5), (4,)]]
            params = [Parameter(distribute_tensor(value, mesh, [Shard(0)])) for value in values]
            counter = CompileCounterWithBackend("aot_eager")
            optimizer = kind(params, lr=0.1, momentum=0.9)
            step = torch.compile(optimizer.step, backend=counter)
            for _ in range(3):
                for param in params:
                    grad = torch.randn(param.shape, generator=generator)
                    param.grad = distribute_tensor(grad, mesh, [Shard(0)])
                step()
            results.append([param.to_local().detach() for param in params])
            counted.append(counter.frame_count)
    assert_close(*results, rtol=0, atol=0)
    assert counted[0] == counted[1] > 0
