"""The pieces of all processes together are the matrix, however a weight is cut: into blocks, or flattened."""

from __future__ import annotations

import random
from itertools import pairwise, product

import pytest
import torch
from torch import nn

from fastrank.weights.layers import boxes_of, check_split, matrices_of
from fastrank.weights.pieces import Part, Span

LAYERS = {
    "linear": (nn.Linear(7, 5), "weight"),
    "tall": (nn.Linear(3, 11), "weight"),
    "one row": (nn.Linear(9, 1), "weight"),
    "conv": (nn.Conv2d(5, 6, 3), "weight"),
    "groups": (nn.Conv2d(6, 9, (2, 3), groups=3), "weight"),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, groups=2), "weight"),
    "attention": (nn.MultiheadAttention(6, 2), "in_proj_weight"),
    "lstm": (nn.LSTM(3, 5), "weight_ih_l0"),
}


class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        self.experts = nn.Parameter(torch.randn(3, 2, 5, 4))


LAYERS["experts"] = (Stack(), "experts")


def cuts(size, number, rng):
    """Runs of an axis for each of so many ranks, which may have none."""
    ends = [0, *sorted(rng.choices(range(size + 1), k=number - 1)), size]
    return [((low, high),) if low < high else () for low, high in pairwise(ends)]


def interleaved(size):
    """Runs of two ranks that have every other pair of indices."""
    return [tuple((i, min(i + 2, size)) for i in range(start, size, 4)) for start in (0, 2)]


def local_of(weight, runs):
    for axis, own in enumerate(runs):
        weight = weight.index_select(axis, torch.tensor([i for low, high in own for i in range(low, high)]).long())
    return weight


def assembled(parts, layer, attribute, shape, split=None):
    """The matrices that the pieces make, each element of which has to come once."""
    found = {}
    for label, box in boxes_of(shape, layer, attribute, split).items():
        whole, times = torch.zeros(box.shape), torch.zeros(box.shape)
        for part in parts:
            local, piece = part.cut(box)
            assert piece.shape == box.shape
            views = piece.views(local) if piece.spans else []
            for (top, bottom, left, right), view in zip(piece.spans, views, strict=True):
                whole[top:bottom, left:right] = view
                times[top:bottom, left:right] += 1
        assert (times == 1).all()
        found[label] = whole
    return found


def assert_whole(parts, layer, attribute, weight, split=None):
    expected = matrices_of(weight, layer, attribute, split)
    found = assembled(parts, layer, attribute, weight.shape, split)
    assert found.keys() == expected.keys()
    for label, matrix in expected.items():
        assert torch.equal(found[label], matrix), label


@pytest.mark.parametrize("name", LAYERS)
def test_blocks_make_the_matrices(name):
    layer, attribute = LAYERS[name]
    weight = getattr(layer, attribute).detach()
    for seed in range(20):
        rng = random.Random(seed)
        axes = [((0, size),) for size in weight.shape]
        several = [[own] for own in axes]
        # a kernel's own axes are not sharded: what is left of its columns would not be a rectangle
        for axis in rng.sample(range(2 if name in ("conv", "groups", "transposed") else weight.ndim), 2):
            several[axis] = cuts(weight.shape[axis], rng.randint(1, 4), rng)
        parts = [Part(local_of(weight, runs), tuple(weight.shape), runs) for runs in product(*several)]
        assert_whole(parts, layer, attribute, weight)


@pytest.mark.parametrize("name", ["linear", "tall", "attention", "lstm"])
def test_blocks_of_several_runs_make_the_matrices(name):
    layer, attribute = LAYERS[name]
    weight = getattr(layer, attribute).detach()
    shape = tuple(weight.shape)
    grid = product(interleaved(shape[0]), interleaved(shape[1]))
    assert_whole([Part(local_of(weight, runs), shape, runs) for runs in grid], layer, attribute, weight)


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "transposed"])
def test_flattened_slices_make_the_matrices(name):
    layer, attribute = LAYERS[name]
    weight = getattr(layer, attribute).detach()
    for seed in range(20):
        rng = random.Random(seed)
        pieces = cuts(weight.numel(), rng.randint(1, 6), rng)
        slices = [own[0] if own else (0, 0) for own in pieces]
        parts = [Part(weight.flatten()[low:high], tuple(weight.shape), (), low) for low, high in slices]
        assert_whole(parts, layer, attribute, weight)


def test_a_slice_that_begins_and_ends_within_rows_is_three_spans():
    box = boxes_of((5, 4), nn.Linear(4, 5), "weight")[""]
    local, piece = Part(torch.arange(3.0, 18.0), (5, 4), (), 3).cut(box)
    assert piece.spans == (Span(0, 1, 3, 4), Span(1, 4, 0, 4), Span(4, 5, 0, 2))
    assert [view.tolist() for view in piece.views(local)] == [
        [[3.0]],
        [[4.0, 5.0, 6.0, 7.0], [8.0, 9.0, 10.0, 11.0], [12.0, 13.0, 14.0, 15.0]],
        [[16.0, 17.0]],
    ]


def test_what_is_no_rectangle_is_refused():
    conv = nn.Conv2d(2, 3, (4, 1))
    part = Part(conv.weight.detach()[:, :, :2], (3, 2, 4, 1), (((0, 3),), ((0, 2),), ((0, 2),), ((0, 1),)))
    with pytest.raises(ValueError, match="the axes of a kernel are sharded"):
        part.cut(boxes_of((3, 2, 4, 1), conv, "weight")[""])
    transposed = nn.ConvTranspose2d(2, 3, 2)
    flat = Part(transposed.weight.detach().flatten()[:5], (2, 3, 2, 2), (), 0)
    with pytest.raises(ValueError, match=r"shape \(2, 3, 2, 2\) is flattened, and its matrices are not one after"):
        flat.cut(boxes_of((2, 3, 2, 2), transposed, "weight")[""])


def test_a_split_weight_is_cut_alike():
    layer, weight = nn.Linear(6, 9), torch.randn(9, 6)
    for split in check_split({"x": (3, 0), "y": (2, 1)}).values():
        runs = [(((0, 4),), ((0, 6),)), (((4, 9),), ((0, 6),))]
        parts = [Part(local_of(weight, own), (9, 6), own) for own in runs]
        assert_whole(parts, layer, "weight", weight, split)
