"""The plan: figures by hand on small shapes, and the rules of who and how."""

from __future__ import annotations

import time
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from fastrank.reference import packed_size
from fastrank.sharing import Holding, Span, make_plan
from fastrank.sharing import plan as planning


def sharded(name, shape, side, ends, dtype="float32"):
    """A holding for each rank, of a matrix that is cut along a side; `ends` are those of the pieces."""
    found = []
    for start, end in pairwise(ends):
        span = Span(start, end, 0, shape[1]) if side == 0 else Span(0, shape[0], start, end)
        found.append(Holding(name, shape, dtype, (span,) if span.numel else ()))
    return found


def plan_of(*matrices):
    """A plan for matrices that are given as the holdings of all ranks."""
    return make_plan(list(zip(*matrices, strict=True)))


def ways(plan):
    return [matrix.way for matrix in plan.matrices]


def figures(plan, ranks):
    return [[of(rank) for rank in range(ranks)] for of in (plan.sent, plan.received, plan.memory)]


def test_a_matrix_that_travels_whole():
    plan = plan_of(sharded("x", (4, 6), 0, [0, 2, 4, 4]))
    (x,) = plan.matrices
    assert (x.way, x.owner, x.parts) == ("whole", 0, ((0, (Span(0, 2, 0, 6),)), (1, (Span(2, 4, 0, 6),))))
    assert plan.rounds == ((0,),)
    # Half of 4 x 6 numbers of 4 bytes travels; the owner has the whole and the Gram, 16 numbers of 8 bytes.
    assert figures(plan, 3) == [[0, 48, 0], [48, 0, 0], [48 + 96 + 128, 48, 0]]
    assert plan.total == 48


def test_a_matrix_that_travels_as_a_gram():
    plan = plan_of(sharded("x", (2, 1000), 1, [0, 500, 1000]))
    (x,) = plan.matrices
    assert (x.way, x.owner, x.order) == ("gram", 0, 2)
    # P is 32 bytes: each sends half of it to the other, and rank 1 its sum to rank 0.
    assert figures(plan, 2)[:2] == [[16, 32], [32, 16]]
    # The owner has its own Gram, the whole one and the square one, 32 bytes each.
    assert figures(plan, 2)[2] == [16 + 32 + 32 + 32 + 32, 32 + 16 + 32]
    assert plan.total == 48


def test_what_one_rank_has_does_not_travel():
    whole = Span(0, 3, 0, 5)
    plan = make_plan([[Holding("x", (3, 5), "float64", ())], [Holding("x", (3, 5), "float64", (whole,))]])
    (x,) = plan.matrices
    assert (x.way, x.owner, x.parts, plan.rounds) == ("local", 1, ((1, (whole,)),), ())
    assert figures(plan, 2) == [[0, 0], [0, 0], [0, 72]]


def test_a_matrix_without_elements_is_local():
    holdings = [[], *([Holding("x", shape, "float32", ())] for shape in [(0, 4)] * 2)]
    (x,) = make_plan(holdings).matrices
    assert (x.way, x.owner, x.parts) == ("local", 1, ())
    assert make_plan(holdings).memory(1) == 0


@pytest.mark.parametrize(
    ("shape", "side", "dtype", "way"),
    [
        ((2, 1000), 1, "float32", "gram"),
        ((2, 1000), 0, "float32", "whole"),  # the short side is cut
        ((1000, 2), 0, "bfloat16", "gram"),
        ((1000, 2), 1, "bfloat16", "whole"),
        ((2, 1000), 1, "float64", "whole"),  # never as a Gram
        ((64, 64), 0, "float32", "whole"),  # may, but P is 8 bytes an element
        ((64, 64), 1, "float32", "whole"),
    ],
)
def test_a_matrix_goes_as_a_gram_where_it_may_and_that_is_cheaper(shape, side, dtype, way):
    middle = shape[side] // 2
    assert ways(plan_of(sharded("x", shape, side, [0, middle, shape[side]], dtype))) == [way]


