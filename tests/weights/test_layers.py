"""Layers whose weight is several matrices, and weights that `split` cuts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastrank import RankTracker
from fastrank.weights.layers import check_split, matrices_of


def ranks(model, **options):
    tracker = RankTracker(model, **options)
    tracker.step()
    return {name: row["rank_lower"] for name, row in tracker.latest().items()}


def shapes(model, **options):
    tracker = RankTracker(model, **options)
    tracker.step()
    return {name: (row["rows"], row["cols"]) for name, row in tracker.latest().items()}


@torch.no_grad()
def test_a_query_of_rank_one_shows():
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(16, 2)
    layer.in_proj_weight[:16] = torch.outer(torch.randn(16), torch.randn(16))
    assert ranks(layer) == {
        **{"in_proj_weight[q]": 1, "in_proj_weight[k]": 16, "in_proj_weight[v]": 16},
        "out_proj.weight": 16,
    }


def test_attention_with_other_sizes_and_biases():
    layer = nn.MultiheadAttention(16, 2, kdim=8, vdim=4, add_bias_kv=True)
    found = {"q_proj_weight": (16, 16), "k_proj_weight": (16, 8), "v_proj_weight": (16, 4), "out_proj.weight": (16, 16)}
    assert shapes(layer) == found
    table = {c.name: c.reason for c in RankTracker(layer).coverage()}
    assert table["bias_k"] == "(not a matrix)"


@pytest.mark.parametrize(
    ("layer", "labels"),
    [
        (nn.LSTM(5, 7), "ifgo"),
        (nn.LSTMCell(5, 7), "ifgo"),
        (nn.GRU(5, 7), "rzn"),
        (nn.GRUCell(5, 7), "rzn"),
    ],
)
def test_a_recurrent_layers_gates(layer, labels):
    found = shapes(layer)
    suffix = "" if "Cell" in type(layer).__name__ else "_l0"
    assert found == {
        **{f"weight_ih{suffix}[{label}]": (7, 5) for label in labels},
        **{f"weight_hh{suffix}[{label}]": (7, 7) for label in labels},
    }


def test_recurrent_layers_without_gates_projections_directions_and_depth():
    assert shapes(nn.RNN(5, 7)) == {"weight_ih_l0": (7, 5), "weight_hh_l0": (7, 7)}
    assert shapes(nn.RNNCell(5, 7)) == {"weight_ih": (7, 5), "weight_hh": (7, 7)}
    found = shapes(nn.LSTM(5, 7, num_layers=2, bidirectional=True, proj_size=3))
    assert found["weight_hh_l1_reverse[o]"] == (7, 3)
    assert found["weight_ih_l1[i]"] == (7, 6)
    assert found["weight_hr_l0"] == (3, 7)
    assert len(found) == 2 * 2 * (4 + 4 + 1)


@torch.no_grad()
def test_a_gate_is_its_rows_of_the_weight():
    layer = nn.LSTM(9, 6)
    layer.weight_ih_l0[6:12] = 0.0  # the forget gate
    assert [ranks(layer)[f"weight_ih_l0[{gate}]"] for gate in "ifgo"] == [6, 0, 6, 6]


@torch.no_grad()
def test_a_grouped_convolution_is_its_groups():
    layer = nn.Conv2d(8, 16, 3, groups=4)
    layer.weight[4:] = layer.weight[:4].repeat(3, 1, 1, 1)
    assert ranks(layer) == {f"weight[{i}]": 4 for i in range(4)}
    assert shapes(layer)["weight[3]"] == (4, 18)
    assert shapes(nn.Conv1d(6, 6, 5, groups=6)) == {f"weight[{i}]": (1, 5) for i in range(6)}
    assert shapes(nn.Conv3d(4, 2, 2, groups=2)) == {f"weight[{i}]": (1, 16) for i in range(2)}


@pytest.mark.parametrize(
    ("make", "spatial"), [(nn.ConvTranspose1d, 1), (nn.ConvTranspose2d, 2), (nn.ConvTranspose3d, 3)]
)
@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_convolution_has_output_channels_as_rows(make, spatial, groups):
    layer = make(6, 10, 3, groups=groups)
    found = matrices_of(layer.weight.detach(), layer, "weight")
    assert {tuple(m.shape) for m in found.values()} == {(10 // groups, 6 // groups * 3**spatial)}
    # As an ordinary convolution from 10 channels to 6, with the axes of the channels exchanged.
    for i, matrix in enumerate(found.values()):
        block = layer.weight.detach()[6 // groups * i : 6 // groups * (i + 1)]
        expected = torch.linalg.svdvals(block.transpose(0, 1).reshape(10 // groups, -1))
        assert torch.allclose(torch.linalg.svdvals(matrix), expected, atol=1e-6)


def test_leading_axes_are_a_stack_and_never_flattened():
    model = nn.Module()
    model.experts = nn.Parameter(torch.randn(2, 3, 4, 5))
    model.one = nn.Parameter(torch.randn(1, 4, 5))
    found = shapes(model)
    assert found == {**{f"experts[{e},{f}]": (4, 5) for e in range(2) for f in range(3)}, "one[0]": (4, 5)}
    model = nn.Module()
    model.none = nn.Parameter(torch.randn(0, 4, 5))
    with pytest.raises(ValueError, match=r"nothing to track(.|\n)*a stack of no matrices"):
        RankTracker(model)


SPLITS = {
    "equal": ((3, 1), {"w[0]": (4, 2), "w[1]": (4, 2), "w[2]": (4, 2)}),
    "equal from the end": ((3, -1), {"w[0]": (4, 2), "w[1]": (4, 2), "w[2]": (4, 2)}),
    "named": (("qkv", 1), {"w[q]": (4, 2), "w[k]": (4, 2), "w[v]": (4, 2)}),
    "named with words": ((("gate", "up"), 0), {"w[gate]": (2, 6), "w[up]": (2, 6)}),
    "sizes": (((4, 1, 1), 1), {"w[0]": (4, 4), "w[1]": (4, 1), "w[2]": (4, 1)}),
    "whole": ((1, 0), {"w": (4, 6)}),
}


@pytest.mark.parametrize("kind", SPLITS)
def test_split_cuts_a_fused_projection(kind):
    split, expected = SPLITS[kind]
    model = nn.Module()
    model.w = nn.Parameter(torch.randn(4, 6))
    assert shapes(model, split={"*w": split}) == expected


def test_split_takes_the_place_of_what_the_layer_says():
    assert shapes(nn.MultiheadAttention(4, 2), split={"in_proj*": (1, 0)})["in_proj_weight"] == (12, 4)
    assert shapes(nn.Conv2d(4, 6, 3, groups=2), split={"weight": (1, 0)}) == {"weight": (6, 18)}
    fused = nn.Conv2d(4, 12, 1)
    assert shapes(fused, split={"weight": ("qkv", 0)}) == {f"weight[{x}]": (4, 4) for x in "qkv"}
    stack = nn.Module()
    stack.w = nn.Parameter(torch.randn(2, 4, 6))
    assert shapes(stack, split={"w": (2, 2)}) == {f"w[{part},{e}]": (4, 3) for part in range(2) for e in range(2)}


@pytest.mark.parametrize(
    ("split", "error", "message"),
    [
        ({"v": (3, 0)}, ValueError, r"split: no weight of the model matches 'v'"),
        (
            {"w": (4, 1)},
            ValueError,
            r"split: parameter 'w' of shape \(4, 6\) cannot be cut into 4 equal parts along axis 1",
        ),
        ({"w": ((3, 2), 1)}, ValueError, r"cannot be cut into parts of 3, 2 along axis 1"),
        ({"w": (2, 2)}, ValueError, r"has no axis 2"),
        ({"w": (0, 1)}, ValueError, r"cut into no parts"),
        ({"w": ("qq", 1)}, ValueError, r"a name twice"),
        ({"w": ((3, 0), 1)}, ValueError, r"no length"),
        ({"w": 3}, TypeError, r"expected \(parts, axis\) for 'w'"),
        ({"w": (True, 1)}, TypeError, r"expected \(parts, axis\)"),
        ({"w": (3, "rows")}, TypeError, r"expected \(parts, axis\)"),
        ({"w": (2.0, 1)}, TypeError, r"expected \(parts, axis\)"),
        ([("w", (3, 1))], TypeError, r"expected a dict"),
    ],
)
def test_a_bad_split_is_named(split, error, message):
    model = nn.Module()
    model.w = nn.Parameter(torch.randn(4, 6))
    with pytest.raises(error, match=message):
        RankTracker(model, split=split)


def test_a_split_that_no_longer_fits_is_named():
    model = nn.Module()
    model.w = nn.Parameter(torch.randn(4, 6))
    tracker = RankTracker(model, split={"w": (3, 1)})
    model.w = nn.Parameter(torch.randn(4, 7))
    with pytest.raises(RuntimeError, match=r"tracked split: parameter 'w' of shape \(4, 7\)"):
        tracker.step()


def test_the_first_glob_that_matches_counts():
    assert list(check_split({"a*": (2, 0), "*": (3, 0)})) == ["a*", "*"]
    model = nn.ParameterDict({"ab": torch.randn(6, 6), "b": torch.randn(6, 6)})
    assert len(RankTracker(model, split={"a*": (2, 0), "*": (3, 0)}).names) == 2 + 3


def test_matrices_share_the_memory_of_the_weight_where_strides_allow():
    layer = nn.LSTM(5, 7)
    for matrix in matrices_of(layer.weight_ih_l0.detach(), layer, "weight_ih_l0").values():
        assert matrix.untyped_storage().data_ptr() == layer.weight_ih_l0.untyped_storage().data_ptr()
