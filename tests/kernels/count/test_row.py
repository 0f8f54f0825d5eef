"""Rows of the history: those of the twins, and the truth after all launches of a step."""

from __future__ import annotations

import pytest
import torch

from fastrank.counting.bounds import judge
from fastrank.measuring.row import row_of
from fastrank.metrics import RankBounds, Status
from fastrank.reference import Moments

pytest.importorskip("triton")
from counting_steps import FP64, TOLERANCES, Step, noise, nothing_known, with_spectrum

from fastrank.kernels.count import Answers, launches, row_
from fastrank.kernels.count import answers as module
from fastrank.kernels.launch import Tape

TIGHT, SLACK = module.TIGHT.value, module.SLACK.value


def row_twin(matrices, tolerances, proof, decided, answers):
    """`values` from the counts, by the functions of PyTorch."""
    order = torch.tensor([float(min(m.shape)) for m in matrices], dtype=FP64)
    finite = answers.trace.isfinite()
    moments = Moments(answers.trace.masked_fill(~finite, 0.0), torch.ones_like(order), finite, order, order)
    known = decided != 0
    norm = torch.where(known | ~proof[:, 0].isnan(), proof[:, 0], answers.trace)
    low, high = (torch.where(known, proof[:, i + 1], answers.top[:, i]) for i in (0, 1))
    grown = answers.growth.sum(-1)
    judged = []
    for i in range(len(tolerances) + 1):
        limits = answers.limits[:, 2 * i : 2 * i + 2]
        upper, lower = ((answers.counts[:, j], grown[:, j]) for j in (2 * i, 2 * i + 1))
        judged.append(judge(moments, limits, upper, lower))
    *ranks, above = judged
    bounds = []
    for i, count in enumerate(ranks):
        lower, upper = proof[:, 3 + 2 * i].long(), proof[:, 4 + 2 * i].long()
        status = torch.where(known, Status.OK, count.status).masked_fill(~norm.isfinite(), Status.NONFINITE)
        lower = torch.where(known, lower, torch.maximum(lower, count.lower))
        bounds.append(RankBounds(lower, torch.where(known, upper, torch.minimum(upper, count.upper)), status))
    counts = ~known & (above.status == Status.OK)
    for proven, factor in ((counts & (above.lower == 0), TIGHT), (counts & (above.upper == 0), SLACK)):
        high = torch.where(proven, torch.minimum(high, low * (1 + factor)), high)
    top = torch.where(high <= low * (1 + TIGHT), low.sqrt(), torch.nan)
    finite = norm.isfinite()
    rows = Moments(norm.masked_fill(~finite, 0.0), torch.ones_like(norm), finite, 0.0, 0.0)
    return row_of(rows, bounds, top, ["nuclear_norm", "effective_rank"], [])


@pytest.mark.parametrize("tolerances", [TOLERANCES, TOLERANCES[:1]], ids=len)
def test_rows_are_those_of_the_twins(tolerances, device):
    """Every mixture of decided, known, sound, finite and certified, for more matrices than a program takes."""
    b, shifts, parts = 150, 2 * (len(tolerances) + 1), 17
    generator = torch.Generator().manual_seed(3)

    def pick(*shape, of):
        return torch.tensor(of, dtype=FP64)[torch.randint(len(of), shape, generator=generator)]

    matrices = [torch.zeros(3 + i % 5, 7, device=device) for i in range(b)]
    step = Step(matrices, tolerances, decided=[i % 3 == 0 for i in range(b)], more=2)
    answers = Answers.of(b, len(tolerances), parts, torch.device("cpu"))
    answers.trace.copy_(pick(b, of=[4.0, 4.0, 4.0, 0.0, torch.nan, torch.inf]))
    low = pick(b, of=[0.0, 1.0, 3.0])
    answers.top.copy_(torch.stack([low, low * pick(b, of=[1.0, 1 + TIGHT / 2, 1 + TIGHT, 1 + 2 * TIGHT, 1.3])], -1))
    answers.counts.copy_(pick(b, shifts, of=[0.0, 1.0, 2.0, 3.0]))
    answers.growth.copy_(pick(b, shifts, parts, of=[0.0, 1.0]) + (pick(b, shifts, 1, of=[0.0] * 9 + [torch.nan])))
    answers.limits.copy_(pick(b, shifts, of=[10.0, 12.0, 17.0, 17.0, 17.0, -1.0]))
    proof = torch.stack(
        [pick(b, of=[4.0, 4.0, torch.nan, torch.inf]), low, low * pick(b, of=[1.0, 1 + TIGHT, 2.0])]
        + [pick(b, of=of) for of in ([-1.0, 0.0, 1.0], [2.0, 3.0, 2.0**53]) for _ in tolerances],
        -1,
    )
    proof[:, 3:] = proof[:, 3:].view(b, 2, -1).mT.flatten(1)
    # W is finite in the sketch and in the Gram, or in neither; where nothing was known there is only the Gram.
    proof[:, 0] = torch.where(~proof[:, 0].isnan() & (step.decided.cpu() == 0), answers.trace, proof[:, 0])
    expected = row_twin(matrices, tolerances, proof, step.decided.cpu(), answers)
    on_device = Answers(*(x.to(device) for x in answers))
    row_(step.values, step.chunks[0].table, step.decided, proof.to(device), on_device, step.step, step.skip)
    torch.testing.assert_close(step.values.cpu(), expected, rtol=1e-15, atol=0, equal_nan=True)
    assert {0.0, 1.0, 2.0} == set(expected[:, 2 * len(tolerances) + 3].tolist())
    assert 10 < int(expected[:, 2 * len(tolerances) + 1].isnan().sum()) < b - 10


