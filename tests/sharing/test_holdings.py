"""What ranks declare: in which order it is taken, and what does not fit together."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from fastrank.sharing import Holding, Span, make_plan


def of(name, shape, *spans, dtype="float32", tag=""):
    return Holding(name, shape, dtype, tuple(Span(*span) for span in spans), tag)


def names(*ranks):
    """Of the plan, where each rank declares all of some 1 x 1 matrices."""
    plan = make_plan([[of(name, (1, 1), (0, 1, 0, 1)) for name in own] for own in ranks])
    return [matrix.name for matrix in plan.matrices]


def test_names_keep_the_order_that_all_ranks_agree_on():
    assert names(["w10", "w9", "a"], ["w10", "w9", "a"]) == ["w10", "w9", "a"]


@pytest.mark.parametrize(
    "ranks",
    [
        (["layers.10.w", "layers.9.w"], ["layers.9.w", "layers.10.w"]),
        (["layers.10.w"], ["layers.9.w"]),
        ([], ["layers.10.w", "layers.9.w"]),
        (["layers.10.w", "layers.9.w"], ["layers.10.w"]),
    ],
)
def test_other_names_come_in_natural_order(ranks):
    assert names(*ranks) == ["layers.9.w", "layers.10.w"]


def test_natural_order_is_total():
    """Numbers may stand anywhere, and be written in two ways."""
    wanted = ["", "1", "01.b", "1.b", "2a", "10", "a", "a1", "a1b2", "a1b10", "b"]
    assert names(wanted[::-1], wanted) == wanted


def test_no_rank_and_no_matrix_make_an_empty_plan():
    for holdings in ([], [[]], [[], []]):
        plan = make_plan(holdings)
        assert (plan.matrices, plan.rounds, plan.total) == ((), (), 0)
        assert (plan.sent(0), plan.received(0), plan.memory(0)) == (0, 0, 0)


HALVES = ((0, 2, 0, 6), (2, 4, 0, 6))


@pytest.mark.parametrize(
    ("one", "two", "message"),
    [
        (of("x", (4, 6)), of("x", (4, 8)), r"the shape of 'x' is \(4, 6\) on rank 0, and \(4, 8\) on rank 2"),
        (
            of("x", (4, 6)),
            of("x", (4, 6), dtype="float16"),
            "the dtype of 'x' is float32 on rank 0, and float16 on",
        ),
        (
            of("x", (4, 6), tag="trained"),
            of("x", (4, 6), tag="frozen"),
            "^'x' is trained on rank 0, and frozen on rank 2: .* names of their own",
        ),
        (of("x", (4, 6), dtype="int8"), of("x", (4, 6), dtype="int8"), "'x' is int8"),
        (
            of("x", (4, 6), (0, 3, 0, 6)),
            of("x", (4, 6), (2, 4, 0, 6)),
            "ranks 0 and 2 both have .* row 2 and column 0 of",
        ),
        (of("x", (4, 6), (0, 4, 0, 6)), of("x", (4, 6), (3, 4, 2, 6)), "ranks 0 and 2 .* row 3 and column 2 of 'x'"),
        (of("x", (4, 6), *HALVES), of("x", (4, 6), (0, 4, 0, 6)), "ranks 0 and 2 .* row 0 and column 0 of 'x'"),
        (
            of("x", (4, 6), (0, 4, 0, 6), (1, 2, 1, 2)),
            of("x", (4, 6)),
            "on rank 0 has the element in row 1 and column 1 twice",
        ),
        (
            of("x", (4, 6), HALVES[0]),
            of("x", (4, 6), (2, 5, 0, 6)),
            r"rank 2 declares Span\(.*\) of 'x', which is 4 x 6",
        ),
        (of("x", (4, 6), (-1, 4, 0, 6)), of("x", (4, 6)), "rank 0 declares"),
        (of("x", (4, 6), (3, 1, 0, 6)), of("x", (4, 6)), "rank 0 declares"),
        (of("x", (4, 6), (3, 1, 6, 0)), of("x", (4, 6)), "rank 0 declares"),
        (
            of("x", (9, 6), (0, 5, 0, 6)),
            of("x", (9, 6), (8, 9, 0, 6)),
            r"^rows 5 to 7 of 'x', which is 9 x 6.*ranks 0, 2:",
        ),
        (of("x", (4, 6), (0, 3, 0, 6)), of("x", (4, 6)), "^row 3 of 'x'.*on ranks 0:"),
        (of("x", (4, 6), (0, 4, 0, 2)), of("x", (4, 6), (0, 4, 5, 6)), "^columns 2 to 4 of rows 0 to 3 of 'x'"),
        (of("x", (4, 6), (0, 4, 0, 5)), of("x", (4, 6), (0, 2, 5, 6)), "^column 5 of rows 2 to 3 of 'x'"),
        (of("x", (4, 6), (0, 1, 0, 6), (1, 4, 1, 5)), of("x", (4, 6), (1, 4, 5, 6)), "^column 0 of rows 1 to 3 of 'x'"),
        (of("x", (4, 6)), of("x", (4, 6)), "^rows 0 to 3 of 'x'.*on none either"),
    ],
)
def test_what_does_not_fit_is_refused(one, two, message):
    with pytest.raises(ValueError, match=message):
        make_plan([[one], [], [two]])


def test_a_name_is_declared_once_a_rank():
    with pytest.raises(ValueError, match="rank 1 declares 'x' twice"):
        make_plan([[], [of("x", (1, 1), (0, 1, 0, 1)), of("x", (1, 1))]])


def test_of_many_ranks_the_first_are_named():
    with pytest.raises(ValueError, match="ranks 0, 1, 2, 3, 4, 5, 6, 7 and 12 more:"):
        make_plan([[of("x", (21, 2), (i, i + 1, 0, 2))] for i in range(20)])


@pytest.mark.parametrize("seed", range(40))
def test_a_lost_or_doubled_element_is_found(seed):
    """Against a matrix on which each span is painted. An edge of one span of a random grid has been moved."""
    random = np.random.default_rng(seed)
    rows, cols = random.integers(2, 12, 2).tolist()
    tops = [0, *sorted(random.integers(0, rows + 1, 2).tolist()), rows]
    lefts = [0, *sorted(random.integers(0, cols + 1, 2).tolist()), cols]
    spans = [(a, b, c, d) for a, b in pairwise(tops) for c, d in pairwise(lefts)]
    at, edge = int(random.integers(len(spans))), int(random.integers(4))
    moved = list(spans[at])
    moved[edge] = max(0, min((rows, cols)[edge // 2], moved[edge] + int(random.integers(-1, 2))))
    spans[at] = tuple(moved)
    painted = np.zeros((rows, cols), dtype=int)
    for a, b, c, d in set(spans):  # equal ones are replicas
        painted[a:b, c:d] += 1
    holdings = [[of("x", (rows, cols), span)] for span in spans]
    if Span(*moved).numel >= 0 and (painted == 1).all():
        make_plan(holdings)
    else:
        with pytest.raises(ValueError):
            make_plan(holdings)
