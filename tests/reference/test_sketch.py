"""Sketches: what they prove is true at every step, whatever the weights do, and each safeguard is needed for it."""

from __future__ import annotations

import pytest
import torch

from fastrank import RankBounds, Tolerance, testing
from fastrank.reference import sketch as module
from fastrank.reference.noise import normal
from fastrank.reference.sketch import Basis, next_basis, noise_columns, prove, sketch, start

TOLERANCES = (
    Tolerance(),
    Tolerance(0.05),
    Tolerance(0.01, "spectral"),
    Tolerance(0.2, "absolute"),
    Tolerance(0.0),
    Tolerance(1e200, "absolute"),
)


class Follower:
    """Sketches of a stack `(b, m, n)` that changes from call to call, both sides by turns."""

    def __init__(self, shape, k=16):
        self.batch, _, n = shape
        self.k, self.step = k, 0
        self.basis = start(self.noise(n, -1))

    def noise(self, rows, step):
        return torch.stack([normal(0, rows, self.k, i, step) for i in range(self.batch)])

    def __call__(self, stack, tolerances=TOLERANCES[:1]):
        view = stack.mT if self.step % 2 else stack
        found = sketch(view, self.basis)
        proof = prove(found, self.basis, tolerances)
        self.basis = next_basis(found, proof.top, self.noise(view.shape[1], self.step))
        self.step += 1
        return proof


def assert_true(proof, stack, tolerances):
    """No bound excludes what FP64 singular values say."""
    for i, tolerance in enumerate(tolerances):
        bounds = RankBounds(proof.rank_lower[:, i], proof.rank_upper[:, i], torch.zeros(len(stack)))
        assert testing.count_errors(bounds, testing.true_rank(stack, tolerance)).wrong == 0, tolerance
    top = testing.true_singular_values(stack)[:, 0].square()
    assert (proof.top_low <= top * (1 + 1e-13)).all()
    assert (proof.top_high >= top * (1 - 1e-13)).all()


def decided(proof):
    return proof.rank_lower == proof.rank_upper


def gaussian(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def family(name, m, n, seed):
    if name == "rank 1":
        return gaussian(m, 1, seed=seed) * gaussian(1, n, seed=seed + 1)
    return gaussian(m, n) if name == "gaussian" else testing.make(name, m, n, seed=seed, dtype=torch.float64).matrix


FAMILIES = (*testing.FAMILIES, "rank 1", "gaussian")
# Wide, tall, more columns than the smaller side has, square with k close to r, one row.
SHAPES = [(30, 70, 16), (70, 30, 16), (10, 24, 16), (40, 40, 32), (1, 20, 16)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_bounds_hold_at_every_step_of_weights_that_drift(m, n, k, dtype):
    exact = torch.stack([family(name, m, n, seed) for seed, name in enumerate(FAMILIES)])
    size = torch.linalg.matrix_norm(exact)[:, None, None] / (m * n) ** 0.5
    follow = Follower(exact.shape, k)
    for i in range(10):
        stack = exact.to(dtype)
        proof = follow(stack, TOLERANCES)
        assert_true(proof, stack, TOLERANCES)
        # Even families turn and keep their rank, odd ones get noise; zero stays zero.
        turned = exact * (1 + 0.02 * gaussian(len(exact), 1, n, seed=i))
        even = (torch.arange(len(exact)) % 2 == 0)[:, None, None]
        exact = torch.where(even, turned, exact + 1e-3 * size * gaussian(*exact.shape, seed=i))
    zero = FAMILIES.index("zero")
    assert proof.rank_upper[zero].tolist() == [0] * len(TOLERANCES)
    assert decided(proof)[FAMILIES.index("rank 1"), 1]  # of 0.05: rounding to BF16 is more than 1e-3


@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1e30])
def test_scale_does_not_matter(scale):
    stack = torch.stack([family(name, 30, 40, 3) for name in ("low_rank", "noisy_low_rank", "arithmetic")])
    plain, scaled = Follower(stack.shape), Follower(stack.shape)
    for _ in range(5):
        a, b = plain(stack.float()), scaled((stack * scale).float())
        assert_true(b, (stack * scale).float(), TOLERANCES[:1])
        assert torch.equal(decided(a), decided(b))
    assert decided(b).flatten().tolist() == [True, True, False]


