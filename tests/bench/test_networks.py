"""Shapes against what the networks' own papers and code say of them."""

import networks
import pytest


@pytest.mark.parametrize(
    ("network", "parameters", "matrices", "full_rank"),
    [
        # parameters as the released models count them; the two means are the paper's full ranks
        (networks.resnet18_cifar(), 11_173_962, 17, 227.47),
        (networks.vgg16_bn_cifar(), 14_728_266, 13, 322.08),
        (networks.vit_b16(), 86_567_656, 49, 768.0),
        (networks.gpt2_small(), 124_439_808, 48, 768.0),
        (networks.llama_7b_layer(), 202_383_360, 7, 4096.0),
        (networks.mlp_bn(10, 100, 3072, 10), 401_210, 10, 100.0),
    ],
)
def test_sizes(network, parameters, matrices, full_rank):
    assert network.parameters == parameters
    assert len(network.matrices) == matrices
    assert round(network.full_rank, 2) == full_rank


def test_a_stack_is_so_many_models():
    one = networks.mlp_bn(5, 100, 64, 10)
    many = one.stacked(64)
    assert many.parameters == 64 * one.parameters
    assert len(many.matrices) == 64 * len(one.matrices)
