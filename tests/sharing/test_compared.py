"""What several ranks declare as replicas of each other has to hold the same numbers."""

from __future__ import annotations

import pytest
import torch
from thread_ranks import in_threads

from fastrank.sharing import Holding, Span
from fastrank.sharing.holdings import groups_of
from fastrank.sharing.together import Replicas
from fastrank.weights import Source

WHOLE = (Span(0, 6, 0, 5),)


def compared(*matrices, names=("stage.weight",)):
    """What each rank is told of its matrix."""
    groups = groups_of([[Holding(names[0], (6, 5), "float32", WHOLE)] for _ in matrices], names)

    def compare(ranks):
        replicas = Replicas(ranks, names, groups, torch.device("cpu"))
        own = {0: Source(matrices[ranks.rank], matrices[ranks.rank])}
        try:
            replicas.compare(own)
        except RuntimeError as error:
            return str(error)
        replicas.compare({})  # once is enough
        return None

    return in_threads(len(matrices), compare)


def test_other_matrices_of_one_name_are_an_error_on_all_ranks():
    torch.manual_seed(0)
    a, b = torch.randn(6, 5), torch.randn(6, 5)
    told = "'stage.weight' has other values on rank 2 than on rank 0, and is no replica of it"
    assert all(error.startswith(told) for error in compared(a, a.clone(), b))
    assert all(error is not None for error in compared(a, torch.zeros(6, 5)))


@pytest.mark.parametrize("kind", ["equal", "drifted", "zero", "not finite"])
def test_replicas_are_no_error(kind):
    torch.manual_seed(0)
    matrix = torch.randn(6, 5)
    other = {"drifted": matrix + 0.01 * torch.randn(6, 5)}.get(kind, matrix)
    if kind == "zero":
        matrix = other = torch.zeros(6, 5)
    if kind == "not finite":
        matrix[2] = other[2] = torch.nan
    assert compared(matrix, other) == [None, None]


def test_groups_are_equal_parts_of_the_chosen_matrices():
    left, right = (Span(0, 6, 0, 2),), (Span(0, 6, 2, 5),)
    holdings = [
        [
            Holding("a", (6, 5), "float32", spans),
            Holding("b", (6, 5), "float32", WHOLE),
            Holding("c", (0, 5), "float32", ()),
        ]
        for spans in (left, right, left, right)
    ]
    assert groups_of(holdings, ["a", "c"]) == [(0, (0, 2)), (0, (1, 3))]
    assert groups_of(holdings[:2], ["a", "b"]) == [(1, (0, 1))]
