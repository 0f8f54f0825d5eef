"""The truth that workloads carry, against FP64 singular values of what they hold."""

import pytest
import torch
from networks import Network
from workloads import TOLERANCE, WORKLOADS, Workload

from fastrank import testing

CPU = torch.device("cpu")


@pytest.mark.parametrize("spectrum", ["trained", "full", "flat", "gaussian", "families", "clustered"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_singular_values_are_known(spectrum, dtype):
    shapes = ((40, 24),) * 3 if spectrum in ("families", "clustered") else ((24, 40), (40, 24), (24, 40), (30, 30))
    made = Workload("small", Network(shapes, ()), spectrum).make(dtype, CPU)
    for matrix, shape, sigma in zip(made.matrices, shapes, made.sigma, strict=True):
        assert matrix.shape == shape
        assert matrix.dtype == dtype
        computed = testing.true_singular_values(matrix)
        assert (computed - sigma).abs().max() <= made.slack * sigma[0]


def test_a_workload_is_the_same_every_time():
    workload = WORKLOADS["mlp-bn-10-100"]
    first, second = (workload.make(torch.float32, CPU) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.matrices, second.matrices, strict=True))
    assert not torch.equal(first.matrices[1], first.matrices[2])


def test_trained_networks_have_partly_collapsed():
    made = WORKLOADS["mlp-bn-10-100"].make(torch.float32, CPU)
    ranks = {(s > TOLERANCE.value * s.norm()).sum().item() for s in made.sigma}
    assert ranks == {60}


def test_the_global_generator_is_not_touched():
    before = torch.random.get_rng_state()
    WORKLOADS["square-128"].make(torch.float32, CPU)
    assert torch.equal(before, torch.random.get_rng_state())
