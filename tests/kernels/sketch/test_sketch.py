"""Sketches: products, Grams, bases and proofs are the twin's, for every stride and size."""

from __future__ import annotations

import mmap

import pytest
import torch

from fastrank import Tolerance, testing
from fastrank.reference import sketch as twin
from fastrank.reference.noise import normal

pytest.importorskip("triton")
from sketch_steps import SEED, Steps, noise, planted

from fastrank.kernels.sketch import table
from fastrank.kernels.sketch.sketch_gram import product_grams_
from fastrank.kernels.sketch.table import strip_of

pytestmark = pytest.mark.usefixtures("short_strips")


def fields(steps, place):
    side = int(steps.tensors["step"]) % 2
    row = steps.tensors["table"][side, place].tolist()
    names = ("PRODUCT", "FIRST_NORM", "NORMS", "CHUNKS", "GRAM", "STRIPS")
    return {name: row[getattr(table, name).value] for name in names}


def check_products(steps, matrices):
    """FP64 sums in another order: off by n u |W| |V| at most."""
    steps.multiply(matrices)
    product_grams_(steps.tensors)
    for place, matrix in enumerate(matrices):
        view, basis = steps.turn(place, matrix)
        found, at = twin.sketch(view[None], basis), fields(steps, place)
        (r, n), k = view.shape, steps.ks[place]
        product = steps.tensors["product"][at["PRODUCT"] : at["PRODUCT"] + r * k].view(r, k).cpu()
        slack = (n + 4) * 2.0**-53 * (view.double().abs() @ basis.columns[0].double().abs())
        assert ((product - found.product[0]).abs() <= slack).all()
        norm = steps.tensors["norms"][at["FIRST_NORM"] : at["FIRST_NORM"] + at["NORMS"]].sum()
        assert norm.item() == pytest.approx(found.norm.item(), rel=1e-13)
        gram = steps.tensors["grams"][at["GRAM"] : at["GRAM"] + at["STRIPS"] * k * k].view(-1, k, k).sum(0).cpu()
        torch.testing.assert_close(gram, found.gram[0], rtol=1e-11, atol=1e-13 * found.norm.item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_products_and_grams_of_any_stride_and_size(dtype, device, monkeypatch):
    """Transposed, every other row and column, a row again and again, a convolution's kernel; one element, a prime, more
    than a strip, and rows that several programs share, the last of which has little to do."""
    monkeypatch.setattr(table, "chunk_of", lambda view, block: 64)
    base, kernel = noise(70, 150, dtype=dtype).to(device), noise(20, 8, 3, 3, dtype=dtype).to(device)
    matrices = [base.mT, base[::2], base[::3, ::2].mT, base[:1].expand(18, 150), kernel.flatten(1)]
    matrices += [noise(*size, dtype=dtype).to(device) for size in ((1, 1), (7, 7), (130, 17), (1, 40), (30, 3))]
    steps = Steps(matrices)
    assert [fields(steps, place)["CHUNKS"] for place in range(4)] == [2, 3, 1, 3]
    for _ in range(2):
        check_products(steps, matrices)
        steps.tensors["step"] += 1


def test_whole_strips(device, monkeypatch):
    """More rows than one program's share of a Gram, as it is outside of tests; 64 at k = 16."""
    monkeypatch.setattr(table, "strip_of", strip_of)
    matrices = [noise(300, 20).to(device)]
    steps = Steps(matrices)
    assert fields(steps, 0)["STRIPS"] == 5
    check_products(steps, matrices)


def check_step(steps, matrices):
    """A step from where the sketches stand: proofs equal but for rounding, the same columns kept, and orthonormal."""
    step, expected = int(steps.tensors["step"]), []
    for place, matrix in enumerate(matrices):
        view, basis = steps.turn(place, matrix)
        found = twin.sketch(view[None], basis)
        proof = twin.prove(found, basis, steps.tolerances)
        fresh = normal(SEED, len(view), steps.ks[place], steps.keys[place], step)[None]
        expected.append((basis, proof, twin.next_basis(found, proof.top, fresh)))
    steps(matrices)
    for place, (basis, proof, after) in enumerate(expected):
        norm, low, high, *ranks = steps.sketches.proof[place].cpu()
        assert norm.item() == pytest.approx(matrices[place].double().square().sum().item(), rel=1e-13)
        assert low.item() == pytest.approx(proof.top_low.item(), rel=1e-9, abs=1e-30)
        assert high.item() == pytest.approx(proof.top_high.item(), rel=1e-9, abs=1e-30)
        bounds = [int(x) for pair in zip(proof.rank_lower[0], proof.rank_upper[0], strict=True) for x in pair]
        assert [int(x) for x in ranks] == bounds
        assert steps.sketches.decided[place] == all(a == b for a, b in zip(bounds[::2], bounds[1::2], strict=True))
        _, now = steps.turn(place, matrices[place])
        if min(matrices[place].shape) <= steps.ks[place]:
            assert torch.equal(now.columns, basis.columns)
            assert torch.equal(now.kept, basis.kept)
            continue
        assert torch.equal(now.kept, after.kept)
        kept = now.kept[0]
        v = now.columns[0][:, kept].double()
        if kept.any():
            assert (v.mT @ v - torch.eye(v.shape[1])).abs().max() < 1e-6
            torch.testing.assert_close(v, after.columns[0][:, kept].double(), rtol=0, atol=1e-5)
        fresh, theirs = now.columns[0][:, ~kept], after.columns[0][:, ~kept]
        torch.testing.assert_close(fresh, theirs, rtol=1e-5, atol=1e-7)
        directions = [torch.nn.functional.normalize(x, dim=-1) for x in (now.top, after.top)]
        torch.testing.assert_close(*directions, rtol=0, atol=1e-5)
    return [proof for _, proof, _ in expected]


@pytest.mark.usefixtures("either_language")
def test_steps_are_the_twins(device):
    """Both sides, from noise to a proof: tall and noisy, wide, zero, and one whose basis is complete."""
    tolerances = (Tolerance(0.03), Tolerance(0.5, "spectral"))
    matrices = [planted("noisy_low_rank", 44, 40, device), planted("low_rank", 17, 70, device, seed=1)]
    matrices += [torch.zeros(20, 24, device=device), planted("arithmetic", 5, 9, device)]
    steps = Steps(matrices, tolerances=tolerances)
    for _ in range(3):
        matrices = [m * (1 + 0.01 * noise(m.shape[1], seed=3).to(device)) for m in matrices]
        proofs = check_step(steps, matrices)
    assert [bool((p.rank_lower == p.rank_upper).all()) for p in proofs] == [True] * 4
    assert proofs[0].rank_lower[0, 0] == 10


@pytest.mark.parametrize(("k", "size"), [(32, (40, 50)), (64, (66, 70)), (128, (130, 129))])
@pytest.mark.usefixtures("either_language")
def test_more_columns(k, size, device):
    """One step from a basis that somebody had: as the twin's, and ten values above a tail are proven to be ten."""
    sigma = torch.cat([torch.linspace(1, 0.5, 10), torch.full((min(size) - 10,), 1e-6)]).double()
    matrices = [testing.planted(sigma, *size, seed=k).to(device)]
    steps = Steps(matrices, k)
    right = torch.linalg.svd(matrices[0].cpu().double(), full_matrices=False).Vh.mT[:, :k].float()
    given = (right, torch.zeros(size[0], k), torch.ones(k), torch.zeros(k))
    steps.sketches.adopt({0: [x.to(device) for x in given]})
    (proof,) = check_step(steps, matrices)
    assert (proof.rank_lower.item(), proof.rank_upper.item()) == (10, 10)
    assert proof.top_high / proof.top_low < 1 + 2e-5


def test_noise_is_the_twins(device):
    """Before the first step, of the side whose turn it is: numbers of the step before, over sqrt(n)."""
    matrices = [torch.zeros(40, 70, device=device), torch.zeros(50, 33, device=device)]
    steps = Steps(matrices, keys=[5, 2**31 + 7])
    assert not steps.tensors["kept"].any()
    for place, key in enumerate(steps.keys):
        right = steps.sketches.basis(place)[0]
        expected = normal(SEED, len(right), 16, key, -1) / len(right) ** 0.5
        torch.testing.assert_close(right.cpu(), expected, rtol=1e-5, atol=1e-6 / len(right) ** 0.5)


@pytest.mark.parametrize("tall", [False, True])
def test_offsets_beyond_2_to_the_31(tall, device):
    """A row stride of 2^31 - 1: row 2 lies beyond what 32 bits can address. No memory is touched but six elements."""
    stride = 2**31 - 1
    if device.type == "cuda":
        if torch.cuda.get_device_properties(device).total_memory < 24 * 2**30:
            pytest.skip("needs 18 GB")
        base = torch.empty(2 * stride + 2, dtype=torch.float32, device=device)
    else:
        # Pages that nothing touches take no memory.
        base = torch.frombuffer(mmap.mmap(-1, 4 * (2 * stride + 2)), dtype=torch.float32)
    matrix = base.as_strided((3, 2), (stride, 1)) if tall else base.as_strided((2, 3), (1, stride))
    matrix.copy_(noise(*matrix.shape))
    check_products(Steps([matrix]), [matrix])
