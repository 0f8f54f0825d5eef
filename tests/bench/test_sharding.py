"""The table of plans on paper: how weights are cut, and that a row says what its plan says."""

from __future__ import annotations

import pytest
import sharding
import torch

from fastrank.sharing import Span, make_plan


def test_models_have_their_matrices():
    small, large = sharding.MODELS["7B"], sharding.MODELS["70B"]
    assert (len(small), len(large)) == (226, 562)
    assert sum(w.shape[0] * w.shape[1] for w in small) == 6_738_149_376  # all parameters but those of norms
    assert sum(w.shape[0] * w.shape[1] for w in large) == 70_552_387_584


@pytest.mark.parametrize(("size", "count"), [(10, 4), (3, 5), (8, 8), (9, 1)])
def test_chunks_are_those_of_torch(size, count):
    wanted = [part.tolist() for part in torch.arange(100, 100 + size).chunk(count)]
    found = [list(range(*sharding.chunk(100, 100 + size, count, i))) for i in range(count)]
    assert found == wanted + [[]] * (count - len(wanted))


def test_tensor_parallelism_comes_first():
    layout = sharding.Layout("", 2, 4)
    rows, columns = (sharding.Weight("x", (16, 8), side) for side in (0, 1))
    assert sharding.piece(rows, layout, 5) == (Span(6, 8, 0, 8),)
    assert sharding.piece(columns, layout, 5) == (Span(8, 16, 2, 4),)
    assert sharding.piece(rows, sharding.Layout("", 5, 8), 39) == ()


def test_a_row_is_of_its_plan():
    weights, layout = sharding.llama(1, 32, 8, 88, 96), sharding.Layout("FSDP 2 x TP 2", 2, 2)
    cells = dict(zip(sharding.HEADER, sharding.row("tiny", weights, layout, "bfloat16"), strict=True))
    plan = make_plan(sharding.declared(weights, layout, "bfloat16"))
    assert [cells[key] for key in ("matrices", "dtype", "ranks", "layout")] == ["tiny", "bfloat16", "4", layout.name]
    assert sum(int(cells[way]) for way in ("local", "whole", "gram")) == len(weights) == 9
    assert int(cells["rounds"]) == len(plan.rounds)
    sent, received, moved, memory = sharding.figures(plan, 4)
    assert max(sent, received) <= moved == plan.total
    assert memory == max(plan.memory(rank) for rank in range(4)) > 0


def test_a_row_of_sketches_is_of_its_plan():
    """The sums are those of all messages, written out."""
    weights, layout = sharding.llama(1, 512, 512, 1024, 2048), sharding.Layout("FSDP 4", 4, 1)
    plan = make_plan(sharding.declared(weights, layout, "float32"))
    cells = dict(zip(sharding.SKETCHED_HEADER, sharding.sketched_row("tiny", plan, layout, "float32", 16), strict=True))
    assert (cells["sketched"], cells["k"], cells["layout"]) == ("9", "16", "FSDP 4")
    # Of each matrix three ranks of four send a quarter of the rows, or all columns, in FP64, and get them in FP32.
    heights, widths = (sum(weight.shape[side] for weight in weights) for side in (0, 1))
    moved = 12 * 16 * (heights * 3 / 4 + 3 * widths) / 2 + 8 * 3 * 9
    assert float(cells["times less"]) == round(plan.total / moved, 1)
    assert float(cells["moved GB"]) == round(moved / 1e9, 2)


def test_the_program_prints_a_table(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["sharding.py", "--only", "7B"])
    monkeypatch.setitem(sharding.LAYOUTS, "7B", [sharding.Layout("TP 2", 1, 2)])
    assert sharding.main() == 0
    whole, _, sketched = capsys.readouterr().out.partition("\n\n| matrices | dtype | ranks | layout | k |")
    assert [row.split(" | ")[3:6] for row in sketched.splitlines()[2:]] == [
        ["TP 2", k, "226"] for k in ("16", "64")
    ] * 2
    first, _, header, _, *rows = whole.splitlines()
    assert first.startswith("Computed, not measured")
    assert [cell.strip() for cell in header.split("|")[1:-1]] == list(sharding.HEADER)
    assert [row.split(" | ")[3] for row in rows] == ["TP 2"] * 2 + ["Shard(0)"] * 2 + ["Shard(1)"] * 2