@pytest.mark.parametrize("seed", range(20))
def test_a_single_matrix_goes_the_way_that_is_shorter_for_the_busiest_rank(seed):
    """By the formulas, where these are not within a hundredth of each other, which the lengths of slices may decide."""
    random = np.random.default_rng(seed)
    count, order, dtype = int(random.integers(2, 9)), int(random.integers(1, 700)), ["bfloat16", "float32"][seed % 2]
    each = -(-order * int(random.integers(1, 24)) // count)
    packed, long = 8 * packed_size(order), each * count
    moved = {"whole": order * long * (2 + 2 * (seed % 2)) * (1 - 1 / count), "gram": 3 * packed * (1 - 1 / count)}
    made = {"whole": order**2 * long, "gram": order**2 * each}
    whole, gram = (moved[way] / 50e9 + (made[way] + 2 / 3 * order**3) / 30e12 for way in ("whole", "gram"))
    (way,) = ways(plan_of(sharded("x", (order, long), 1, [i * each for i in range(count + 1)], dtype)))
    assert way == ("gram" if gram < whole else "whole") or abs(gram - whole) < whole / 100


def test_pieces_of_more_than_one_span_go_whole():
    ends = [(0, 900), (900, 1000), (1000, 2000)]
    spans = [tuple(Span(0, 2, a, b) for a, b in part) for part in (ends[:2], ends[2:])]
    assert ways(make_plan([[Holding("x", (2, 2000), "float32", piece)] for piece in spans])) == ["whole"]


def test_a_grid_goes_whole():
    grid = [Span(r, r + 1, c, c + 500) for r in (0, 1) for c in (0, 500)]
    assert ways(make_plan([[Holding("x", (2, 1000), "float32", (span,))] for span in grid])) == ["whole"]


QUARTERS = [0, 350, 700, 1050, 1400]
"""Of 256 x 1400 in FP32: alone, Gram 18.5 us for the busiest rank and whole 24.6; for all together 62 against 46."""


def test_one_large_matrix_is_shared_and_many_are_not():
    assert ways(plan_of(sharded("x", (256, 1400), 1, QUARTERS))) == ["gram"]
    many = plan_of(*(sharded(f"x{i}", (256, 1400), 1, QUARTERS) for i in range(64)))
    assert ways(many) == ["whole"] * 64
    assert Counter(matrix.owner for matrix in many.matrices) == dict.fromkeys(range(4), 16)


def test_matrices_for_which_a_gram_is_less_work_for_all_go_as_grams_however_many():
    ends = [4 * end for end in QUARTERS]
    many = plan_of(*(sharded(f"x{i}", (256, 5600), 1, ends) for i in range(64)))
    assert ways(many) == ["gram"] * 64
    assert Counter(matrix.owner for matrix in many.matrices) == dict.fromkeys(range(4), 16)


def test_one_that_would_keep_its_owner_busy_for_longest_is_shared_among_many_small_ones():
    small = [sharded(f"x{i}", (64, 64), 1, [0, 16, 32, 48, 64]) for i in range(64)]
    assert ways(plan_of(*small, sharded("y", (256, 1400), 1, QUARTERS))) == ["whole"] * 64 + ["gram"]


def test_replicas_share_the_work_evenly():
    """On every rank whole; and in halves on ranks 0 and 1, and once more on 2 and 3."""
    full = (Span(0, 6, 0, 6),)
    everywhere = [[Holding(f"x{i}", (6, 6), "float32", full) for i in range(8)]] * 4
    assert Counter(matrix.owner for matrix in make_plan(everywhere).matrices) == dict.fromkeys(range(4), 2)
    halves = [(Span(0, 3, 0, 6),), (Span(3, 6, 0, 6),)] * 2
    hybrid = make_plan([[Holding(f"x{i}", (6, 6), "float32", half) for i in range(8)] for half in halves])
    assert Counter(matrix.owner for matrix in hybrid.matrices) == dict.fromkeys(range(4), 2)
    assert Counter(rank for matrix in hybrid.matrices for rank, _ in matrix.parts) == dict.fromkeys(range(4), 4)
    assert figures(hybrid, 4)[:2] == [[2 * 72] * 4] * 2


def test_the_most_expensive_matrices_are_handed_out_first():
    """Four of 8 x 8 and one of 32 x 32 on two ranks that have all: the large one is alone."""
    orders = (8, 8, 32, 8, 8)
    own = [Holding(str(i), (n, n), "float32", (Span(0, n, 0, n),)) for i, n in enumerate(orders)]
    assert [matrix.owner for matrix in make_plan([own, own]).matrices] == [1, 1, 0, 1, 1]


def test_stages_of_a_pipeline_keep_their_own():
    own = [[Holding(f"layers.{i}", (4, 4), "float32", (Span(0, 4, 0, 4),)) for i in stage] for stage in ((9, 10), (2,))]
    plan = make_plan(own)
    assert [(matrix.name, matrix.owner) for matrix in plan.matrices] == [
        ("layers.2", 1),
        ("layers.9", 0),
        ("layers.10", 0),
    ]


@pytest.mark.parametrize("owner", [0, 1])
def test_rounds_keep_to_the_budget(owner, monkeypatch):
    """One rank owns all. It receives 48 bytes of each matrix, but 480 of "large"."""
    monkeypatch.setattr(planning, "BUDGET", 100)
    monkeypatch.setattr(planning, "_handed_out", lambda holders, *_: (0, [(h[:, 0], owner) for h in holders]))
    matrices = [sharded(name, (4, 6), 0, [0, 2, 4]) for name in "abcde"]
    matrices.insert(2, sharded("large", (4, 60), 0, [0, 2, 4]))
    assert plan_of(*matrices).rounds == ((0, 1), (2,), (3, 4), (5,))


def test_what_different_ranks_receive_is_in_one_round(monkeypatch):
    monkeypatch.setattr(planning, "BUDGET", 60)
    plan = plan_of(*(sharded(name, (4, 6), 0, [0, 2, 4]) for name in "abcd"))
    assert [matrix.owner for matrix in plan.matrices] == [0, 1, 0, 1]
    assert plan.rounds == ((0, 1), (2, 3))


@pytest.mark.parametrize(("ranks", "count", "kinds"), [(1024, 560, 7), (8, 5000, 5000)])
def test_large_jobs_are_planned_in_seconds(ranks, count, kinds):
    """`kinds` different shapes. On one core that is busy with other things it may take four times as long as usual."""
    shapes = [(8 * ranks + i % kinds, 8192) for i in range(count)]
    own = []
    for rank in range(ranks):
        top = [8 * rank] * count
        bottoms = [8 * rank + 8 if rank + 1 < ranks else rows for rows, _ in shapes]
        pieces = {at: (Span(*at, 0, 8192),) for at in set(zip(top, bottoms, strict=True))}
        spans = [pieces[at] for at in zip(top, bottoms, strict=True)]
        own.append([Holding(str(i), shapes[i], "float32", spans[i]) for i in range(count)])
    start = time.process_time()
    plan = make_plan(own)
    assert plan.total > 0
    assert time.process_time() - start < 5
    assert sum(len(matrix.parts) for matrix in plan.matrices) == ranks * count
