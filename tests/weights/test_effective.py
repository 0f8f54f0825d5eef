"""The weight that a layer uses: read as it is now, under its own name, and without a trace."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm
from torch.nn.utils.parametrize import is_parametrized

from fastrank import SGD, RankTracker
from fastrank.linalg import rank_bounds
from fastrank.weights.effective import make_weight


class Symmetric(nn.Module):
    def forward(self, x):
        return x.triu() + x.triu(1).mT


class Counting(nn.Module):
    """Changes a buffer and draws from the global generator whenever it is evaluated, in evaluation too."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return x * (torch.rand_like(x) < 2)


class LowRankUpdate(nn.Module):
    """A parametrization with parameters of its own, as LoRA is sometimes written."""

    def __init__(self, rows, cols):
        super().__init__()
        self.down = nn.Parameter(torch.randn(1, cols))
        self.up = nn.Parameter(torch.randn(rows, 1))

    def forward(self, x):
        return x + self.up @ self.down


class Same(nn.Module):
    def forward(self, x):
        return x


def register(module):
    return lambda layer: parametrize.register_parametrization(layer, "weight", module(layer))


def prune_rows(layer):
    prune.ln_structured(layer, "weight", amount=3, n=2, dim=0)
    return layer


def prune_twice(layer):
    prune.l1_unstructured(layer, "weight", amount=0.3)
    return prune_rows(layer)


KINDS = {
    "weight_norm": parametrizations.weight_norm,
    "weight_norm over columns": lambda layer: parametrizations.weight_norm(layer, dim=1),
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "cayley": lambda layer: parametrizations.orthogonal(layer, orthogonal_map="cayley"),
    "symmetric": register(lambda layer: Symmetric()),
    "two in a row": lambda layer: parametrizations.spectral_norm(register(lambda _: Symmetric())(layer)),
    "counting": register(lambda layer: Counting()),
    "with parameters": register(lambda layer: LowRankUpdate(*layer.weight.shape)),
    "none": register(lambda layer: Same()),
    "older weight_norm": weight_norm,
    "older weight_norm of all": lambda layer: weight_norm(layer, dim=None),
    "older spectral_norm": spectral_norm,
    "pruned": prune_rows,
    "pruned twice": prune_twice,
}
pytestmark = pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")


def network(kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Tanh(), nn.Linear(6, 6))
    KINDS[kind](model[2])
    return model


def train(model, steps, tracker=None, make=torch.optim.SGD):
    optimizer = make(model.parameters(), lr=0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(5, 6, generator=generator)).square().mean().backward()
        optimizer.step()
        if tracker is not None:
            tracker.step()


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_tracked_under_its_own_name_as_the_layer_uses_it(kind):
    model = network(kind).eval()
    tracker = RankTracker(model, spectrum=["singular_values"])
    assert tracker.names == ["0.weight", "2.weight"]
    tracker.step()
    model(torch.randn(5, 6))  # the older hooks make the weight here
    row = tracker.latest()["2.weight"]
    used = model[2].weight.detach()
    assert row["singular_values"] == pytest.approx(torch.linalg.svdvals(used.double()).tolist(), abs=1e-6)
    assert row["rank_lower"] == row["rank_upper"] == rank_bounds(used).lower


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", KINDS)
def test_reading_it_changes_no_bit_of_training(kind, when):
    """With a tracker made before the layer is parametrized, or after; every buffer and the generator included."""
    untracked = network(kind)
    train(untracked, 6)
    after = torch.get_rng_state()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Tanh(), nn.Linear(6, 6))
    tracker = RankTracker(model, spectrum=["nuclear_norm"]) if when == "before" else None
    KINDS[kind](model[2])
    tracker = tracker or RankTracker(model, spectrum=["nuclear_norm"])
    train(model, 6, tracker)
    assert torch.equal(torch.get_rng_state(), after)
    assert tracker.to_arrow().num_rows == 12
    for (name, expected), (other, got) in zip(untracked.state_dict().items(), model.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(expected, got), name
    assert [m.training for m in untracked.modules()] == [m.training for m in model.modules()]


@pytest.mark.parametrize("kind", KINDS)
def test_a_followed_optimizer_trains_the_same(kind):
    plain, tracked = network(kind), network(kind)
    train(plain, 4)
    optimizer = SGD(tracked.parameters(), lr=0.1, momentum=0.9)
    with RankTracker(tracked, optimizer) as tracker:
        train(tracked, 4, make=lambda *args, **kwargs: optimizer)
    assert tracker.to_pandas().step.unique().tolist() == [1, 2, 3, 4]
    for name, expected in plain.state_dict().items():
        assert torch.equal(expected, tracked.state_dict()[name]), name


@pytest.mark.parametrize("kind", ["weight_norm", "symmetric", "older weight_norm", "pruned"])
def test_it_is_this_steps_weight_and_not_the_last_forwards(kind):
    model = network(kind).eval()
    model(torch.randn(5, 6))
    tracker = RankTracker(model, include=["2.weight"])
    with torch.no_grad():
        for parameter in model[2].parameters():
            parameter.zero_()
            parameter.diagonal().fill_(1.0) if parameter.ndim == 2 else None
    tracker.step()
    assert tracker.latest()["2.weight"]["frobenius_norm"] == pytest.approx(
        make_weight(model[2], "weight").norm().item()
    )
    model(torch.randn(5, 6))
    assert tracker.latest()["2.weight"]["frobenius_norm"] == pytest.approx(model[2].weight.norm().item(), rel=1e-6)


def test_a_weight_of_low_rank_in_a_direction_of_full_rank():
    layer = parametrizations.weight_norm(nn.Linear(20, 10))
    with torch.no_grad():
        layer.parametrizations.weight.original0[1:] *= 1e-6
    tracker = RankTracker(layer)
    tracker.step()
    assert tracker.latest()["weight"]["rank_upper"] == 1


@pytest.mark.parametrize(
    "make", [parametrizations.weight_norm, parametrizations.spectral_norm, weight_norm, prune_rows]
)
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: nn.Conv1d(6, 8, 3), (8, 18)),
        (lambda: nn.Conv2d(6, 8, 3), (8, 54)),
        (lambda: nn.ConvTranspose2d(6, 8, 3), (8, 54)),
    ],
)
def test_a_layers_type_sees_it_like_a_plain_weight(make, layer, shape):
    tracker = RankTracker(make(layer()), types=[nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d])
    tracker.step()
    assert {name: (row["rows"], row["cols"]) for name, row in tracker.latest().items()} == {"weight": shape}


