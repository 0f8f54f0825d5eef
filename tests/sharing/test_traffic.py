"""Traffic: the bytes of each way, against every message written out."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
import torch

from fastrank.reference import packed_size
from fastrank.sharing import Placement, Span, slices
from fastrank.sharing.traffic import flows


@pytest.mark.parametrize(("size", "count"), [(10, 3), (9, 3), (2, 5), (0, 2), (1, 1)])
def test_slices_are_those_of_tensor_split(size, count):
    numbers = torch.arange(size)
    wanted = [part.tolist() for part in numbers.tensor_split(count)]
    assert [numbers[start:end].tolist() for start, end in slices(size, count)] == wanted


def messages(matrix, itemsize):
    """Bytes by sender and receiver."""
    ranks = [rank for rank, _ in matrix.parts]
    found = Counter()
    if matrix.way == "whole":
        for rank, piece in matrix.parts:
            found[rank, matrix.owner] += itemsize * sum(span.numel for span in piece)
    if matrix.way == "gram":
        for rank in ranks:
            for to, (start, end) in zip(ranks, slices(packed_size(matrix.order), len(ranks)), strict=True):
                found[rank, to] += 8 * (end - start)
        for rank, (start, end) in zip(ranks, slices(packed_size(matrix.order), len(ranks)), strict=True):
            found[rank, matrix.owner] += 8 * (end - start)
    return {(a, b): n for (a, b), n in found.items() if a != b}


def columns(order, *ends):
    return tuple((3 * i, (Span(0, order, a, b),)) for i, (a, b) in enumerate(pairwise(ends)))


@pytest.mark.parametrize("way", ["whole", "gram"])
@pytest.mark.parametrize("owner", [0, 3, 6])
@pytest.mark.parametrize("order", [1, 2, 130])
@pytest.mark.parametrize(("dtype", "itemsize"), [("float32", 4), ("bfloat16", 2)])
def test_bytes_are_those_of_every_message(way, owner, order, dtype, itemsize):
    matrix = Placement("x", (order, 200), dtype, way, owner, columns(order, 0, 50, 60, 200))
    (flow,) = flows([matrix])
    sent, received = Counter(), Counter()
    for (a, b), n in messages(matrix, itemsize).items():
        sent[a] += n
        received[b] += n
    assert flow.ranks.tolist() == [0, 3, 6]
    assert flow.sent.tolist() == [sent[rank] for rank in (0, 3, 6)]
    assert flow.received.tolist() == [received[rank] for rank in (0, 3, 6)]


def test_a_gram_of_order_two_on_three_ranks():
    """Four numbers, in slices of two, one and one."""
    (flow,) = flows([Placement("x", (2, 9), "float16", "gram", 0, columns(2, 0, 3, 6, 9))])
    assert flow.sent.tolist() == [8 * 2, 8 * (3 + 1), 8 * (3 + 1)]
    assert flow.received.tolist() == [8 * (2 * 2 + 2), 8 * 2, 8 * 2]


@pytest.mark.parametrize(
    ("shape", "pieces", "rows"),
    [
        ((4, 6), [(0, 4, 0, 3), (0, 4, 3, 6)], False),
        ((6, 4), [(0, 3, 0, 4), (3, 6, 0, 4)], True),
        ((4, 4), [(0, 4, 0, 3), (0, 4, 3, 4)], False),
        ((4, 4), [(0, 3, 0, 4), (3, 4, 0, 4)], True),
    ],
)
def test_which_side_is_cut(shape, pieces, rows):
    parts = tuple((rank, (Span(*piece),)) for rank, piece in enumerate(pieces))
    assert Placement("x", shape, "float32", "gram", 0, parts).cuts_rows == rows
