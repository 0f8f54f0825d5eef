"""Which parameters are tracked, as which matrices, under which names."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastrank import RankTracker
from fastrank.weights.layers import matrices_of


class Block(nn.Module):
    """As in a ResNet: a 3 x 3 convolution and a 1 x 1 shortcut."""

    def __init__(self, c_in, c_out):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 3)
        self.shortcut = nn.Conv2d(c_in, c_out, 1)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(Block(3, 8), Block(8, 4))
        self.signal = nn.Conv1d(2, 5, 7)
        self.experts = nn.Parameter(torch.randn(3, 4, 6))
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 10)


def shapes(tracker):
    tracker.step()
    return shapes_of(tracker)


def shapes_of(tracker):
    return {name: (row["rows"], row["cols"]) for name, row in tracker.latest().items()}


ALL = {
    "experts[0]": (4, 6),
    "experts[1]": (4, 6),
    "experts[2]": (4, 6),
    "blocks.0.conv.weight": (8, 27),
    "blocks.0.shortcut.weight": (8, 3),
    "blocks.1.conv.weight": (4, 72),
    "blocks.1.shortcut.weight": (4, 8),
    "signal.weight": (5, 14),
    "head.weight": (10, 6),
}


def test_convolutions_stacks_and_linear_layers():
    assert shapes(RankTracker(Network())) == ALL


def test_the_numbers_are_those_of_the_documented_view():
    model = Network()
    tracker = RankTracker(model)
    tracker.step()
    latest = tracker.latest()
    kernel = model.blocks[0].conv.weight.detach()
    sigma = torch.linalg.matrix_norm(kernel.double().reshape(8, 27), 2).item()
    assert latest["blocks.0.conv.weight"]["spectral_norm"] == pytest.approx(sigma)
    for i in range(3):
        sigma = torch.linalg.matrix_norm(model.experts[i].detach().double(), 2).item()
        assert latest[f"experts[{i}]"]["spectral_norm"] == pytest.approx(sigma)


def test_a_kernel_in_channels_last_memory_is_the_same_matrix():
    model = Network()
    before = RankTracker(model, include=["*conv*"])
    before.step()
    after = RankTracker(model.to(memory_format=torch.channels_last), include=["*conv*"])
    after.step()
    for name, row in before.latest().items():
        assert row["frobenius_norm"] == pytest.approx(after.latest()[name]["frobenius_norm"], rel=1e-14)
        assert row["spectral_norm"] == pytest.approx(after.latest()[name]["spectral_norm"], rel=1e-14)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"select": "paper"}, set(ALL) - {"head.weight", "blocks.0.shortcut.weight", "blocks.1.shortcut.weight"}),
        ({"include": ["blocks.*"]}, {n for n in ALL if n.startswith("blocks")}),
        ({"include": ["blocks.*"], "exclude": ["*shortcut*"]}, {"blocks.0.conv.weight", "blocks.1.conv.weight"}),
        ({"types": [nn.Linear, nn.Conv1d]}, {"signal.weight", "head.weight"}),
        ({"types": nn.Linear}, {"head.weight"}),
        ({"types": "Linear"}, {"head.weight"}),
        ({"types": ["Linear", nn.Conv1d]}, {"signal.weight", "head.weight"}),
        ({"types": ["_ConvNd"]}, {n for n in ALL if "conv" in n or "shortcut" in n or "signal" in n}),
        ({"exclude": ["experts"]}, {n for n in ALL if "experts" not in n}),
    ],
)
def test_selection(options, kept):
    assert set(RankTracker(Network(), **options).names) == kept


@pytest.mark.parametrize(
    ("types", "error", "message"),
    [
        (["Linaer"], ValueError, r"types: no module of the model is a 'Linaer'; there are Block, Conv1d, "),
        ([3], TypeError, r"types: expected module types, or their names, not 3"),
        ([torch.Tensor], TypeError, r"types: expected module types"),
        (3, TypeError, r"types: expected module types"),
    ],
)
def test_a_type_that_is_none_is_named(types, error, message):
    with pytest.raises(error, match=message):
        RankTracker(Network(), types=types)


def test_a_tied_parameter_is_tracked_once_and_the_table_says_so():
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9, bias=False))
    model[1].weight = model[0].weight
    tracker = RankTracker(model)
    assert tracker.names == ["0.weight"]
    assert tracker.coverage()[1].reason == "(the same parameter as 0.weight)"


class Language(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte, self.h = nn.Embedding(9, 4), nn.Linear(4, 4)
        self.lm_head = nn.Linear(4, 9, bias=False)
        self.lm_head.weight = self.wte.weight


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["wte.weight", "h.weight"]),
        ({"types": [nn.Linear]}, ["h.weight", "lm_head.weight"]),
        ({"types": [nn.Embedding]}, ["wte.weight"]),
        ({"include": ["lm_head.*"]}, ["lm_head.weight"]),
        ({"exclude": ["wte.*"]}, ["h.weight", "lm_head.weight"]),
        ({"exclude": ["lm_head.*"]}, ["wte.weight", "h.weight"]),
        ({"select": "paper"}, ["wte.weight", "h.weight"]),
    ],
)
def test_a_tied_weight_is_tracked_if_any_of_its_names_is_chosen(options, names):
    assert RankTracker(Language(), **options).names == names


def test_a_tied_weight_that_is_made_is_tracked_once():
    model = Language()
    torch.nn.utils.parametrizations.weight_norm(model.wte)
    model.lm_head = model.wte
    tracker = RankTracker(model)
    assert tracker.names == ["wte.weight", "h.weight"]
    assert [c.reason for c in tracker.coverage() if c.name == "lm_head.weight"] == [
        "(the same parameter as wte.weight)"
    ]


def test_a_module_that_is_tied_may_be_chosen_by_its_second_name():
    layer = nn.Linear(4, 4)
    model = nn.ModuleDict({"a": layer, "b": nn.Sequential(layer)})
    assert RankTracker(model, include=["b.*"]).names == ["b.0.weight"]


def test_modules_that_hold_each_other_are_walked_through_once():
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].parent = model
    assert RankTracker(model).names == ["0.weight"]


def test_a_module_used_twice_is_tracked_once():
    layer = nn.Linear(4, 4)
    assert RankTracker(nn.Sequential(layer, nn.ReLU(), layer)).names == ["0.weight"]


def test_coverage_table():
    table = RankTracker(Network(), select="paper").coverage()
    assert repr(table) == str(table), "a notebook shows the one, print the other"
    lines = str(table).splitlines()
    assert lines[0].split() == ["parameter", "shape", "module", "tracked", "as"]
    by_name = {line.split()[0]: line for line in lines[1:]}
    assert by_name["experts"].split()[1:] == ["3x4x6", "Network", "3", "matrices", "[0]", "[1]", "[2]"]
    assert by_name["blocks.0.conv.weight"].split()[1:] == ["8x3x3x3", "Conv2d", "1", "matrix"]
    assert by_name["head.weight"].endswith("- (classifier head)")
    assert by_name["blocks.1.shortcut.weight"].endswith("- (1x1 shortcut convolution)")
    assert by_name["norm.weight"].endswith("- (not a matrix)")


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        lambda m: torch.compile(m, backend="eager"),
        lambda m: nn.DataParallel(torch.compile(m, backend="eager")),
        torch.optim.swa_utils.AveragedModel,
    ],
    ids=["DataParallel", "compile", "both", "AveragedModel"],
)
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_wrappers_leave_no_trace_in_names(wrap):
    assert RankTracker(wrap(Network())).names == list(ALL)


def test_activation_checkpointing_leaves_no_trace_and_loses_no_history():
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing

    model = Network()
    tracker = RankTracker(model)
    tracker.step()
    apply_activation_checkpointing(model, check_fn=lambda module: isinstance(module, nn.Linear | Block))
    tracker.step()  # the layers are found again inside their wrappers
    assert list(tracker.latest()) == list(ALL)
    resumed = RankTracker(model)
    resumed.load_state_dict(tracker.state_dict())
    assert resumed.latest() == tracker.latest()


class Fabric(nn.Module):
    """Holds the model twice, as Lightning Fabric's wrapper does: as it was, and as the strategy has wrapped it."""

    def __init__(self, model):
        super().__init__()
        self._forward_module, self._original_module = nn.DataParallel(model), model


