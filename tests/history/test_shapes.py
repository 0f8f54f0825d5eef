"""Rows have the size that their matrix has at their step."""

from __future__ import annotations

import io

import pytest
import torch
from made_history import SHAPES, make, record, steps_in, steps_of

from fastrank.history import read_history, ring

TALL = ((9, 2), (2, 5))
EMPTY = ((9, 0), (2, 5))


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(ring, "CAPACITY", 8)


def sizes(table):
    """{step: ((rows, cols) of each matrix)}, after a check that there are as many singular values."""
    found = {}
    for row in table.to_pylist():
        found.setdefault(row["step"], []).append((row["rows"], row["cols"]))
        if row["singular_values"] is not None:
            assert len(row["singular_values"]) == min(row["rows"], row["cols"])
    return {step: tuple(shapes) for step, shapes in found.items()}


@pytest.mark.parametrize("changes", [[3], [8], [1, 2, 3, 4], [5, 16, 17], [7, 8, 9, 24]])
@pytest.mark.parametrize("read", [False, True])
def test_a_matrix_may_change_its_size_at_any_step(tmp_path, changes, read):
    """In the midst of a block, at its end, or at every step; and whether or not rows are read meanwhile."""
    history, expected, shapes = make(tmp_path, rows_per_part=30), {}, SHAPES
    for step in range(1, 41):
        if step in changes:
            shapes = TALL if shapes == SHAPES else SHAPES
        expected[step] = shapes
        record(history, step, shapes=shapes)
        if read and step % 3 == 0:
            assert history.last().shapes == shapes
            history._on_alarm()
    assert sizes(history.to_arrow()) == expected
    history.close()
    whole = read_history(tmp_path)
    assert sizes(whole) == expected
    assert steps_of(whole) == list(range(1, 41))
    assert whole == history.to_arrow()


def test_a_matrix_without_an_entry(tmp_path):
    history = make(tmp_path)
    record(history, 2, shapes=SHAPES)
    record(history, 4, shapes=EMPTY)
    assert sizes(history.to_arrow()) == {2: SHAPES, 4: EMPTY}


@pytest.mark.parametrize("saved", [False, True])
def test_a_state_knows_the_sizes(tmp_path, saved):
    """Also of rows that were measured before the change."""
    history = make(tmp_path, rows_per_part=20)
    record(history, *range(1, 14))
    record(history, 15, 16, shapes=TALL)
    state = history.state_dict()
    history.close()
    if saved:
        torch.save(state, file := io.BytesIO())
        file.seek(0)
        state = torch.load(file, weights_only=True)
    resumed = make(tmp_path)
    resumed.load_state_dict(state)
    assert resumed.last().shapes == TALL
    record(resumed, 17, shapes=TALL)
    record(resumed, 18)
    assert resumed.last().shapes == SHAPES
    resumed.close()
    expected = dict.fromkeys(range(1, 14), SHAPES) | {15: TALL, 16: TALL, 17: TALL, 18: SHAPES}
    assert sizes(read_history(tmp_path)) == expected
    assert steps_in(tmp_path) == list(expected)


def test_the_last_row_outlives_its_part(tmp_path):
    history = make(tmp_path)
    record(history, 1, shapes=TALL)
    history.flush()
    for _ in range(2):
        assert history.last().shapes == TALL
        assert steps_of(history.table([history.last()])) == [1]
        history.load_state_dict(history.state_dict())


def test_blocks_stay_few(tmp_path):
    """Rows that are read one by one are joined up to the change, and after it."""
    history = make()
    for step in range(1, 201):
        record(history, step, shapes=SHAPES if step < 100 else TALL)
        history.last()
    blocks = history._pending.blocks
    assert len(blocks) <= 2 * (100 / (ring.CAPACITY / 2) + 5)
    assert {block.shapes for block in blocks if block.steps[-1] < 100} == {SHAPES}
    assert {block.shapes for block in blocks if block.steps[0] >= 100} == {TALL}
    assert all((block.steps < 100).all() or (block.steps >= 100).all() for block in blocks)


def test_a_graph_has_the_sizes_with_which_it_was_captured(captured, monkeypatch):
    """Replays give no sizes. So neither the rows before nor another graph may have others, unless those are fetched."""
    history = make()

    def capture(*rows):
        with captured(), monkeypatch.context() as patch:
            patch.setattr(history._ring, "_write", lambda *_, counted: None)
            for shapes in rows:
                record(history, 0, shapes=shapes)

    def replay(step):
        history._ring._write(torch.tensor(step), torch.full((2, 1), float(step)), 0)
        history.replayed(1)

    capture(TALL)
    replay(2)
    with pytest.raises(RuntimeError, match=r"another shape than before: call flush\(\) before capturing"):
        capture(SHAPES)
    history.flush()
    with pytest.raises(RuntimeError, match="another shape than before"):
        capture(SHAPES, TALL)
    history.flush()
    capture(SHAPES)
    replay(4)
    record(history, 6, shapes=TALL)
    record(history, 8, shapes=TALL)
    assert sizes(history.to_arrow()) == {2: TALL, 4: SHAPES, 6: TALL, 8: TALL}
