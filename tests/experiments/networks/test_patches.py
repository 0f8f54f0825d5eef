"""Patches: numbers worked out by hand, and the ranks of gradients that they bound."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import fastrank
from fastrank.experiments.networks.patches import count_patches
from fastrank.experiments.networks.recipes import NETWORKS, NetworkError, build

CIFAR, FASHION, DIGITS = (3, 32, 32), (1, 28, 28), (1, 8, 8)

OPTIONS: dict[str, dict[str, int]] = {
    "mlp_bn": {"depth": 2, "width": 20},
    "mlp": {"depth": 2, "width": 20},
    "convnet": {"depth": 2, "width": 16},
    "resnet18": {},
    "vgg16_bn": {},
    "vit": {"depth": 1, "width": 16, "heads": 2, "patch": 4},
}


def network(name: str, shape: tuple[int, int, int], **options: Any) -> nn.Module:
    return build(name, shape=shape, classes=10, seed=0, **OPTIONS[name] | options)


# Of every matrix in the model's order, the head last. Sides: of the maps that convolutions make.
BY_HAND: list[tuple[str, tuple[int, int, int], list[int]]] = [
    ("mlp_bn", CIFAR, [1, 1, 1]),
    ("mlp", FASHION, [1, 1, 1]),
    ("convnet", CIFAR, [16**2, 8**2, 8**2, 8**2, 1]),
    ("convnet", FASHION, [14**2, 7**2, 7**2, 7**2, 1]),
    # a stage after the first has five convolutions, its shortcut among them
    ("resnet18", CIFAR, [32**2] * 5 + [16**2] * 5 + [8**2] * 5 + [4**2] * 5 + [1]),
    ("resnet18", FASHION, [28**2] * 5 + [14**2] * 5 + [7**2] * 5 + [4**2] * 5 + [1]),
    ("resnet18", DIGITS, [8**2] * 5 + [4**2] * 5 + [2**2] * 5 + [1] * 5 + [1]),
    ("vgg16_bn", CIFAR, [32**2] * 2 + [16**2] * 2 + [8**2] * 3 + [4**2] * 3 + [2**2] * 3 + [1]),
    ("vgg16_bn", FASHION, [28**2] * 2 + [14**2] * 2 + [7**2] * 3 + [4**2] * 3 + [2**2] * 3 + [1]),
    # the embedding, and with the class token q, k, v, out, up, down
    ("vit", CIFAR, [8**2] + [8**2 + 1] * 6 + [1]),
    ("vit", FASHION, [7**2] + [7**2 + 1] * 6 + [1]),
]


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(("name", "shape", "expected"), BY_HAND)
def test_numbers_by_hand(name: str, shape: tuple[int, int, int], expected: list[int], device: str) -> None:
    model = network(name, shape, device=device)
    counts = count_patches(model, shape)
    assert list(counts) == fastrank.RankTracker(network(name, shape), None).names
    assert list(counts.values()) == expected


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("name", ["mlp_bn", "mlp", "convnet", "vit"])
def test_ranks_of_gradients_are_at_most_batch_size_times_patches(name: str, batch_size: int) -> None:
    """In double precision, where a rank is clear; in evaluation mode, where batch-norm takes a single sample.

    Matrices of 24 rows: most bounds are below the full rank, and some matrix of each network meets its bound.
    """
    model = network(name, DIGITS, width=24).double().eval()
    nn.init.normal_(model.head.weight)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch_size, *DIGITS, dtype=torch.float64, generator=generator)
    cross_entropy(model(x), torch.arange(batch_size)).backward()
    counts, slack = count_patches(model, DIGITS), {}
    for matrix, n in counts.items():
        gradient = model.get_parameter(matrix).grad
        assert gradient is not None
        full = min(gradient.flatten(1).shape)
        slack[matrix] = min(full, n * batch_size) - int(torch.linalg.matrix_rank(gradient.flatten(1)))
    assert min(slack.values()) >= 0
    assert 0 in slack.values()


def test_the_model_is_left_as_it_was() -> None:
    model = network("mlp_bn", DIGITS)
    model.norms[0].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes, rng = [module.training for module in model.modules()], torch.get_rng_state()
    count_patches(model, DIGITS)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)
    assert not any(module._forward_hooks for module in model.modules())
    assert all(p.grad is None for p in model.parameters())


class Odd(nn.Module):
    """A layer used twice, one whose weight is tied to it, a grouped convolution, and one that may not run."""

    def __init__(self, idle: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.grouped = nn.Conv1d(4, 8, 3, groups=2)
        self.idle = nn.Linear(6, 6) if idle else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.grouped(self.second(self.first(self.first(x))))
        return y


def test_a_matrix_used_several_times_has_the_sum() -> None:
    """Samples of 4 vectors: three times 4; and 4 output positions in each of 2 groups."""
    model = Odd(idle=False)
    assert count_patches(model, (4, 6)) == {"first.weight": 12, "grouped.weight[0]": 4, "grouped.weight[1]": 4}
    assert list(count_patches(model, (4, 6))) == fastrank.RankTracker(model, None).names
    assert count_patches(nn.Linear(3, 2), (5, 3)) == {"weight": 5}


def test_what_cannot_be_counted_is_named() -> None:
    model = Odd(idle=True)
    with pytest.raises(NetworkError, match=r"^idle\.weight: its layer did not run"):
        count_patches(model, (4, 6))
    with pytest.raises(NetworkError, match=r"^sample_shape: Odd does not accept a sample of \(4, 5\)"):
        count_patches(model, (4, 5))
    assert not any(module._forward_hooks for module in model.modules())
    assert set(OPTIONS) == set(NETWORKS)
