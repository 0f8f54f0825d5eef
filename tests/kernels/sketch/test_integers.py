"""Products by INT8 slices: the twin's bits, and proofs that hold for the weights that they are of."""

from __future__ import annotations

import pytest
import torch

from fastrank import Tolerance, testing
from fastrank.reference import integer_sketch as twin
from fastrank.reference import sketch as proofs
from fastrank.reference.noise import normal

pytest.importorskip("triton")
from sketch_steps import SEED, Steps, noise, planted

from fastrank.kernels.sketch import proof, table

pytestmark = [pytest.mark.usefixtures("short_strips"), pytest.mark.int8]


def extremes(m, n):
    """Rows of subnormal numbers, of all magnitudes that FP32 has, of one large number among tiny ones, and of zeros."""
    matrix = noise(m, n)
    matrix[0] = torch.arange(-n, n, 2) * 2.0**-149
    matrix[1] = (0.25 - noise(n).sign()) * torch.exp2(torch.linspace(-148, 127, n))
    matrix[2] *= 1e-8
    matrix[2, n // 2] = 3e38
    matrix[3] = 0.0
    matrix[4] = torch.finfo(torch.float32).max
    matrix[5] = -torch.finfo(torch.float32).max
    matrix[6, ::2] = 2.0**-126
    assert matrix.isfinite().all()
    return matrix


def check_products(steps, matrices):
    """The bits of every chunk; the norm is that of the elements themselves, whose squares are exact."""
    steps.tensors["partial"].fill_(torch.nan)
    steps.multiply(matrices)
    for place, matrix in enumerate(matrices):
        view, basis = steps.turn(place, matrix)
        row = steps.tensors["table"][int(steps.tensors["step"]) % 2, place].tolist()
        at, chunk, first, norms = (
            row[getattr(table, name).value] for name in ("PARTIAL", "CHUNK", "FIRST_NORM", "NORMS")
        )
        expected = twin.products(view[None], basis, chunk)[:, 0]
        found = steps.tensors["partial"][at : at + expected.numel()].view(expected.shape).cpu()
        assert torch.equal(found, expected)
        norm = steps.tensors["norms"][first : first + norms].sum().item()
        assert norm == pytest.approx(view.double().square().sum().item(), rel=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_products_are_the_twins_of_any_stride_and_size(dtype, device, monkeypatch):
    """16 bytes at a time along rows and along columns, and any stride; one element, a prime, and several chunks."""
    monkeypatch.setattr(table, "chunk_of", lambda view, block: 64)
    base = noise(70, 150, dtype=dtype).to(device)
    matrices = [base[:64, :96].contiguous(), base[:40, :72].contiguous().mT, base.mT, base[::3, ::2].mT]
    matrices += [noise(7, 7, dtype=dtype).to(device)]
    if dtype == torch.float32:
        matrices += [noise(*size).to(device) for size in ((1, 1), (130, 17), (1, 40))]
        matrices += [extremes(20, 70).to(device), extremes(24, 64).to(device).mT]
    steps = Steps(matrices, integers=True)
    for _ in range(2):
        check_products(steps, matrices)
        steps.tensors["step"] += 1


@pytest.mark.parametrize("k", [32, 64, 128])
def test_products_of_more_columns_are_the_twins(k, device):
    matrices = [noise(17, 50).to(device), noise(40, 20).to(device).mT]
    check_products(Steps(matrices, k, integers=True), matrices)


def test_a_basis_is_rounded_to_nearest_and_within_one(device):
    """By products with rows that have one 1 each: ties, the ends of [-1, 1], what is beyond, and next to nothing."""
    values = [0.5, 1.5, 2.5, -0.5, -1.5, 2.0**22, 2.0**22 - 0.5, -(2.0**22), 2.0**23, -3e9, 1e-20, -0.0, 2.0**21 + 0.25]
    column = torch.tensor(values) / 2.0**22
    rows, n = 40, len(values) + 20
    matrix = torch.zeros(rows, n, device=device)
    matrix[: len(values), : len(values)] = torch.eye(len(values))
    steps = Steps([matrix], integers=True)
    steps.sketches.basis(0)[0][: len(values), 0] = column.to(device)
    steps.multiply([matrix])
    expected = [0, 2, 2, 0, -2, 2**22, 2**22, -(2**22), 2**22, -(2**22), 0, 0, 2**21]
    assert (steps.tensors["partial"][: 16 * len(values) : 16].cpu() * 2.0**22).tolist() == expected


def test_steps_are_the_twins(device):
    """Both sides, from noise to a proof, with the Gram of the rounded basis: tall and noisy, wide, zero, complete."""
    assert proof.CUT == twin.CUT
    tolerances = (Tolerance(0.03), Tolerance(0.5, "spectral"))
    matrices = [planted("noisy_low_rank", 44, 40, device), planted("low_rank", 17, 70, device, seed=1)]
    matrices += [torch.zeros(20, 24, device=device), planted("arithmetic", 5, 9, device)]
    steps = Steps(matrices, tolerances=tolerances, integers=True)
    for _ in range(2):
        matrices = [m * (1 + 0.01 * noise(m.shape[1], seed=3).to(device)) for m in matrices]
        expected, step = [], int(steps.tensors["step"])
        for place, matrix in enumerate(matrices):
            view, basis = steps.turn(place, matrix)
            basis = twin.rounded(basis)
            found = twin.sketch(view[None], basis)
            proven = proofs.prove(found, basis, tolerances)
            fresh = normal(SEED, len(view), 16, place, step)[None]
            expected.append((matrix, proven, proofs.next_basis(found, proven.top, fresh)))
        steps(matrices)
        for place, (matrix, proven, after) in enumerate(expected):
            _, low, high, *ranks = steps.sketches.proof[place].cpu()
            assert low.item() == pytest.approx(proven.top_low.item(), rel=1e-9, abs=1e-30)
            assert high.item() == pytest.approx(proven.top_high.item(), rel=1e-9, abs=1e-30)
            pairs = zip(proven.rank_lower[0], proven.rank_upper[0], strict=True)
            assert [int(x) for x in ranks] == [int(x) for pair in pairs for x in pair]
            for i, tolerance in enumerate(tolerances):
                true = testing.true_rank(matrix.cpu(), tolerance).lower.item()
                assert ranks[2 * i] <= true <= ranks[2 * i + 1]
            if min(matrix.shape) > 16:
                _, now = steps.turn(place, matrix)
                assert torch.equal(now.kept, after.kept)
                kept = now.kept[0]
                torch.testing.assert_close(now.columns[0][:, kept], after.columns[0][:, kept], rtol=0, atol=1e-5)
    assert steps.sketches.decided.tolist() == [1] * 4
    assert steps.sketches.proof[0, 3].item() == 10


@pytest.mark.filterwarnings("ignore:All-NaN slice encountered:RuntimeWarning")  # the interpreter's maximum
@pytest.mark.parametrize("bad", [(torch.nan, -torch.inf), (torch.inf, -torch.nan)])
def test_what_is_not_finite_is_seen_by_its_norm(bad, device):
    """The row has no products, and nothing is concluded from the others; nor is anything kept."""
    matrix, whole = planted("low_rank", 20, 30, device), planted("low_rank", 9, 30, device)
    steps = Steps([matrix, whole], integers=True)
    steps([matrix, whole])
    spoilt = [matrix.clone(), whole.clone()]
    for each, value in zip(spoilt, bad, strict=True):
        each[3, 5] = value
    steps(spoilt)
    for place in range(2):
        right, left, kept, top, proven, decided = steps.of(place)
        assert not proven[0].isfinite()
        assert (proven[3:].tolist(), decided.item(), top.any().item()) == ([-1.0, -1.0], 1, False)
        assert right.isfinite().all()
        assert left.isfinite().all()
        assert kept.any().item() == (place == 1)  # complete bases stay
    steps([matrix, whole])
    assert steps.sketches.proof[1, 3:].tolist() == [3.0, 3.0]