def test_choices_treat_it_like_a_plain_weight():
    model = nn.Sequential(
        parametrizations.weight_norm(nn.Conv2d(3, 4, 3)),
        parametrizations.spectral_norm(nn.Conv2d(4, 4, 1)),
        parametrizations.weight_norm(nn.Linear(4, 4)),
        weight_norm(nn.Linear(4, 2)),
    )
    assert RankTracker(model, select="paper").names == ["0.weight", "2.weight"]
    assert RankTracker(model, types=nn.Linear).names == ["2.weight", "3.weight"]
    assert RankTracker(model, include=["0.*"]).names == ["0.weight"]


def test_the_coverage_names_what_it_is_made_from():
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 3)), prune_rows(nn.Linear(3, 4)))
    table = {c.name: c for c in RankTracker(model).coverage()}
    assert (table["0.weight"].module, table["0.weight"].matrices) == ("Linear", ("0.weight",))
    assert table["0.parametrizations.weight.original1"].reason == "(0.weight is made from it)"
    assert table["1.weight_orig"].reason == "(1.weight is made from it)"


def test_stored_tensors_on_request():
    model = nn.Sequential(parametrizations.weight_norm(nn.Conv1d(4, 3, 5)), prune_rows(nn.Linear(3, 4)))
    tracker = RankTracker(model, weights="raw")
    tracker.step()
    assert {name: (row["rows"], row["cols"]) for name, row in tracker.latest().items()} == {
        "0.parametrizations.weight.original0": (3, 1),
        "0.parametrizations.weight.original1": (3, 20),
        "1.weight_orig": (4, 3),
    }
    assert tracker.latest()["1.weight_orig"]["rank_lower"] == 3
    assert RankTracker(model, weights="raw", types=nn.Conv1d).names[0] == "0.parametrizations.weight.original0"
    with pytest.raises(ValueError, match="weights: expected one of 'effective', 'raw', not 'both'"):
        RankTracker(model, weights="both")


def test_a_parametrization_that_is_removed_again_is_followed():
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 3)), prune_rows(nn.Linear(6, 6)))
    tracker = RankTracker(model)
    tracker.step()
    before = {name: row["frobenius_norm"] for name, row in tracker.latest().items()}
    parametrize.remove_parametrizations(model[0], "weight")
    prune.remove(model[1], "weight")
    tracker.step()
    assert not is_parametrized(model[0])
    assert {n: row["frobenius_norm"] for n, row in tracker.latest().items()} == pytest.approx(before, rel=1e-6)


def test_a_cached_weight_is_not_the_one_that_is_read():
    """`parametrize.cached` keeps what was first made inside it, for a forward pass that uses a weight several times."""
    layer = parametrizations.weight_norm(nn.Linear(4, 3))
    tracker = RankTracker(layer)
    with parametrize.cached():
        assert layer.weight.norm() > 0
        with torch.no_grad():
            layer.parametrizations.weight.original0.zero_()
        tracker.step()
    assert tracker.latest()["weight"]["rank_upper"] == 0


def test_the_lasting_copy_of_a_model_is_read_by_itself():
    """A deep copy has hooks and buffers of its own, as an average of the weights (EMA) has."""
    model = spectral_norm(nn.Linear(4, 4))
    twin = copy.deepcopy(model)
    tracker = RankTracker(twin)
    with torch.no_grad():
        model.weight_orig.zero_()
    tracker.step()
    assert tracker.latest()["weight"]["rank_lower"] == 4
