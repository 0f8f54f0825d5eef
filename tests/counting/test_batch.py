"""Batches: groups of equal matrices, pieces within the workspace, answers in the order of the input."""

import pytest
import torch

from fastrank.counting import batch


def norms(stack, *weights):
    assert stack.shape[-2] <= stack.shape[-1]
    norm = torch.linalg.matrix_norm(stack.double())
    return (norm * weights[0] if weights else norm), torch.full((len(stack),), len(stack))


@pytest.fixture
def matrices():
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4), (5, 2), (4, 3), (3, 4), (0, 4), (1, 1), (2, 5), (3, 4)]
    made = [torch.randn(*s, generator=generator) for s in shapes]
    made[7] = made[7].double()
    return made


def test_groups_hold_equal_sides_dtype_and_device_in_order_of_appearance(matrices):
    assert [(g.indices, g.rows, g.columns) for g in batch.group(matrices)] == [
        ((0, 2, 3), 3, 4),
        ((1, 6), 2, 5),
        ((4,), 0, 4),
        ((5,), 1, 1),
        ((7,), 3, 4),
    ]


def test_a_tall_matrix_enters_its_stack_transposed(matrices):
    stack = batch.group(matrices)[0].stack(matrices)
    assert torch.equal(stack[1], matrices[2].T)
    assert torch.equal(stack[2], matrices[3])


def test_answers_come_in_the_order_of_the_matrices(matrices):
    weights = torch.arange(1.0, 9.0, dtype=torch.float64)
    answer, together = batch.over_matrices(matrices, norms, weights)
    expected = torch.stack([torch.linalg.matrix_norm(m.double()) for m in matrices]) * weights
    torch.testing.assert_close(answer, expected)
    assert together.tolist() == [3, 2, 3, 3, 1, 1, 2, 1]


@pytest.mark.parametrize(("b", "shape"), [(0, (3, 4)), (1, (4, 3)), (7, (3, 4)), (7, (5, 2)), (3, (0, 4)), (3, (4, 0))])
def test_a_batch_is_worked_through_in_pieces_that_fit_the_workspace(b, shape, monkeypatch):
    monkeypatch.setattr(batch, "CACHE", 8 * min(shape) ** 2 * 3)
    stack = torch.randn(b, *shape, generator=torch.Generator().manual_seed(0))
    answer, together = batch.over_matrices(stack, norms)
    torch.testing.assert_close(answer, torch.linalg.matrix_norm(stack.double()))
    assert together.tolist() == {0: [], 1: [1], 3: [1, 1, 1], 7: [3, 3, 3, 3, 3, 3, 1]}[b]


def test_a_group_is_split_where_its_grams_would_not_fit(monkeypatch):
    monkeypatch.setattr(batch, "CACHE", 8 * 9 * 2)
    indices = [g.indices for g in batch.group([torch.zeros(3, 4)] * 5)]
    assert indices == [(0, 1), (2, 3), (4,)]


def test_a_matrix_beyond_the_workspace_goes_alone():
    assert batch.chunk_size(100_000, torch.device("cpu")) == 1
    assert batch.chunk_size(0, torch.device("cuda")) > 0


def test_no_matrices_at_all():
    answer, together = batch.over_matrices([], norms)
    assert answer.shape == together.shape == (0,)
    assert batch.group([]) == []
