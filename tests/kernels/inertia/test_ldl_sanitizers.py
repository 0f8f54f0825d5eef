"""`ldl.cu` under sanitizers, which watch every access of it, and with something left out that it needs."""

from __future__ import annotations

import cuda_cpu
import pytest
import torch

pytest.importorskip("triton")
from gram_batch import Batch, symmetric

from fastrank.kernels.inertia.factors import cuda_variant
from fastrank.kernels.inertia.tasks import TILE, Tasks

CPU = torch.device("cpu")
pytestmark = [pytest.mark.usefixtures("stand_in"), pytest.mark.heavy]


def arguments(r, shifts=2, seed=0):
    """All arguments of a launch for one matrix, by name."""
    batch = Batch([symmetric(r, seed)], tuple(10.0 ** -(2 + s) for s in range(shifts)))
    tasks = Tasks.of([r], [0], shifts, 0, CPU)
    sizes = {"count": len(tasks.tasks), "shifts": shifts, "parts": 1, "inverses": 0}
    given = batch.problems._asdict() | tasks.progress()._asdict() | {"tasks": tasks.tasks}
    return batch, given | sizes


def apart(tmp_path, sanitizer, r, resident, seed, edit=lambda file, text: text, at=(9, 0), progress=0):
    """Counts of a launch under a sanitizer, what it said, and the right counts."""
    batch, given = arguments(r)
    given["progress"].fill_(progress)
    variant = cuda_variant(r > TILE, at)
    file = tmp_path / "arguments"
    said, status = cuda_cpu.run_apart(
        variant, sanitizer, given, given["count"], file, resident=resident, seed=seed, edit=edit
    )
    exact = torch.linalg.eigvalsh(symmetric(r))
    expected = [int((exact > 10.0 ** -(2 + s)).sum()) for s in range(2)]
    return batch.problems.counts[0].tolist() == expected, said, status


@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
@pytest.mark.parametrize(
    ("r", "at", "resident", "seed"),
    [(60, (9, 0), 2, 1), (200, (9, 0), 99, 1), (135, (8, 6), 3, 2)],
)
def test_sanitizers_find_nothing(tmp_path, sanitizer, r, at, resident, seed):
    """No access that no barrier and no announcement orders, none beside an array, none that is misaligned."""
    right, said, status = apart(tmp_path, sanitizer, r, resident, seed, at=at)
    assert (right, status) == (True, 0), said
    assert "ERROR" not in said
    assert "runtime error" not in said


@pytest.mark.parametrize("r", [60, 200])
def test_counters_may_wrap_around(tmp_path, r):
    """After 2^31 / 9 launches, two and a half days of a thousand a second."""
    right, said, status = apart(tmp_path, "address,undefined", r, 9, 1, progress=2**31 - 4)
    assert (right, status) == (True, 0), said
    assert "runtime error" not in said


LEFT_OUT = {
    "a block waits for a tile": ("tiles.cuh", "|| p.news(p.tile(j, k)) < STRIPS", ""),
    "a block waits for a strip": ("eliminate.cuh", "p.news(p.tile(j, j));", "STRIPS;"),
    "rows of the 8 x 8 block are there": ("eliminate.cuh", "barrier_of(ROW_THREADS);  // the rows", "  // the rows"),
    "a chunk has been read": (
        "tiles.cuh",
        "__syncthreads();\n        if (is_row_thread()) {",
        "if (is_row_thread()) {",
    ),
    "a chunk has arrived": ("tiles.cuh", "wait_groups<STAGES - 2>();", ";"),
    "a strip is announced": ("eliminate.cuh", "announce(p.progress + p.tile(i, i), 1);", ";"),
}


@pytest.mark.parametrize("what", LEFT_OUT)
def test_what_is_left_out_is_noticed(tmp_path, what):
    """Negative control: a report of a race, a wrong count, or blocks that wait for ever."""
    name, old, new = LEFT_OUT[what]

    def edit(file, text):
        assert file != name or text.count(old) == 1
        return text.replace(old, new) if file == name else text

    right, said, status = apart(tmp_path, "thread", 135, 99, 1, edit)
    assert "data race" in said or status or not right


def test_sums_are_added_up_in_pieces(tmp_path):
    """Pieces of 512 columns are as good as one: here they are of 16, so that a small matrix has many."""
    right, said, status = apart(
        tmp_path, "address,undefined", 260, 4, 1, lambda file, text: text.replace("FLUSH = 512 /", "FLUSH = 16 /")
    )
    assert (right, status) == (True, 0), said
