"""`ldl.cu`: its tasks, its blocks in any order, what is skipped, and the operations that delta has to allow for.

That its counts, growth and factors are right is in `test_ldl.py`, beside those of the kernels in Triton.
"""

from __future__ import annotations

import re

import cuda_cpu
import pytest
import torch

from fastrank.reference import unpivoted_terms

pytest.importorskip("triton")
from gram_batch import Batch, symmetric

from fastrank.kernels.count import Launches
from fastrank.kernels.device import ARCHITECTURES
from fastrank.kernels.inertia import table
from fastrank.kernels.inertia.factors import cuda_variant
from fastrank.kernels.inertia.tasks import FIELDS, TILE, Tasks

CPU = torch.device("cpu")


def answers(batch):
    """Counts, growth and factors; above the diagonal a factor is whatever shared memory had in it."""
    shifts = range(batch.problems.counts.shape[1])
    factors = [batch.factor_of(i, s)[:r, :r].tril().tolist() for i, r in enumerate(batch.rows) for s in shifts]
    return batch.problems.counts.tolist(), batch.problems.growth.tolist(), factors


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


@pytest.mark.usefixtures("stand_in", "cuda_cpp")
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


def test_the_kernel_reads_the_table_as_it_is_written():
    text = cuda_variant(True, (9, 0)).source
    for name in ("ROWS", "ORDER", "OFFSET", "FIELDS"):
        assert re.search(rf"enum {{.*\b{name} = {getattr(table, name).value}\b.*}};  // as in `inertia.table`", text), (
            name
        )
