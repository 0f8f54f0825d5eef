"""The choice of what is sketched: low ranks, where it pays, and never for long without success."""

from __future__ import annotations

from itertools import pairwise

import pytest

from fastrank.sharing import Placement, Span
from fastrank.sharing.choice import LONGEST, REST, TRIES, Choice
from fastrank.sharing.costs import sketch_pays


def placed(shape=(512, 1024), dtype="float32", way="whole", ranks=2):
    each = shape[0] // ranks
    parts = tuple((rank, (Span(rank * each, (rank + 1) * each, 0, shape[1]),)) for rank in range(ranks))
    return Placement("x", shape, dtype, way, 0, parts)


def chosen(choice, rank, open_=False):
    """The columns of the sketch that follows a step by which the one matrix has this rank; None if there is none."""
    now = choice.now()
    choice.look([rank], now, [sketch.matrix for sketch in now if open_ and not sketch.fresh])
    return next((sketch.columns for sketch in choice.now()), None)


@pytest.mark.parametrize(
    ("rank", "columns"), [(0, 16), (10, 16), (11, 32), (24, 32), (25, 64), (52, 64), (53, 128), (108, 128), (109, None)]
)
def test_columns_hold_the_rank_and_more(rank, columns):
    choice = Choice({0: placed()})
    assert not choice.now()
    assert chosen(choice, rank) == columns


def test_a_basis_is_kept_while_it_holds_the_rank():
    choice = Choice({0: placed()})
    assert [chosen(choice, rank) for rank in (7, 10, 11, 24, 8, 7, -1, 10)] == [16, 16, 32, 32, 32, 16, None, 16]


def test_sides_take_turns_and_a_new_basis_begins_with_noise():
    choice = Choice({0: placed()})
    seen = []
    for rank in (5, 5, 5, 11, 11, 11):
        chosen(choice, rank)
        seen += choice.now()
    assert [sketch.side for sketch in seen] == [0, 1, 0, 0, 1, 0]
    assert [sketch.fresh for sketch in seen] == [True, False, False] * 2
    assert [sketch.number for sketch in seen] == list(range(6))


def test_what_stays_open_gets_more_columns_and_rests_longer_each_time():
    choice, seen = Choice({0: placed()}), []
    for _ in range(8 * LONGEST):
        seen.append(chosen(choice, 3, open_=True))
    sizes = [k for k in seen if k]
    assert sizes[: 4 * (TRIES + 1)] == [k for k in (16, 32, 64, 128) for _ in range(TRIES + 1)]
    tried = [i for i, k in enumerate(seen) if k == 16 and (i == 0 or not seen[i - 1])]
    lengths = [b - a - 4 * (TRIES + 1) for a, b in pairwise(tried)]
    assert lengths[:4] == [REST, 2 * REST, 4 * REST, 8 * REST]
    assert max(lengths) == LONGEST == lengths[-1]
    assert len(sizes) < len(seen) / 10


def test_more_columns_that_decided_are_made_fewer_again():
    choice = Choice({0: placed()})
    chosen(choice, 3)
    for _ in range(TRIES + 1):
        last = chosen(choice, 3, open_=True)
    assert last == 32
    assert [chosen(choice, 3) for _ in range(REST + 1)] == [32] * REST + [16]


def test_one_success_between_failures_is_enough():
    choice = Choice({0: placed()})
    chosen(choice, 3)
    assert {chosen(choice, 3, open_=i % TRIES > 0) for i in range(50)} == {16}


@pytest.mark.parametrize(
    "matrix",
    [placed(dtype="float64"), placed(way="local"), placed((32, 4096)), placed((64, 64)), placed((31, 64), ranks=31)],
    ids=["FP64", "local", "few rows", "does not pay", "few rows each"],
)
def test_what_is_never_sketched(matrix):
    choice = Choice({0: matrix})
    assert chosen(choice, 1) is None


def test_a_choice_of_nothing_is_none():
    assert not Choice({0: placed(dtype="float64")})
    assert Choice({0: placed()})


def test_it_begins_anew_with_other_noise():
    choice = Choice({0: placed()})
    for _ in range(4):
        chosen(choice, 3)
    choice.begin_anew()
    assert not choice.now()
    chosen(choice, 3)
    (sketch,) = choice.now()
    assert (sketch.fresh, sketch.side, sketch.number) == (True, 0, 3)


def test_a_sketch_pays_where_the_matrix_is_large_beside_its_columns():
    """What travels of 4096 x 11008 on 8 ranks is 158 MB, or with 128 columns 62 MB on average. On 64 ranks it is 89 MB
    in BF16, which the owner has to count then, with 16 columns 67 MB, and with 128 of them 534 MB."""
    assert sketch_pays(placed((4096, 11008), ranks=8), 128)
    assert sketch_pays(placed((4096, 11008), "bfloat16", ranks=64), 16)
    assert not sketch_pays(placed((4096, 11008), "bfloat16", ranks=64), 128)
    assert not sketch_pays(placed((128, 256)), 64)
