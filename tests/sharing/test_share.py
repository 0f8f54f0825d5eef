"""Errors name ranks by their numbers in the job, also where only some of the job's ranks measure together."""

from __future__ import annotations

import re

import pytest

from fastrank.sharing import Holding, Span, share
from fastrank.sharing.missing import named

WHOLE = (Span(0, 4, 0, 6),)


class Group:
    """Stands for `Ranks` of these ranks of a job."""

    def __init__(self, *members):
        self.members, self.size = members, len(members)

    def name(self, i):
        return f"rank {self.members[i]}"


@pytest.mark.parametrize(
    ("members", "end"),
    [((0, 1), r"names of their own$"), ((2, 5), r" \(ranks 0, 1 and so on of the group share= are rank 2, rank 5\)$")],
)
def test_an_error_of_the_plan_says_which_ranks_it_numbers(members, end):
    holdings = [[Holding("x", (4, 6), dtype, WHOLE)] for dtype in ("float32", "float16")]
    with pytest.raises(ValueError, match="on rank 0, and float16 on rank 1: ") as raised:
        share._planned(Group(*members), holdings, ())
    assert re.search(end, str(raised.value))


def test_a_missing_rank_of_a_group_is_one_of_so_many_that_measure_together():
    assert named([0, 1, 2], [2]) == "rank 2 (of 3)"
    assert named([2, 5], [1]) == "rank 5 (of 2 that measure together)"
