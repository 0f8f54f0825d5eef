"""Which kernels are compiled ahead: all that a tracker may launch, and `fastrank.prepare`, which waits for them."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

import fastrank
from fastrank import Tolerance
from fastrank.kernels.limits import KS
from fastrank.measuring import basis_size, compilation
from fastrank.tracking import ahead

pytest.importorskip("triton")

from fastrank.kernels import compile as compiling
from fastrank.kernels import pointers
from fastrank.kernels.count import Shape, variants_of_counts
from fastrank.kernels.sketch import variants_of_sketches
from fastrank.kernels.step import sgd

CPU = torch.device("cpu")
KIND = sgd.Kind(torch.float32, 0.0, 0.0, False, False)


pytestmark = pytest.mark.usefixtures("compiled_for_a_gpu")


def keys(listed):
    return {variant.key for variant in listed}


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_all_that_a_tracker_may_launch_is_asked_for(momentum):
    """Every number of columns of every matrix, the optimizer's own kernels, and what counts before any sketch."""
    model = nn.Sequential(nn.Linear(64, 40), nn.Linear(300, 200), nn.Linear(700, 600)).bfloat16()
    optimizer = fastrank.SGD(model.parameters(), lr=0.1, momentum=momentum)
    matrices = [layer.weight.detach() for layer in model]
    needs = ahead.needs_of(matrices, [optimizer], CPU)
    kind = KIND._replace(dtype=torch.bfloat16, momentum=momentum)
    assert keys([sgd.sgd_variant(kind), pointers.POKE]) <= keys(needs.urgent)
    shapes = [(torch.bfloat16, Shape(r, r, r, 1)) for r in (40, 200, 600)]
    assert keys(variants_of_counts(shapes, CPU)) <= keys(needs.urgent)
    for k in KS:
        assert keys(variants_of_sketches([(torch.bfloat16, k)], CPU)) <= keys(needs.later)
    first = len(variants_of_sketches([(torch.bfloat16, 64)], CPU))
    assert keys(needs.later[:first]) == keys(variants_of_sketches([(torch.bfloat16, 64)], CPU)), "first what is first"
    scaled = ahead.needs_of(matrices, [fastrank.SGD(model.parameters(), lr=0.1, momentum=momentum, fused=True)], CPU)
    forms = [sgd.sgd_variant(kind, *form) for form in ((False, False), (True, True), (False, True))]
    assert keys(forms[:1]) <= keys(scaled.urgent)
    assert keys(forms[1:]) <= keys(scaled.later), "GradScaler gives them to a fused optimizer while it steps"
    unfused = ahead.needs_of(matrices, [torch.optim.SGD(model.parameters(), lr=0.1)], CPU)
    assert not [v for v in [*unfused.urgent, *unfused.later] if "sgd" in v.name]


def test_what_is_asked_for_makes_products_as_the_environment_says(monkeypatch):
    optimizer = fastrank.SGD([torch.nn.Parameter(torch.zeros(40, 30))], lr=0.1, momentum=0.9)
    for integers in (False, True):
        monkeypatch.setenv("FASTRANK_PRODUCTS", "integers" if integers else "fp64")
        later = ahead.needs_of([torch.zeros(40, 30)], [optimizer], CPU).later
        assert keys(variants_of_sketches([(torch.float32, 32)], CPU, integers)) <= keys(later)
        told = [v.constexprs["INTEGERS"] for v in later if v.name in ("sketch_kernel", "sgd_sketch_kernel")]
        assert set(told) == {integers}
        assert len(told) > 1


def test_matrices_too_long_for_slices_have_their_kernel_too(monkeypatch):
    """At a tolerance of 1e-4 Grams of more than 2^16 columns are made in FP64, beside those that are made by slices."""
    monkeypatch.setenv("FASTRANK_PRODUCTS", "integers")
    for matrices, names in (
        ([torch.zeros(2, 2**16)], {"integer_gram_kernel"}),
        ([torch.zeros(2, 2**16 + 1)], {"gram_kernel"}),
        ([torch.zeros(2, 2**16 + 1), torch.zeros(2, 3)], {"gram_kernel", "integer_gram_kernel"}),
    ):
        needs = ahead.needs_of(matrices, [], CPU, [Tolerance(1e-4)])
        assert {v.name for v in needs.urgent} & {"gram_kernel", "integer_gram_kernel"} == names


def test_fp64_matrices_are_counted_and_never_sketched():
    double, single = torch.eye(5, dtype=torch.float64), torch.eye(5)
    needs = ahead.needs_of([double], [], CPU)
    assert needs.later == []
    assert any(v.name == "largest_kernel" for v in needs.urgent)
    assert keys(ahead.needs_of([double, single], [], CPU).later) == keys(ahead.needs_of([single], [], CPU).later)


@pytest.mark.parametrize("r", [1, 16, 17, 64, 65, 100, 128, 255, 256, 4096])
def test_all_columns_are_those_that_a_matrix_may_be_given(r):
    given = {basis_size.basis_size(rank, r, now) for rank in range(r + 1) for now in (0, *KS)}
    assert set(basis_size.basis_sizes(r)) >= given
    assert basis_size.basis_sizes(r)[0] == basis_size.basis_size(0, r)


def test_prepare_waits_and_names_what_it_cannot_take(monkeypatch):
    monkeypatch.setattr(compiling, "warm", lambda variant, device: time.sleep(0.01))
    monkeypatch.setattr(compiling, "is_stored", lambda variant, target: True)
    model = nn.Linear(9, 8)
    fastrank.prepare(model)
    one = compilation.compilation_of(CPU)
    needs = ahead.needs_of([model.weight.detach()], [], CPU)
    assert all(one._done[variant.key].done() for variant in [*needs.urgent, *needs.later])
    with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module"):
        fastrank.prepare("model")
    with pytest.raises(TypeError, match=r"optimizer: float is no torch\.optim\.Optimizer"):
        fastrank.prepare(model, 0.1)
    with pytest.raises(ValueError, match="nothing to track"):
        fastrank.prepare(nn.BatchNorm1d(3))


def test_on_a_cpu_prepare_has_nothing_to_do(monkeypatch):
    monkeypatch.undo()
    fastrank.prepare(nn.Linear(4, 3))
