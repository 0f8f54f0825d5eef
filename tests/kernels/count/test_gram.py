"""Grams: those of the twin, for every dtype, stride and size, and nothing read or written where it should not be."""

from __future__ import annotations

import mmap

import pytest
import torch

from fastrank.reference.grams import gram as twin

pytest.importorskip("triton")
from fastrank.kernels.count import finish, gram, integer_gram, largest
from fastrank.kernels.count.launches import Launches
from fastrank.kernels.device import capability
from fastrank.kernels.inertia.table import FIELDS, Shape, rows_of

# One element, one row, primes, an exact tile, one more than a tile, tall, and a row that takes several chunks.
SIZES = [(1, 1), (1, 9), (7, 7), (64, 64), (65, 70), (100, 37), (130, 131), (33, 1100)]


def noise(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def summed(matrices, scale=None):
    """Every Gram `(r, r)` and trace of a batch, and the launches that made them."""
    launches = Launches(matrices, 1, keep=True)
    workspace = torch.full((launches.size,), torch.nan, dtype=torch.float64, device=matrices[0].device)
    trace = torch.full((len(matrices),), torch.nan, dtype=torch.float64, device=matrices[0].device)
    launches.sum_grams(workspace, trace, scale)
    places = zip(launches.shapes, launches.offsets, strict=True)
    whole = [workspace[o : o + s.order**2].view(s.order, s.order) for s, o in places]
    return whole, trace, launches


def close(whole, trace, matrix):
    """FP64 sums in another order: off by n u |W| |W|^T at most; padding is zero."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
    expected = twin(wide[None])
    r, n = wide.shape
    slack = (n + 4) * 2.0**-53 * (wide.double().abs() @ wide.double().abs().mT)
    assert ((whole[:r, :r] - expected.matrix[0] * expected.scale**2).abs() <= slack).all()
    assert not whole[r:].any()
    assert not whole[:, r:].any()
    assert torch.isclose(trace, (expected.trace * expected.scale**2)[0], rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_every_size_in_one_batch(dtype, device):
    matrices = [noise(*size, seed=i, dtype=dtype).to(device) for i, size in enumerate(SIZES)]
    for whole, trace, matrix in zip(*summed(matrices)[:2], matrices, strict=True):
        close(whole, trace, matrix)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_any_strides(dtype, device):
    """Transposed, every other row, every other column, both, a row again and again, and a convolution's kernel."""
    base = noise(90, 150, dtype=dtype).to(device)
    kernel = noise(20, 8, 3, 3, dtype=dtype).to(device)
    views = [
        base.mT,
        base[::2],
        base[:, ::2],
        base[::3, ::2].mT,
        base[:1].expand(40, 150),
        kernel.flatten(1),
        kernel[0, 0],
    ]
    for whole, trace, matrix in zip(*summed(views)[:2], views, strict=True):
        close(whole, trace, matrix)


def test_squares_of_the_tiles_sum_to_the_square_of_the_norm(device):
    """Every tile on and below the diagonal stands where its number says, those below counting twice."""
    matrices = [noise(*size, seed=i).to(device) for i, size in enumerate([(1, 9), (65, 70), (130, 2131)])]
    whole, _, launches = summed(matrices)
    block = gram.config(capability(device)).block
    for each, offset, shape in zip(whole, launches.offsets, launches.shapes, strict=True):
        across = -(-shape.order // block)
        start = offset // finish.SMALLEST.value
        tiles = launches._grams.squares[start : start + across**2].view(across, across)
        for i in range(across):
            for j in range(i + 1):
                tile = each[i * block : (i + 1) * block, j * block : (j + 1) * block]
                expected = tile.square().sum() * (1 if i == j else 2)
                torch.testing.assert_close(tiles[i, j], expected, rtol=1e-13, atol=0)
        torch.testing.assert_close(tiles.tril().sum(), each.square().sum(), rtol=1e-13, atol=0)


@pytest.mark.heavy
def test_columns_are_summed_in_chunks(device):
    """Few rows and many columns: several programs a tile, whose sums are added up in a fixed order."""
    matrices = [noise(70, 5000).to(device), noise(5, 3000).to(device)]
    whole, trace, launches = summed(matrices)
    assert launches._partial > 0
    for each in zip(whole, trace, matrices, strict=True):
        close(*each)
    again, _, _ = summed([noise(200, 900).to(device), *matrices])
    again = again[1:]  # whatever else is in the batch
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))


