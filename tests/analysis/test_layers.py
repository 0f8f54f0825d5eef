"""What names and shapes tell of a layer is what `fastrank.RankTracker` is told by the layer itself."""

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import fastrank
from fastrank import analyze
from fastrank.analysis.layers import as_layer, pieces, weights_in_use


def old(make: Callable[..., nn.Module], layer: nn.Module, *name: str) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # they are deprecated, and in many checkpoints
        return make(layer, *name)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "attention": lambda: nn.MultiheadAttention(8, 2),
    "attention with other keys": lambda: nn.MultiheadAttention(8, 2, kdim=4, vdim=6),
    "lstm": lambda: nn.LSTM(7, 5, num_layers=2, bidirectional=True),
    "lstm of few outputs": lambda: nn.LSTM(7, 6, proj_size=3),
    "lstm cell": lambda: nn.LSTMCell(4, 5),
    "gru": lambda: nn.GRU(6, 5),
    "gru cell": lambda: nn.GRUCell(3, 5),
    "rnn": lambda: nn.RNN(4, 5),
    "conv1d": lambda: nn.Conv1d(4, 6, 3),
    "conv2d": lambda: nn.Conv2d(4, 6, 3, bias=False),
    "conv3d": lambda: nn.Conv3d(2, 5, 3),
    "transposed conv1d": lambda: nn.ConvTranspose1d(4, 6, 3),
    "transposed conv2d": lambda: nn.ConvTranspose2d(6, 4, 3),
    "weight norm": lambda: parametrizations.weight_norm(nn.Conv1d(4, 6, 3)),
    "weight norm of the whole": lambda: parametrizations.weight_norm(nn.Linear(4, 6), dim=None),
    "weight norm of columns": lambda: parametrizations.weight_norm(nn.Linear(4, 6), dim=1),
    "old weight norm": lambda: old(nn.utils.weight_norm, nn.Linear(4, 6)),
    "old weight norm of gates": lambda: old(nn.utils.weight_norm, nn.LSTM(4, 5), "weight_hh_l0"),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(4, 6), n_power_iterations=9),
    "spectral norm, transposed": lambda: parametrizations.spectral_norm(nn.ConvTranspose2d(6, 4, 3)),
    "old spectral norm": lambda: old(nn.utils.spectral_norm, nn.Conv2d(4, 6, 3)),
    "pruned rows": lambda: prune.ln_structured(nn.Linear(6, 6), "weight", 3, n=2, dim=0),
    "pruned twice": lambda: prune.random_unstructured(
        prune.l1_unstructured(nn.Linear(6, 8), "weight", 0.5), "weight", 9
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_checkpoint_tells_what_its_model_does(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"layer": LAYERS[name]()}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:  # of rank 2 as PyTorch stores it
                left, right = torch.randn(parameter.shape[0], 2), torch.randn(2, parameter[0].numel())
                parameter.copy_((left @ right).view(parameter.shape))
    torch.save(model.state_dict(), tmp_path / "x.pt")
    tracker = fastrank.RankTracker(model, spectrum=("nuclear_norm",))
    tracker.step()
    found = analyze(tmp_path / "x.pt")
    assert sorted(found.name) == sorted(tracker.names)
    for row in found.to_dict("records"):
        known = tracker.latest()[row["name"]]
        assert [row[key] for key in ("rows", "cols", "rank_lower")] == [
            known[key] for key in ("rows", "cols", "rank_lower")
        ]
        assert row["nuclear_norm"] == pytest.approx(known["nuclear_norm"], rel=1e-5)


def test_what_a_weight_is_made_from_is_left_out_by_name(tmp_path: Path) -> None:
    model = nn.ModuleDict(
        {"a": LAYERS["weight norm"](), "b": LAYERS["old spectral norm"](), "c": LAYERS["pruned rows"]()}
    )
    torch.save(model.state_dict(), tmp_path / "x.pt")
    found = analyze(tmp_path / "x.pt")
    assert list(found.name) == ["a.weight", "b.weight", "c.weight"]
    parts = [f"a.parametrizations.weight.original{i} (part of a.weight)" for i in (0, 1)]
    parts += [f"b.weight_{role} (part of b.weight)" for role in ("orig", "u", "v")]
    parts += [f"c.weight_{role} (part of c.weight)" for role in ("orig", "mask")]
    assert found.attrs["left_out"] == [*parts, "3 vectors and scalars"]


def test_names_that_only_look_like_parts_stay_what_they_are() -> None:
    matrix = torch.eye(4)
    for tensors in (
        {"w_g": torch.eye(4), "w_v": matrix},  # no lengths of rows or columns
        {"w_g": torch.ones(4, 1), "w_v": torch.ones(4)},  # no matrix
        {"w_orig": matrix, "w_mask": torch.ones(4, 1)},
        {"w_orig": matrix, "w_u": torch.ones(3), "w_v": torch.ones(4)},
        {"w_orig": matrix},
        {"w": matrix, "w_g": torch.ones(4, 1), "w_v": matrix},  # the weight itself is there
        {"q_v": matrix, "q_u": matrix},
        {"parametrizations.w.original": matrix, "parametrizations.w.0.base": matrix},  # orthogonal
    ):
        assert weights_in_use(tensors) == ({}, {})


def test_a_kernel_is_told_by_its_axes_and_its_bias() -> None:
    def shape(*axes: int, name: str = "c.weight", **others: tuple[int, ...]) -> tuple[int, ...]:
        siblings = {f"c.{key}": torch.zeros(size) for key, size in others.items()}
        return tuple(as_layer(name, {name: torch.zeros(axes), **siblings}).shape)

    assert shape(6, 4) == shape(6, 4, bias=(6,)) == (6, 4)
    assert shape(6, 4, 3, bias=(6,)) == (6, 12)
    assert shape(6, 4, 3, bias=(4,)) == (4, 18)
    assert shape(6, 6, 3, bias=(6,)) == (6, 18)
    assert shape(6, 4, 3) == shape(6, 4, 3, bias=(9,)) == shape(6, 4, 3, bias=(6, 4)) == (6, 4, 3)
    assert shape(6, 4, 3, name="c.experts", bias=(6,)) == (6, 4, 3)
    assert shape(6, 4, 3, 2) == shape(6, 4, 3, 2, name="c.kernel") == (6, 24)
    assert shape(6, 4, 3, 2, 2, bias=(4,)) == (4, 72)


def test_pieces_are_told_by_names_and_shapes() -> None:
    def named(name: str, **shapes: tuple[int, ...]) -> tuple[str, ...]:
        return pieces(name, {key: torch.zeros(shape) for key, shape in shapes.items()})

    assert named("in_proj_weight", in_proj_weight=(12, 4)) == ("q", "k", "v")
    assert named("in_proj_weight", in_proj_weight=(12, 6)) == named("proj_weight", proj_weight=(12, 4)) == ()
    assert named("weight_ih_l0", weight_ih_l0=(12, 3), weight_hh_l0=(12, 4)) == ("r", "z", "n")
    assert named("weight_ih_l0", weight_ih_l0=(12, 3), weight_hh_l0=(12, 3)) == ("i", "f", "g", "o")
    assert named("weight_ih_l0", weight_ih_l0=(12, 3), weight_hh_l1=(12, 4)) == ()  # another layer's
    assert named("weight_ih", weight_ih=(13, 3), weight_hh=(13, 4)) == ()
    assert named("my_weight_ih", my_weight_ih=(12, 3), my_weight_hh=(12, 4)) == ()
