"""Networks: the paper's matrices by name and number, sizes they accept and refuse, parameters that follow the seed."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import fastrank
from fastrank.experiments.errors import UserError
from fastrank.experiments.networks.recipes import NETWORKS, NetworkError, build

CIFAR, FASHION, DIGITS = (3, 32, 32), (1, 28, 28), (1, 8, 8)

OPTIONS: dict[str, dict[str, int]] = {
    "mlp_bn": {"depth": 3, "width": 20},
    "mlp": {"depth": 3, "width": 20},
    "convnet": {"depth": 2, "width": 16},
    "resnet18": {},
    "vgg16_bn": {},
    "vit": {"depth": 2, "width": 32, "heads": 4, "patch": 4},
}

BLOCK = ("attention.q", "attention.k", "attention.v", "attention.out", "up", "down")

MATRICES: dict[str, list[str]] = {
    "mlp_bn": [f"layers.{i}" for i in range(3)],
    "mlp": [f"layers.{i}" for i in range(3)],
    "convnet": [f"layers.{i}" for i in range(4)],
    "resnet18": ["stem", *(f"blocks.{i}.conv{j}" for i in range(8) for j in (1, 2))],
    "vgg16_bn": [f"layers.{i}" for i in range(13)],
    "vit": ["embed", *(f"blocks.{i}.{layer}" for i in range(2) for layer in BLOCK)],
}


def network(name: str, shape: tuple[int, int, int], seed: int = 0, **options: Any) -> nn.Module:
    return build(name, shape=shape, classes=10, seed=seed, **OPTIONS[name] | options)


@pytest.mark.parametrize(
    ("name", "options", "parameters", "matrices", "full_rank"),
    [
        # parameters as the paper's code counts them; the means of ResNet and VGG are its full ranks
        ("resnet18", {}, 11_173_962, 17, 227.47),
        ("vgg16_bn", {}, 14_728_266, 13, 322.08),
        ("mlp_bn", {"depth": 10, "width": 100}, 401_210, 10, 100.0),
        ("mlp", {"depth": 5, "width": 500}, 2_543_510, 5, 500.0),
        # first matrix 16 x 12; by hand: 208 + 1040 + 2*2320 for the convolutions, 4*32 norms, 10250 head
        ("convnet", {}, 16_266, 4, 15.0),
        # embed 32 x 48; by hand: 1568 + 32 + 65*32 + 2*(4*1056 + 4224 + 4128 + 128) + 64 + 330
        ("vit", {}, 29_482, 13, 32.0),
    ],
)
def test_sizes_of_the_paper(
    name: str, options: dict[str, int], parameters: int, matrices: int, full_rank: float
) -> None:
    model = network(name, CIFAR, **options)
    tracker = fastrank.RankTracker(model, None, select="paper")
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert len(tracker.names) == matrices
    assert round(tracker.full_rank, 2) == full_rank


@pytest.mark.parametrize("name", NETWORKS)
def test_the_matrices_the_paper_selects(name: str) -> None:
    model = network(name, CIFAR)
    tracker = fastrank.RankTracker(model, None, select="paper")
    assert tracker.names == [f"{layer}.weight" for layer in MATRICES[name]]
    left_out = {row.name: row.reason for row in tracker.coverage() if not row.matrices and len(row.shape) > 1}
    assert left_out.pop("head.weight") == "(classifier head)"
    shortcuts = [f"blocks.{i}.shortcut.0.weight" for i in (2, 4, 6)] if name == "resnet18" else []
    assert left_out == dict.fromkeys(shortcuts, "(1x1 shortcut convolution)")
    assert [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1] is model.head


@pytest.mark.parametrize("shape", [CIFAR, FASHION, DIGITS])
@pytest.mark.parametrize("name", NETWORKS)
def test_logits(name: str, shape: tuple[int, int, int]) -> None:
    if (name, shape) == ("vgg16_bn", DIGITS):
        with pytest.raises(NetworkError, match="at least 17 x 17 pixels, not 8 x 8"):
            network(name, shape)
        return
    logits = network(name, shape)(torch.randn(2, *shape))
    assert logits.shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("resnet18", (2, 5, 6)),
        ("vgg16_bn", (2, 17, 40)),
        ("convnet", (2, 4, 8)),
        ("vit", (2, 4, 8)),
        ("mlp", (2, 1, 1)),
    ],
)
def test_the_smallest_images(name: str, shape: tuple[int, int, int]) -> None:
    assert network(name, shape)(torch.randn(2, *shape)).isfinite().all()


@pytest.mark.parametrize("name", NETWORKS)
def test_training_reaches_every_matrix_and_lowers_the_loss(name: str) -> None:
    shape = FASHION if name == "vgg16_bn" else DIGITS
    model = network(name, shape)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(6, *shape, generator=generator), torch.arange(6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        gradients = {n: p.grad for n, p in model.named_parameters()}
        assert all(g is not None and g.isfinite().all() for g in gradients.values())
    assert losses == sorted(losses, reverse=True)
    assert losses[2] < losses[0]
    # at the second step at the latest: the first finds the head of the ViT at zero
    assert not [n for n, p in model.named_parameters() if p.ndim > 1 and not p.grad.any()]


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_depend_on_the_seed_alone(name: str) -> None:
    def bits(global_seed: int, seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        state = network(name, FASHION, seed=seed).state_dict()
        assert torch.equal(torch.get_rng_state(), before)
        return state

    first, again, other = bits(1, 7), bits(2, 7), bits(1, 8)
    assert all(torch.equal(first[key], again[key]) for key in first)
    random = [f"{layer}.weight" for layer in MATRICES[name]]
    assert not [key for key in random if torch.equal(first[key], other[key])]


def test_generators_of_devices_are_not_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(seed: int) -> None:
        raise AssertionError("a device was seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    with pytest.raises(AssertionError, match="a device"):
        torch.manual_seed(0)
    network("mlp", DIGITS)


def test_the_device() -> None:
    """Shapes without values on meta; elsewhere the CPU's values, whatever the caller's default device."""
    planned = network("vit", CIFAR, device="meta")
    assert {p.device.type for p in planned.parameters()} == {"meta"}
    assert {n: p.shape for n, p in planned.named_parameters()} == {
        n: p.shape for n, p in network("vit", CIFAR).named_parameters()
    }
    with torch.device("meta"):
        model = network("mlp", DIGITS)
    assert torch.equal(model.head.weight, network("mlp", DIGITS).head.weight)


BAD: dict[str, tuple[str, dict[str, Any], str]] = {
    "name": ("mpl", {}, "name: unknown network 'mpl'; known: mlp_bn, mlp, convnet"),
    "missing": ("vit", {"depth": 1, "width": 8, "heads": 2}, "patch: is missing; vit needs depth, width, heads, patch"),
    "unknown": ("resnet18", {"depth": 3}, "depth: resnet18 has no such option; remove it (its options: none)"),
    "foreign": ("mlp", {"depth": 1, "width": 8, "heads": 2}, "heads: mlp has no such option"),
    "zero": ("mlp_bn", {"depth": 0, "width": 8}, "depth: must be an integer of at least 1, not 0"),
    "float": ("convnet", {"depth": 1, "width": 8.0}, "width: must be an integer of at least 1, not 8.0"),
    "bool": ("mlp", {"depth": True, "width": 8}, "depth: must be an integer of at least 1, not True"),
    "classes": ("mlp", {"depth": 1, "width": 8, "classes": 0}, "classes: must be an integer of at least 1"),
    "seed": ("mlp", {"depth": 1, "width": 8, "seed": -1}, "seed: must be an integer of at least 0"),
    "flat": ("mlp", {"depth": 1, "width": 8, "shape": (64,)}, "shape: must be channels, height and width, not (64,)"),
    "empty": ("mlp", {"depth": 1, "width": 8, "shape": (3, 0, 8)}, "shape[1]: must be an integer of at least 1"),
    "convnet": ("convnet", {"depth": 1, "width": 8, "shape": (1, 30, 28)}, "name: convnet halves an image twice"),
    "resnet": ("resnet18", {"shape": (3, 4, 32)}, "name: resnet18 needs images of at least 5 x 5 pixels, not 4 x 32"),
    "vgg": ("vgg16_bn", {"shape": (3, 32, 16)}, "name: vgg16_bn needs images of at least 17 x 17 pixels, not 32 x 16"),
    "heads": ("vit", {"depth": 1, "width": 10, "heads": 4, "patch": 4}, "width: 10 is not a multiple of the 4 heads"),
    "patch": (
        "vit",
        {"depth": 1, "width": 8, "heads": 2, "patch": 5, "shape": (1, 28, 28)},
        "patch: 5 does not divide both sides of 28 x 28 pixels; use one of 2, 4, 7, 14, 28",
    ),
    "no patch": ("vit", {"depth": 1, "width": 8, "heads": 2, "patch": 2, "shape": (1, 7, 8)}, "patch: 2 does not"),
    "patch of one": (
        "vit",
        {"depth": 1, "width": 8, "heads": 2, "patch": 1},
        "patch: must be an integer of at least 2",
    ),
}


@pytest.mark.parametrize(("name", "options", "message"), BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_does_not_work_is_named(name: str, options: dict[str, Any], message: str, device: str) -> None:
    before = torch.get_rng_state()
    with pytest.raises(NetworkError) as caught:
        build(name, **{"shape": CIFAR, "classes": 10, "seed": 0, "device": device} | options)
    assert str(caught.value).startswith(message)
    assert isinstance(caught.value, UserError)
    assert torch.equal(torch.get_rng_state(), before)