@pytest.mark.parametrize(
    ("rows", "columns", "chunks"),
    [(1, 1, 1), (64, 255, 1), (64, 576, 2), (100, 3072, 12), (512, 4608, 4), (512, 10**6, 7), (1024, 10**5, 1)],
)
def test_a_matrix_is_cut_as_long_as_all_its_programs_run_at_once(rows, columns, chunks):
    """At most 264 of them; no chunk is shorter than 256 columns or 2 r, but for the last one."""
    chunk = gram.chunk_of(Shape(rows, columns, columns, 1), 64)
    assert -(-columns // chunk) == chunks
    assert chunk % 32 == 0
    across = -(-rows // 64)
    assert chunks == 1 or (chunk >= max(256, 2 * rows) and chunks * across * (across + 1) // 2 <= gram.PROGRAMS)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_shows_in_its_own_trace_only(bad, device):
    matrices = [noise(20, 30, seed=i).to(device) for i in range(3)]
    clean, traces, _ = summed(matrices)
    matrices[1][19, 29] = bad
    whole, trace, _ = summed(matrices)
    assert trace.isfinite().tolist() == [True, False, True]
    assert torch.equal(whole[0], clean[0])
    assert torch.equal(whole[2], clean[2])
    assert torch.equal(trace[[0, 2]], traces[[0, 2]])


def test_largest_magnitudes(device):
    """Only FP64 matrices are looked at; a NaN or an Inf comes through."""
    matrices = [noise(40, 70, dtype=torch.float64).to(device), noise(5, 5).to(device)]
    matrices += [-1e-300 * noise(3, 1100, dtype=torch.float64).to(device).mT, matrices[0].clone(), matrices[0].clone()]
    matrices[3][1, 2] = torch.nan
    matrices[4][39, 69] = -torch.inf
    found = Launches(matrices, 1, keep=True).largest()
    assert found[:3].tolist() == [matrices[0].abs().max().item(), 0.0, matrices[2].abs().max().item()]
    assert found.isfinite().tolist() == [True, True, True, False, False]
    assert Launches(matrices[1:2], 1, keep=True).largest() is None


def test_largest_magnitudes_of_any_number_of_matrices(device, monkeypatch):
    """The second axis of a grid ends at 65535: matrices are on the first."""
    grids = []

    monkeypatch.setattr(largest, "launch", lambda variant, grid, arguments: grids.append(grid))
    many = torch.zeros(70_000, dtype=torch.float64, device=device)
    largest.largest_(
        many, torch.zeros(0, FIELDS.value, dtype=torch.int64, device=device), torch.arange(70_000, device=device)
    )
    ((first, second),) = grids
    assert first == 70_000
    assert second <= 65535


def test_scaled_sums_do_not_leave_the_range(device):
    """1e300 squares to infinity, 1e-300 to nothing; divided by a power of two, neither does."""
    plain = noise(30, 40, dtype=torch.float64)
    powers = torch.tensor([2.0**990, 2.0**-990, 1.0], dtype=torch.float64)
    matrices = [(plain * p).to(device) for p in powers]
    whole, trace, _ = summed(matrices, scale=powers.to(device))
    assert torch.equal(whole[0], whole[1])
    assert torch.equal(whole[0], whole[2])
    assert trace.isfinite().all()


def test_offsets_beyond_2_to_the_31(device):
    """A row stride of 2^31 - 1: row 2 lies beyond what 32 bits can address. No memory is touched but six elements.

    In 32 bits the offset of row 2 would wrap around: the naive product shows it.
    """
    stride = 2**31 - 1
    assert torch.tensor([2], dtype=torch.int32).mul(stride).item() != 2 * stride
    if device.type == "cuda":
        if torch.cuda.get_device_properties(device).total_memory < 24 * 2**30:
            pytest.skip("needs 18 GB")
        base = torch.empty(2 * stride + 2, dtype=torch.float32, device=device)
    else:
        # Pages that nothing touches take no memory.
        base = torch.frombuffer(mmap.mmap(-1, 4 * (2 * stride + 2)), dtype=torch.float32)
    matrix = base.as_strided((3, 2), (stride, 1))
    matrix.copy_(noise(3, 2))
    for each in zip(*summed([matrix])[:2], [matrix], strict=True):
        close(*each)
    wide = base.as_strided((2, 3), (1, stride))
    for each in zip(*summed([wide])[:2], [wide], strict=True):
        close(*each)


def test_offsets_of_grams_beyond_2_to_the_31(device):
    """Tables count in 64 bits: the Gram of the 33rd matrix of 8192 rows starts beyond 2^31 elements."""
    shapes = [Shape(8192, 8192, 8192, 1)] * 34
    table, size, _ = rows_of([0] * 34, shapes, [8192] * 34, range(34))
    assert table[33, 6].item() == 33 * 8192**2 > 2**31
    assert size == 34 * 8192**2


@pytest.mark.int8
def test_offsets_of_chunks_beyond_2_to_the_31(device):
    """The third chunk of integers of a Gram of order 46368 begins 46368^2 > 2^31 elements behind the second."""
    order = 46368
    if device.type == "cuda":
        if torch.cuda.get_device_properties(device).total_memory < 24 * 2**30:
            pytest.skip("needs 18 GB")
        partial = torch.empty(order**2 + 64 * order, dtype=torch.int64, device=device)
    else:
        partial = torch.frombuffer(mmap.mmap(-1, 8 * (order**2 + 64 * order)), dtype=torch.int64)
    table, *_ = rows_of([0], [Shape(order, 192, 192, 1)], [64], [0], [0])
    slices = torch.zeros(4, order, 192, dtype=torch.int8, device=device)
    slices[0, :64, 128:] = torch.arange(64, dtype=torch.int8, device=device)[:, None]
    tiles, none = (torch.tensor(x, dtype=torch.int32, device=device) for x in ([[0, 0, 0, 2]], [0]))
    integer_gram.integer_gram_(partial[:1], partial, table.to(device), tiles, none, slices.flatten(), 10)
    found = partial[order**2 :].view(64, order)[:, :64].cpu()
    assert torch.equal(found, torch.arange(64)[:, None] * torch.arange(64) * 64 * 256**3)


def test_cost_counts_half_of_the_products():
    assert gram.gram_cost([Shape(64, 100, 100, 1)], 4) == (64 * 100 * 4 + 4 * 64 * 64, 64 * 64 * 100)


def test_work_lists_each_tile_of_each_chunk_once(device):
    block = gram.config(capability(device)).block
    shape = Shape(3 * block, 1000, 1000, 1)
    tiles = gram.tiles_of([shape, shape], [1], [1000, 300], block)
    assert len(tiles) == 6 * 4
    assert len(tiles.unique(dim=0)) == len(tiles)
    assert tiles[:, 0].unique().tolist() == [1]
    assert (tiles[:, 2] <= tiles[:, 1]).all()
