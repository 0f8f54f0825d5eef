"""Packing: no pack beyond the budget, and the sizes it goes by are those of the workspace."""

import pytest
import torch

from fastrank.counting.packing import packed
from fastrank.counting.ragged import BUDGET, RaggedBatch

pytest.importorskip("triton")
from fastrank.kernels.count.launches import Launches, workspace_bytes


def like(rows, columns, dtype=torch.float32):
    """Of any size, in the memory of one element."""
    return torch.empty(1, dtype=dtype).expand(rows, columns)


def packs(shapes, budget, size):
    found = packed([like(*shape) for shape in shapes], budget, size)
    return [[(g.rows, g.columns, g.indices) for g in pack] for pack in found]


def test_packs_are_filled_in_order_of_first_appearance():
    shapes = [(3, 4), (5, 2), (4, 3), (3, 4), (0, 4), (2, 5)]
    assert packs(shapes, 25, lambda m: 10) == [
        [(3, 4, (0, 2))],
        [(3, 4, (3,)), (2, 5, (1,))],
        [(2, 5, (5,))],
    ]
    assert packs(shapes, 50, lambda m: 10) == [[(3, 4, (0, 2, 3)), (2, 5, (1, 5))]]
    assert packs([(0, 3)], 25, lambda m: 10) == packs([], 25, lambda m: 10) == []


def test_what_takes_more_than_the_budget_goes_alone_with_what_takes_nothing():
    shapes = [(1, 1), (9, 9), (9, 9), (1, 2), (2, 2)]
    sizes = {1: 0, 2: 10, 9: 30}
    assert packs(shapes, 20, lambda m: sizes[m.shape[0]]) == [
        [(1, 1, (0,)), (9, 9, (1,))],
        [(9, 9, (2,)), (1, 2, (3,))],
        [(2, 2, (4,))],
    ]


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("shifts", [2, 6])
def test_sizes_are_those_of_the_workspace(shifts, keep):
    for shape in [(1, 1), (16, 100_000), (64, 64), (65, 70), (100_000, 3), (130, 5000), (700, 513)]:
        matrix = like(*shape)
        assert workspace_bytes(matrix, shifts, keep) == 8 * Launches([matrix], shifts, keep).size


# Padding makes 256 of 2 x 3 of them; 196 and 88 chunks of columns are partial sums that outweigh the Grams.
@pytest.mark.parametrize(
    ("count", "shape", "dtype", "budget"),
    [
        (7000, (2, 3), torch.float32, BUDGET // 10),
        (1000, (1, 100_000), torch.float16, BUDGET),
        (150, (128, 45056), torch.float32, BUDGET),
    ],
)
def test_the_budget_is_kept(count, shape, dtype, budget):
    batch = RaggedBatch([like(*shape, dtype)] * count, keep=True, budget=budget)
    assert 0.9 * budget < batch.nbytes <= budget
    assert sorted(i for chunk in batch.chunks for i in chunk.indices) == list(range(count))


def test_matrices_that_are_counted_without_a_gram_take_nothing():
    batch = RaggedBatch([like(2, 3)] * 3000, budget=1)
    assert (batch.nbytes, len(batch.chunks)) == (0, 1)


def test_one_matrix_may_take_what_it_needs():
    batch = RaggedBatch([like(70, 90)] * 3, budget=1)
    assert [chunk.indices for chunk in batch.chunks] == [[0], [1], [2]]
    assert batch.nbytes == workspace_bytes(like(70, 90), 2, False)
