"""`ldl.cu`: its tasks, its blocks in any order, what is skipped, and sanitizers that watch every access of it.

That its counts, growth and factors are right is in `test_ldl.py`, beside those of the kernels in Triton.
"""

from __future__ import annotations

import cuda_cpu
import pytest
import torch

from fastrank.reference import unpivoted_terms

pytest.importorskip("triton")
from fastrank.kernels.count import Launches
from fastrank.kernels.device import ARCHITECTURES
from fastrank.kernels.inertia import Factors, Problems
from fastrank.kernels.inertia.factors import cuda_variant
from fastrank.kernels.inertia.table import Shape, rows_of
from fastrank.kernels.inertia.tasks import FIELDS, TILE, Tasks

CPU = torch.device("cpu")


@pytest.fixture
def stand_in(device):
    """Tests of what a GPU does not tell are for where it is not, or their time would be taken from it."""
    if device.type != "cpu" or cuda_cpu.COMPILER is None:
        pytest.skip("for a CPU with g++")


def symmetric(r, seed=0):
    """Positive definite, with eigenvalues from 1 to 1e-6."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(r, r, generator=generator, dtype=torch.float64)).Q
    return (q * torch.logspace(0, -6, r, dtype=torch.float64)) @ q.mT


class Batch:
    """Problems of Grams of these matrices, each with all `shifts`; above the diagonal Grams are NaN."""

    def __init__(self, grams, shifts, device=CPU):
        self.shapes = [Shape(len(g), len(g), len(g), 1) for g in grams]
        table, size, _ = rows_of([0] * len(grams), self.shapes, self.rows, range(len(grams)))
        workspace = torch.full((size,), torch.nan, dtype=torch.float64)
        self.offsets = table[:, 6].tolist()
        for g, shape, offset in zip(grams, self.shapes, self.offsets, strict=True):
            place = workspace[offset : offset + shape.order**2].view(shape.order, -1)
            place[:] = torch.ones_like(place).tril() * 0 + torch.where(
                torch.ones_like(place).tril() > 0, 0.0, torch.nan
            )
            place[: len(g), : len(g)] = torch.where(torch.ones_like(g).tril() > 0, g, torch.nan)
        b, s = len(grams), len(shifts)
        coefficients = torch.tensor([[[0.0, shift] for shift in shifts]] * b, dtype=torch.float64)
        trace = torch.stack([g.trace() for g in grams])
        factors = torch.full((size * s,), torch.nan, dtype=torch.float64)
        counts, growth = torch.full((b, s), -7), torch.full((b, s, 1), -7.0, dtype=torch.float64)
        decided = torch.zeros(b, dtype=torch.int32)
        given = (table, decided, coefficients, trace, workspace, factors, counts, growth)
        self.problems = Problems(*(x.to(device) for x in given))

    @property
    def rows(self):
        return [shape.rows for shape in self.shapes]

    def factors(self, shifts, pairs=0, inverses=False):
        """What factors all of them, with memory of their own for its launches."""
        made = Factors(
            self.rows, range(len(self.rows)), self.problems.table.device, shifts, pairs=pairs, inverses=inverses
        )
        self.problems = self.problems._replace(pairs=pairs, progress=made.progress(shifts))
        return made

    def factor_of(self, i, s):
        order, shifts = self.shapes[i].order, self.problems.counts.shape[1]
        start = shifts * self.offsets[i] + s * order**2
        return self.problems.factors[start : start + order**2].view(order, order).cpu()


def answers(batch):
    return batch.problems.counts.tolist(), batch.problems.growth.tolist(), batch.problems.factors.nan_to_num(0).tolist()


@pytest.mark.parametrize("rows", [[1], [64], [65], [300, 1, 64, 129, 4096]])
@pytest.mark.parametrize("pairs", [0, 1])
def test_a_task_comes_after_those_it_depends_on(rows, pairs):
    ids, shifts = list(range(len(rows)))[::-1], 4
    tasks = Tasks.of(rows, ids, shifts, pairs, CPU)
    assert tasks.tasks.shape[1] == FIELDS
    made: dict[tuple[int, int], set[tuple[int, int]]] = {}
    places: dict[tuple[int, int], tuple[int, int]] = {}
    for matrix, shift, i, j, tile, pivot in tasks.tasks.tolist():
        done = made.setdefault((matrix, shift), set())
        own = {(i, j)} | ({(i, i - 1)} if i == j and i else set())
        for row, column in own:
            needed = {(row, k) for k in range(column)} | {(column, k) for k in range(column + 1)}
            assert needed <= done | own
        assert not own & done
        done |= own
        assert places.setdefault((matrix, shift), (tile, pivot)) == (tile, pivot)
    sizes = {key: -(-rows[key[0]] // TILE) for key in made}
    assert len(made) == len(rows) * shifts
    assert all(len(done) == sizes[key] * (sizes[key] + 1) // 2 for key, done in made.items())
    for which, each, total in ((0, lambda n: n * (n + 1) // 2, tasks.tiles), (1, lambda n: n * TILE, tasks.pivots)):
        starts = sorted((place[which], each(sizes[key])) for key, place in places.items())
        assert [start for start, _ in starts] == [sum(n for _, n in starts[:k]) for k in range(len(starts))]
        assert total == sum(n for _, n in starts)


def test_what_bounds_a_rank_from_above_comes_last():
    tasks = Tasks.of([200, 64], [0, 1], 4, 1, CPU).tasks
    shifts = tasks[:, 1].tolist()
    assert 0 not in shifts[: shifts.index(0)]
    assert set(shifts[shifts.index(0) :]) == {0}
    assert set(shifts[: shifts.index(0)]) == {1, 2, 3}


@pytest.mark.usefixtures("cuda_cpp")
def test_blocks_in_any_order_give_the_same_bits_launch_after_launch(monkeypatch, device):
    grams = [symmetric(r, r) for r in (130, 20, 200)]
    found = []
    batch = Batch(grams, (1e-3, 1e-5), device)
    factors = batch.factors(2)
    for resident, seed in ((1, 0), (3, 0), (64, 1), (5, 2), (64, 3)):
        monkeypatch.setattr(cuda_cpu, "resident", resident)
        monkeypatch.setattr(cuda_cpu, "seed", seed)
        batch.problems.counts.fill_(-7)
        batch.problems.factors.fill_(torch.nan)
        factors.launch(batch.problems)
        found.append(answers(batch))
    assert all(each == found[0] for each in found)
    expected = [[int((torch.linalg.eigvalsh(g) > shift).sum()) for shift in (1e-3, 1e-5)] for g in grams]
    assert found[0][0] == expected


@pytest.mark.usefixtures("cuda_cpp")
def test_calls_that_may_be_under_way_at_the_same_time_share_no_counters(device):
    """A plan of `fastrank.linalg` is made once for the same tensors, and may be used on several streams."""
    launches = Launches([torch.randn(70, 80, device=device)], 2, keep=True)
    given = [torch.zeros(1, 2, 2, dtype=torch.float64, device=device)] * 4
    first, second = (launches.problems(torch.zeros(launches.size, device=device), *given, 1).progress for _ in range(2))
    assert not {x.data_ptr() for x in first} & {x.data_ptr() for x in second}


@pytest.mark.usefixtures("cuda_cpp")
def test_matrices_that_are_skipped_now_and_then(device):
    """Counters of a problem stay equal, whether a launch has skipped it or not."""
    grams = [symmetric(r, r) for r in (130, 70)]
    batch = Batch(grams, (1e-3,), device)
    factors = batch.factors(1)
    factors.launch(batch.problems)
    first = answers(batch)
    for decided in ([1, 0], [0, 1], [1, 1], [0, 0]):
        batch.problems.decided.copy_(torch.tensor(decided, dtype=torch.int32))
        batch.problems.counts.fill_(-7)
        factors.launch(batch.problems)
        expected = [[-7] if skipped else count for skipped, count in zip(decided, first[0], strict=True)]
        assert batch.problems.counts.tolist() == expected
    assert answers(batch) == first


@pytest.mark.usefixtures("cuda_cpp")
def test_the_shift_above_is_not_counted_where_the_rank_is_full(monkeypatch, device):
    """Shift 0 bounds the rank from above; at 10 there would be nothing above it, and at 1e-9 the rank is full."""
    monkeypatch.setattr(cuda_cpu, "resident", 1)  # then the one is done before the other begins
    grams = [symmetric(130), symmetric(60)]
    for shifts, pairs, counts in (((10.0, 1e-9), 1, [130, 60]), ((10.0, 1e-9), 0, [0, 0]), ((10.0, 1e-3), 1, [0, 0])):
        batch = Batch(grams, shifts, device)
        factors = batch.factors(2, pairs)
        for _ in range(2):
            batch.problems.counts.zero_()
            factors.launch(batch.problems)
            assert batch.problems.counts[:, 0].tolist() == counts
            assert (batch.problems.growth[:, 0, 0].tolist() == [0.0, 0.0]) == (counts[0] > 0)
        assert batch.problems.counts[:, 1].tolist() == ([130, 60] if shifts[1] == 1e-9 else [65, 30])


@pytest.mark.usefixtures("cuda_cpp")
@pytest.mark.parametrize("r", [16, 48, 64, 128])
def test_inverses_of_blocks_stand_above_the_diagonal(r, device):
    batch = Batch([symmetric(r)], (0.0,), device)
    batch.factors(1, inverses=True).launch(batch.problems)
    factor = batch.factor_of(0, 0)
    for start in range(0, r, 16):
        block = factor[start : start + 16, start : start + 16]
        lower = block.tril(-1) + torch.eye(16, dtype=torch.float64)
        inverse = block.triu(1).mT + torch.eye(16, dtype=torch.float64)
        assert torch.dist(lower @ inverse, torch.eye(16, dtype=torch.float64)) < 1e-12 * inverse.norm()


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


@pytest.mark.usefixtures("stand_in")
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


@pytest.mark.usefixtures("stand_in")
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


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("what", LEFT_OUT)
def test_what_is_left_out_is_noticed(tmp_path, what):
    """Negative control: a report of a race, a wrong count, or blocks that wait for ever."""
    name, old, new = LEFT_OUT[what]

    def edit(file, text):
        assert file != name or text.count(old) == 1
        return text.replace(old, new) if file == name else text

    right, said, status = apart(tmp_path, "thread", 135, 99, 1, edit)
    assert "data race" in said or status or not right


@pytest.mark.usefixtures("stand_in")
def test_sums_are_added_up_in_pieces(tmp_path):
    """Pieces of 512 columns are as good as one: here they are of 16, so that a small matrix has many."""
    right, said, status = apart(
        tmp_path, "address,undefined", 260, 4, 1, lambda file, text: text.replace("FLUSH = 512 /", "FLUSH = 16 /")
    )
    assert (right, status) == (True, 0), said


def test_the_terms_of_delta_cover_every_operation():
    """Most is done to the diagonal tile: its products arrive in pieces, then from the tile beside it, then its own."""
    for r in range(1, 5000):
        own, before = (r - 1) % TILE + 1, (r - 1) // TILE * TILE
        pieces = -(-max(before - TILE, 0) // 512)
        most = min(max(before - TILE, 0), 512) + pieces + min(before, TILE) + own + 1
        moved = 2  # of a pivot
        assert most <= unpivoted_terms(torch.tensor(float(r)))
        assert pieces + min(before, TILE) + own + moved <= unpivoted_terms(torch.tensor(float(r)))


def test_a_launch_fits_every_architecture():
    """Two blocks in 228 KiB, one in 99 KiB where there is no more."""
    for name, at in ARCHITECTURES.items():
        many = cuda_variant(True, at)
        assert many.shared <= (111 if name in ("sm_80", "sm_90", "sm_100") else 99) * 1024
        strips, tiles = 2 * int(many.macros["STAGES"]), 2
        assert many.shared == 8 * (strips * 64 * 12 + tiles * 64 * 72 + 8 * int(many.macros["STAGES"])) + 16
        assert cuda_variant(False, at).shared == 8 * (2 * 64 * 12 + 64 * 72 + 8 * 3) + 16