@pytest.mark.parametrize(("rank", "sure"), [(0, 0), (1, 1), (7, 1), (14, 1), (15, None), (40, None)])
def test_a_rank_below_the_kept_columns_is_decided_at_once(rank, sure):
    """From noise to the matrix' whole range is one product; what fourteen columns cannot hold stays open."""
    sigma = torch.cat([torch.linspace(1, 0.5, rank), torch.zeros(40 - rank)]).double()
    stack = testing.planted(sigma, 40, 60, seed=rank)[None]
    follow = Follower(stack.shape)
    for i in range(6):
        proof = follow(stack)
        assert decided(proof).item() == (sure is not None and i >= sure)
    assert proof.rank_lower.item() == min(rank, 16 - noise_columns(16))
    assert proof.rank_upper.item() == (40 if sure is None else rank)


@pytest.mark.parametrize(("tail", "sure"), [(1e-4, True), (3e-2, False)])
def test_a_tail_decides_when_all_of_it_is_below_tau(tail, sure):
    """Bounds know the tail's Frobenius norm only: 35 values of 1e-4 are 6e-4 together, 35 of 3e-2 are 0.18."""
    sigma = torch.cat([torch.ones(5), torch.full((35,), tail)]).double()
    stack = testing.planted(sigma, 40, 60, seed=0)[None]
    follow = Follower(stack.shape)
    for _ in range(6):
        proof = follow(stack, [Tolerance(0.05, "absolute")])
        assert_true(proof, stack, [Tolerance(0.05, "absolute")])
    assert decided(proof).item() == sure
    assert proof.rank_lower.item() == 5


@pytest.mark.parametrize("k", [16, 32, 64])
@pytest.mark.parametrize("values", [[1.0, 0.45], [1.0] * 3, [1.0, 1.0, 0.7, 0.5] + [0.1] * 8], ids=len)
def test_sigma_1_is_known_once_the_columns_hold_what_there_is(values, k):
    """C - s B is then negative: its factors grow to all of s k - ||W||_F^2, and are to be believed."""
    sigma = torch.cat([torch.tensor(values), torch.full((70 - len(values),), 1e-5)]).double()
    stack = testing.planted(sigma, 70, 80, seed=k)[None]
    follow = Follower(stack.shape, k)
    tolerances = [Tolerance(0.05, "spectral"), Tolerance(0.3)]
    for _ in range(6):
        proof = follow(stack, tolerances)
        assert_true(proof, stack, tolerances)
    assert proof.top_high.item() <= proof.top_low.item() * (1 + 2e-5)
    assert decided(proof).tolist() == [[True, True]]


def diagonal(values, n=30):
    """A diagonal matrix `(1, n, n)` and the exact basis of its first ten columns, of sixteen."""
    matrix = torch.diag(torch.tensor(values + [0.0] * (n - len(values))))[None]
    columns = torch.zeros(1, n, 16)
    columns[0, :10, :10] = torch.eye(10)
    kept = (torch.arange(16) < 10)[None]
    return matrix, Basis(columns, kept, torch.zeros(1, 16, dtype=torch.float64))


def test_without_the_gram_of_the_basis_a_proof_would_be_false():
    """Negative control: columns too long by 1e-3 seem to hold 0.2 % more of W than they do, all of its tail."""
    matrix, basis = diagonal([1.0] * 10 + [0.02] * 10)
    basis = basis._replace(columns=basis.columns * 1.001)
    found = sketch(matrix, basis)
    left = found.norm - found.gram.diagonal(dim1=-2, dim2=-1).sum(-1)
    tau_squared = 1e-6 * found.norm
    claimed = (torch.linalg.eigvalsh(found.gram[0]) > tau_squared - left.clamp(min=0)).sum()
    assert claimed == 10 < testing.true_rank(matrix).lower.item()
    proof = prove(found, basis, TOLERANCES[:1])
    assert (proof.rank_lower.item(), proof.rank_upper.item()) == (10, 30)
    assert_true(proof, matrix, TOLERANCES[:1])
    straight = prove(sketch(matrix, diagonal([1.0])[1]), diagonal([1.0])[1], [Tolerance(0.1)])
    assert decided(straight).item()


@pytest.mark.parametrize("spoil", ["long", "twice"])
def test_a_basis_that_is_not_orthonormal_proves_nothing(spoil):
    matrix, basis = diagonal([1.0] * 10)
    assert decided(prove(sketch(matrix, basis), basis, TOLERANCES[:1])).item()
    columns = basis.columns.clone()
    columns[..., 3] = columns[..., 3] * 1.5 if spoil == "long" else columns[..., 4]
    basis = basis._replace(columns=columns)
    proof = prove(sketch(matrix, basis), basis, TOLERANCES[:1])
    assert (proof.rank_lower.item(), proof.rank_upper.item(), proof.top_low.item()) == (0, 30, 0.0)
    assert proof.top_high.item() >= 10.0
    assert_true(proof, matrix, TOLERANCES[:1])


