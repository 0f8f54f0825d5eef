"""The operators of `fastrank.linalg`: compiled calls are one graph with the bits of calls at once, of any shapes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from fastrank import Tolerance, linalg
from fastrank.linalg import operators

# PyTorch's compiler imports something that PyTorch itself deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")

FUNCTIONS = {
    "rank_bounds": linalg.rank_bounds,
    "spectral": lambda A: linalg.rank_bounds(A, Tolerance(0.04, "spectral"), resolve=False),
    "matrix_rank": linalg.matrix_rank,
    "thresholds": lambda A: linalg.matrix_rank(A, atol=0.5, rtol=torch.tensor(0.1)),
    "spectral_norm": linalg.spectral_norm,
    "stable_rank": linalg.stable_rank,
    "svdvals": linalg.svdvals,
    "effective_rank": linalg.effective_rank,
    "energy_rank": partial(linalg.energy_rank, energy=0.9),
    "nuclear_norm": partial(linalg.nuclear_norm, accurate=True),
    "participation_ratio": linalg.participation_ratio,
    "svd_lowrank": lambda A: linalg.svd_lowrank(A, 2, seed=3),
}


@pytest.fixture(autouse=True)
def _nothing_compiled_before() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def made(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def flat(answer: Any) -> list[Tensor]:
    return [answer] if isinstance(answer, Tensor) else [tensor for part in answer for tensor in flat(part)]


def assert_same(ours: Any, theirs: Any) -> None:
    assert type(ours) is type(theirs)
    for a, b in zip(flat(ours), flat(theirs), strict=True):
        assert a.dtype == b.dtype
        assert not a.requires_grad
        assert torch.equal(a, b)


def every_answer(A: Any) -> list[Any]:
    return [function(A) for function in FUNCTIONS.values()]


@pytest.mark.parametrize("form", ["batch", "list"])
def test_compiled_calls_are_one_graph_and_have_the_same_bits(form):
    ragged = [made(3, 4), made(7, 2).half(), made(2, 9).double().mT]
    A: Any = ragged if form == "list" else made(4, 6, 5).requires_grad_()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(every_answer, backend=counter, fullgraph=True)
    for _ in range(3):
        for ours, theirs in zip(compiled(A), every_answer(A), strict=True):
            assert_same(ours, theirs)
    assert counter.frame_count == 1


def test_other_shapes_compile_once_more():
    def some(A):
        return linalg.rank_bounds(A), linalg.svdvals(A), linalg.svd_lowrank(A, 2)

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(some, backend=counter, fullgraph=True)
    for shape in ((4, 6, 5), (3, 5, 8), (6, 7, 3), (2, 9, 9)):  # wide and tall: no guess may stick
        for ours, theirs in zip(compiled(made(*shape)), some(made(*shape)), strict=True):
            assert_same(ours, theirs)
    assert counter.frame_count == 2


OPERATORS = [f"{name}.{overload}" for name in operators._REGISTERED for overload in ("default", "list")]
ARGUMENTS = {
    "rank_bounds": (1e-3, "frobenius", True),
    "matrix_rank": (None, torch.tensor(0.5), 0.1, None),
    "svdvals": (False,),
    "svd_lowrank": (2, 8, 2, 0),
    "energy_rank": (0.9, False),
    "spectral_norm": (),
    "stable_rank": (),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_is_what_it_says_to_pytorch(name):
    """Schema, fake implementation, autograd and dynamic shapes, as PyTorch itself checks them."""
    packet, overload = name.split(".")
    A: Any = made(2, 3, 4).requires_grad_() if overload == "default" else [made(3, 4), made(5, 2).double()]
    operator = getattr(getattr(torch.ops.fastrank, packet), overload)
    torch.library.opcheck(operator, (A, *ARGUMENTS.get(packet, (False,))))


def test_every_function_has_an_operator():
    assert {name for name in linalg.__all__ if name != "LowRankSVD"} == set(operators._REGISTERED)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_slices_of_vmap_are_answered_as_if_alone(name):
    A, function = made(3, 6, 5), FUNCTIONS[name]
    alone = [torch.stack(list(each)) for each in zip(*(flat(function(a)) for a in A), strict=True)]
    assert_same(flat(torch.func.vmap(function)(A)), alone)


def test_no_gradient_flows_through_an_answer():
    def loss(A):
        return A.square().sum() + linalg.spectral_norm(A).sum()

    A = made(3, 4)
    assert torch.equal(torch.func.grad(loss)(A), 2 * A)
    leaf = A.clone().requires_grad_()
    torch.compile(loss, backend="aot_eager", fullgraph=True)(leaf).backward()
    assert torch.equal(leaf.grad, 2 * A)


def test_an_exported_program_has_operators():
    class Spectrum(torch.nn.Module):
        def forward(self, A):
            return linalg.svdvals(A)

    rows = torch.export.Dim("rows", min=2)
    program = torch.export.export(Spectrum(), (made(6, 5),), dynamic_shapes=({0: rows},))
    assert_same(program.module()(made(3, 5)), linalg.svdvals(made(3, 5)))


@pytest.mark.parametrize(
    ("function", "A", "message"),
    [
        (linalg.svdvals, made(3), "A: needs at least two dimensions"),
        (linalg.spectral_norm, torch.ones(2, 2, dtype=torch.int32), "A: dtype int32 is not supported"),
        (linalg.rank_bounds, [made(2, 2), made(1, 2, 2)], r"A\[1\]: a list holds 2-D matrices"),
        (linalg.stable_rank, [], "takes no list without matrices"),
        (linalg.matrix_rank, "A", "takes tensors, not str"),
        (partial(linalg.svd_lowrank, k=1, seed=2**63), made(2, 2), "seed: in a function that is compiled"),
        (partial(linalg.svd_lowrank, k=3), made(2, 2), "3 singular triplets asked of A"),
        (linalg.matrix_rank, torch.full((2, 2), torch.nan), "holds NaN or Inf"),
    ],
)
def test_errors_name_the_argument_in_a_graph_too(function, A, message):
    with pytest.raises(Exception, match=message):
        torch.compile(function, backend="aot_eager", fullgraph=True)(A)
