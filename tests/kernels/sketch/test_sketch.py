"""Sketches: products, Grams, bases and proofs are the twin's, for every stride and size, and of each matrix alone."""

from __future__ import annotations

import mmap

import pytest
import torch

from fastrank import Tolerance, testing
from fastrank.reference import sketch as twin
from fastrank.reference.noise import normal

pytest.importorskip("triton")
from fastrank.kernels.sketch import rotate, sketch_gram, table
from fastrank.kernels.sketch.sketch_gram import product_grams_
from fastrank.kernels.sketch.sketches import Sketches
from fastrank.kernels.sketch.table import View

pytestmark = pytest.mark.usefixtures("short_strips")

SEED = 2**63 + 2**31 - 2**32 - 1
PAPER = (Tolerance(),)
KINDS = ("frobenius", "spectral", "absolute")


def noise(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def planted(family, m, n, device, seed=0):
    return testing.make(family, m, n, seed=seed).matrix.to(device)


class Steps:
    """Sketches of matrices, step by step."""

    def __init__(self, matrices, k=16, tolerances=PAPER, keys=None):
        device = matrices[0].device
        keys = range(len(matrices)) if keys is None else keys
        views = [View(0, *m.shape, *m.stride(), key) for m, key in zip(matrices, keys, strict=True)]
        squares = [[KINDS.index(t.relative_to), t.value**2] for t in tolerances]
        step, skip = torch.zeros((), dtype=torch.int64, device=device), torch.zeros(1, device=device)
        numbers = torch.tensor(squares, dtype=torch.float64)
        self.tolerances, self.keys = tolerances, list(keys)
        self.sketches = Sketches(views, matrices[0].dtype, k, numbers, step, skip, SEED)
        self.tensors = self.sketches.tensors

    def multiply(self, matrices):
        self.sketches.multiply(torch.tensor([m.data_ptr() for m in matrices], device=matrices[0].device))

    def __call__(self, matrices):
        self.multiply(matrices)
        self.sketches.conclude()
        self.tensors["step"] += (self.tensors["skip"] == 0).squeeze()

    def turn(self, place, matrix):
        """The matrix as it is multiplied now, with its basis, as the twin has them."""
        right, left, kept, top = (x.cpu().clone() for x in self.sketches.basis(place))
        m, n = matrix.shape
        other = m <= n if min(m, n) <= self.sketches.k else int(self.tensors["step"]) % 2 == 1
        basis = twin.Basis((left if other else right)[None], kept[None].bool(), top[None])
        return (matrix.mT if other else matrix).cpu(), basis

    def of(self, place):
        """Bits of all that is carried of a matrix, and of what is proven."""
        return [x.cpu().clone() for x in (*self.sketches.basis(place), self.sketches.proof[place],
                                          self.sketches.decided[place])]  # fmt: skip


def same(a, b):
    """To the bit; NaN equals NaN."""
    return all(torch.equal(x.nan_to_num(-7.0), y.nan_to_num(-7.0)) for x, y in zip(a, b, strict=True))


def fields(steps, place):
    side = int(steps.tensors["step"]) % 2
    row = steps.tensors["table"][side, place].tolist()
    names = ("PRODUCT", "FIRST_NORM", "NORMS", "CHUNKS", "FIRST_STRIP", "STRIPS")
    return {name: row[getattr(table, name).value] for name in names}


def check_products(steps, matrices):
    """FP64 sums in another order: off by n u |W| |V| at most."""
    steps.multiply(matrices)
    product_grams_(steps.tensors, len(matrices), steps.sketches.k)
    for place, matrix in enumerate(matrices):
        view, basis = steps.turn(place, matrix)
        found, at = twin.sketch(view[None], basis), fields(steps, place)
        (r, n), k = view.shape, steps.sketches.k
        product = steps.tensors["product"][at["PRODUCT"] : at["PRODUCT"] + r * k].view(r, k).cpu()
        slack = (n + 4) * 2.0**-53 * (view.double().abs() @ basis.columns[0].double().abs())
        assert ((product - found.product[0]).abs() <= slack).all()
        norm = steps.tensors["norms"][at["FIRST_NORM"] : at["FIRST_NORM"] + at["NORMS"]].sum()
        assert norm.item() == pytest.approx(found.norm.item(), rel=1e-13)
        gram = steps.tensors["grams"][at["FIRST_STRIP"] : at["FIRST_STRIP"] + at["STRIPS"]].sum(0).cpu()
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
    """More rows than one program's share of a Gram, as it is outside of tests."""
    for module in (table, sketch_gram, rotate):
        monkeypatch.setattr(module, "STRIP", 256)
    matrices = [noise(300, 20).to(device)]
    steps = Steps(matrices)
    assert fields(steps, 0)["STRIPS"] == 2
    check_products(steps, matrices)


def check_step(steps, matrices):
    """A step from where the sketches stand: proofs equal but for rounding, the same columns kept, and orthonormal."""
    k, step = steps.sketches.k, int(steps.tensors["step"])
    expected = []
    for place, matrix in enumerate(matrices):
        view, basis = steps.turn(place, matrix)
        found = twin.sketch(view[None], basis)
        proof = twin.prove(found, basis, steps.tolerances)
        fresh = normal(SEED, len(view), k, steps.keys[place], step)[None]
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
        if min(matrices[place].shape) <= k:
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


@pytest.mark.filterwarnings("ignore:All-NaN slice encountered:RuntimeWarning")  # the interpreter's maximum
def test_a_matrix_depends_on_nothing_but_itself(device):
    """Another run, other neighbours and a NaN in one change no bit; the spoilt matrix says so, and starts afresh."""
    plain, other = planted("low_rank", 20, 30, device), planted("low_rank", 18, 24, device, seed=1)
    alone, pair = Steps([other], keys=[1]), Steps([plain, other])
    for i in range(5):
        alone([other])
        spoilt = plain.clone()
        if i == 2:
            spoilt[19, 29] = torch.nan
        pair([spoilt, other])
        assert same(alone.of(0), pair.of(1))
        right, left, kept, _, proof, decided = pair.of(0)
        assert (right.isfinite().all(), left.isfinite().all()) == (True, True)
        if i == 2:
            assert proof[0].isnan()
            assert (proof[3:].tolist(), decided.item(), kept.sum().item()) == ([-1.0, -1.0], 1, 0)
        else:
            assert decided.item() == (i in (1, 4))
            assert proof[3:].tolist() == ([5.0, 5.0] if i in (1, 4) else [0.0, 20.0])


def test_a_step_that_is_skipped_leaves_everything_as_it_was(device):
    """Whatever the weights are by then; and the next step is the one that would have come."""
    matrices = [planted("low_rank", 20, 30, device), planted("low_rank", 9, 8, device)]
    straight, skipping = Steps(matrices), Steps(matrices)
    straight(matrices)
    skipping(matrices)
    names = ("bases", "kept", "top", "basis_grams", "step", "proof", "decided")
    before = {name: skipping.tensors[name].clone() for name in names}
    skipping.tensors["skip"].fill_(1)
    skipping([matrices[0] * torch.inf, matrices[1] + 1])
    for name in names:
        assert torch.equal(before[name], skipping.tensors[name]), name
    skipping.tensors["skip"].zero_()
    straight(matrices)
    skipping(matrices)
    for place in range(2):
        assert same(straight.of(place), skipping.of(place))


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