def test_without_the_allowance_rounding_would_prove_what_is_false(monkeypatch):
    """An eleventh value of 1e-8 does not show in a sum of squares of ten ones."""
    matrix, basis = diagonal([1.0] * 10 + [1e-8])
    tolerance = [Tolerance(1e-9, "absolute")]
    honest = prove(sketch(matrix, basis), basis, tolerance)
    assert_true(honest, matrix, tolerance)
    assert not decided(honest).item()
    monkeypatch.setattr(module, "UNIT", 0.0)
    proof = prove(sketch(matrix, basis), basis, tolerance)
    assert proof.rank_upper.item() == 10 < testing.true_rank(matrix, tolerance[0]).lower.item()


@pytest.mark.parametrize("other", ["low_rank", "identity", "zero"])
def test_weights_that_jump_widen_the_bounds_in_that_very_step(other):
    before, after = (testing.make(name, 40, 50, seed=i).matrix[None] for i, name in enumerate(("low_rank", other)))
    after = after * 3
    follow = Follower(before.shape)
    for _ in range(5):
        proof = follow(before)
    assert decided(proof).item()
    proof = follow(after)
    assert_true(proof, after, TOLERANCES[:1])
    assert decided(proof).item() == (other == "zero")
    for _ in range(4):
        proof = follow(after)
        assert_true(proof, after, TOLERANCES[:1])
    assert decided(proof).item() == (other != "identity")


def test_dead_columns_are_replaced_and_new_directions_found():
    """Columns of a rank of 3 beyond the third are noise, of length 1, and find two more as soon as they are there."""
    sigma = torch.cat([torch.ones(3), torch.zeros(37)]).double()
    stack = testing.planted(sigma, 40, 50, seed=1)[None]
    grown = stack + testing.planted(sigma * torch.tensor([0.5, 0.1] + [0.0] * 38).double(), 40, 50, seed=2)
    follow = Follower(stack.shape)
    for _ in range(4):
        follow(stack)
    assert follow.basis.kept.sum().item() == 3
    noise = follow.basis.columns[0, :, ~follow.basis.kept[0]]
    assert torch.equal(noise, (follow.noise(noise.shape[0], 3) / noise.shape[0] ** 0.5)[0, :, ~follow.basis.kept[0]])
    assert noise.square().sum(0).sub(1).abs().max() < 1.0
    proofs = [follow(grown) for _ in range(2)]
    assert decided(proofs[0]).item() is False
    assert (proofs[1].rank_lower.item(), proofs[1].rank_upper.item()) == (5, 5)
    # And when they are gone again, so are their columns.
    follow(stack)
    assert follow(stack).rank_upper.item() == 3


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_starts_afresh_and_harms_no_neighbour(bad):
    stack = torch.stack([testing.make("low_rank", 30, 40, seed=i).matrix for i in range(2)])
    clean, follow = Follower(stack.shape), Follower(stack.shape)
    for i in range(6):
        spoilt = stack.clone()
        if i == 3:
            spoilt[1, 29, 39] = bad
        expected, proof = clean(stack), follow(spoilt)
        assert all(torch.equal(a[0], b[0]) for a, b in zip(expected, proof, strict=True))
        assert decided(proof)[1].item() == (i in (1, 2, 5))
        if i in (3, 4):
            assert (proof.rank_lower[1].item(), proof.rank_upper[1].item()) == (0, 30)
        assert follow.basis.columns.isfinite().all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("steps", [0, 3])
def test_nothing_is_proven_of_what_is_not_finite(steps, bad):
    """Whether columns are kept or none is, as at the start, and whatever the tolerance is relative to."""
    stack = testing.make("low_rank", 30, 40).matrix[None]
    follow = Follower(stack.shape)
    for _ in range(steps):
        follow(stack)
    stack[0, 29, 39] = bad
    proof = follow(stack, TOLERANCES)
    assert proof.rank_lower.tolist() == [[0] * len(TOLERANCES)]
    assert proof.rank_upper.tolist() == [[30] * len(TOLERANCES)]
    assert (proof.top_low.item(), proof.top_high.item()) == (0, torch.inf)