def test_a_step_is_counted_unless_it_was_skipped(device):
    step = Step([noise(4, 5).float().to(device)])
    step.run()
    assert int(step.step) == 6
    step.skip.fill_(1.0)
    step.run()
    assert int(step.step) == 6


def same(a, b):
    """Whether the bits are, NaN included."""
    return torch.equal(a.view(torch.int64), b.view(torch.int64))


def truth(matrix, tolerances):
    sigma = torch.linalg.svdvals(matrix.cpu().double())
    norm = sigma.norm()
    taus = [t.value * {"frobenius": norm, "spectral": sigma[0], "absolute": 1.0}[t.relative_to] for t in tolerances]
    return [int((sigma > tau).sum()) for tau in taus], float(sigma[0]), float(norm)


def test_a_first_step_counts_exactly(device):
    """From noise as start, for sizes that hurt; sigma_1 only where it is proven."""
    matrices = [noise(*size, seed=i).float().to(device) for i, size in enumerate([(1, 1), (1, 9), (7, 7), (40, 33)])]
    matrices += [with_spectrum([1.0] + [1e-2] * 9, 20).to(device), with_spectrum([1.0] * 9, 20).mT.to(device)]
    step = Step(matrices, more=1)
    values = step.run().cpu()
    for matrix, found in zip(matrices, values.tolist(), strict=True):
        ranks, top, norm = truth(matrix, TOLERANCES)
        lower, upper = found[:6:2], found[1:6:2]
        assert all(a <= rank <= b for a, rank, b in zip(lower, ranks, upper, strict=True))
        assert [lower[0], lower[2]] == [upper[0], upper[2]], "sigma_1 decides only what is relative to it"
        assert lower == upper or found[7] != found[7]
        assert found[8:10] == [pytest.approx(norm, rel=1e-12), Status.OK]
        if found[7] == found[7]:
            assert found[7] == pytest.approx(top, rel=TIGHT / 2)
            assert found[6] == pytest.approx((norm / top) ** 2, rel=2 * TIGHT)
        assert found[10] != found[10]
    assert values[[0, 1, -2, -1], 7].isfinite().all()
    assert (step.answers.limits[-2, -2:] == -1).all(), "one large singular value: proven without a count"
    assert (step.answers.limits[-1, -2:] > 0).all(), "equal singular values: counted"


def test_chunks_and_decided_matrices_change_no_other_answer(device, monkeypatch):
    """Chunks share a workspace, one after the other; a decided matrix is answered from its proof alone."""
    matrices = [noise(*size, seed=i).float().to(device) for i, size in enumerate([(30, 50), (20, 10), (60, 34)])]
    monkeypatch.setattr(launches, "SMALL", 32)
    whole = Step(matrices, TOLERANCES[:1])
    expected = whole.run().clone()
    chunked = Step(matrices, TOLERANCES[:1], chunks=[[2], [0, 1]])
    assert same(chunked.run(), expected)
    assert torch.equal(chunked.vectors[0], whole.vectors[0])
    proof = nothing_known(3, TOLERANCES[:1])
    proof[1] = torch.tensor([9.0, 4.0, 4.0, 3, 3])
    decided = Step(matrices, TOLERANCES[:1], proof, decided=[0, 1, 0])
    before = decided.vectors[0, 1].clone()
    values = decided.run()
    assert same(values[[0, 2]], expected[[0, 2]])
    assert values[1].tolist() == [3, 3, 2.25, 2.0, 3.0, Status.OK]
    assert torch.equal(decided.vectors[0, 1], before)
    assert decided.answers.trace[1].isnan(), "nothing is written"


def test_a_taped_step_follows_the_weights(device):
    """What a step launches allocates nothing and depends on no value: launched again, it measures what is there now."""
    matrices = [noise(*size, seed=i).float().to(device) for i, size in enumerate([(12, 20), (40, 33)])]
    step = Step(matrices, TOLERANCES[:1])
    tape = Tape()
    tape(step.run)
    first = step.values.clone()
    expected = Step([2 * m for m in matrices], TOLERANCES[:1])
    expected.vectors.copy_(step.vectors)
    expected.run()
    for matrix in matrices:
        matrix.mul_(2)
    tape(step.run)
    assert same(step.values, expected.values)
    assert torch.equal(step.values[:, 4], 2 * first[:, 4])
    assert int(step.step) == 7
    assert len(tape) == 6, "Grams, their ends, vectors, shifts, counts, rows"