def test_a_wrapper_that_holds_the_model_twice():
    assert RankTracker(Fabric(Network())).names == list(ALL)


def test_names_that_only_a_wrappers_word_tells_apart_are_kept():
    model = nn.ModuleDict({"module": nn.Linear(2, 2)})
    model.register_module("weight_owner", nn.Linear(2, 2))
    inner = nn.Module()
    inner.module = nn.Linear(2, 3)
    inner.weight = nn.Parameter(torch.ones(2, 2))
    assert sorted(RankTracker(inner).names) == ["module.weight", "weight"]


def test_a_parameter_without_elements_has_rank_zero():
    model = nn.Module()
    model.empty = nn.Parameter(torch.empty(0, 5))
    model.full = nn.Parameter(torch.eye(3))
    tracker = RankTracker(model, spectrum=["singular_values"])
    tracker.step()
    row = tracker.latest()["empty"]
    assert (row["rank_lower"], row["rank_upper"], row["stable_rank"], row["frobenius_norm"]) == (0, 0, 0.0, 0.0)
    assert row["singular_values"] == []
    assert tracker.latest()["full"]["rank_lower"] == 3


@pytest.mark.parametrize("make", [nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d])
def test_a_kernel_in_channels_last_format_is_not_copied(make):
    layer = make(6, 10, 3)
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    plain = matrices_of(layer.weight.detach(), layer, "weight")[""]
    layer = layer.to(memory_format=formats[layer.weight.ndim])
    (view,) = matrices_of(layer.weight.detach(), layer, "weight").values()
    assert view.data_ptr() == layer.weight.data_ptr()
    assert view.shape == plain.shape
    assert torch.allclose(torch.linalg.svdvals(view), torch.linalg.svdvals(plain))
