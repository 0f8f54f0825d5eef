"""What travels arrives whole, or as the Gram, and is as many bytes as the plan has said."""

from __future__ import annotations

import random
from itertools import pairwise, product

import pytest
import torch
from thread_ranks import CountingRanks, in_threads

from fastrank.reference import gram, packed_size
from fastrank.sharing import Holding, Span, make_plan
from fastrank.sharing.moves import Moves

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def cuts(size, number, rng):
    return list(pairwise([0, *sorted(rng.choices(range(size + 1), k=number - 1)), size]))


def shared_out(size, rng):
    """Random matrices, each cut into a grid whose pieces are on random ranks, some on several."""
    matrices, holdings = {}, [[] for _ in range(size)]
    for i in range(rng.randint(3, 8)):
        shape = rng.choice([(5, 7), (300, 40), (6, 6), (1, 9), (140, 600), (33, 2)])
        dtype = rng.choice(list(DTYPES))
        matrix = torch.randn(shape, dtype=torch.float64).to(DTYPES[dtype])
        rows, cols = rng.choice([(size, 1), (1, size), (2, 2), (1, 1)])
        pieces = [Span(*r, *c) for r, c in product(cuts(shape[0], rows, rng), cuts(shape[1], cols, rng))]
        pieces = [span for span in pieces if span.numel]
        holders = [rng.sample(range(size), rng.randint(1, size)) for _ in pieces]
        own = {rank: [] for rank in range(size)}
        for span, ranks in zip(pieces, holders, strict=True):
            for rank in ranks[:1] if len(pieces) > 1 else ranks:
                own[rank].append(span)
        matrices[f"m{i}"] = matrix
        for rank, spans in own.items():
            holdings[rank].append(Holding(f"m{i}", shape, dtype, tuple(spans)))
    return matrices, holdings


@pytest.mark.parametrize("seed", range(25))
def test_what_travels_arrives(seed):
    rng = random.Random(seed)
    torch.manual_seed(seed)
    size = rng.randint(2, 5)
    matrices, holdings = shared_out(size, rng)
    plan = make_plan(holdings)

    def travel(ranks):
        moves = Moves(plan, ranks, torch.device("cpu"))
        own = {holding.name: holding.spans for holding in holdings[ranks.rank]}

        def views(i):
            name = plan.matrices[i].name
            return [matrices[name][top:bottom, left:right] for top, bottom, left, right in own[name]]

        found = {}
        for _ in range(2):  # the second time into the same memory
            for number in range(len(moves)):
                arrived = moves.run(number, views)
                found |= {i: x.clone() for i, x in arrived.whole.items()} | arrived.grams
        assert ranks.moved == 2 * plan.sent(ranks.rank)
        return found

    everything = in_threads(size, travel)
    for i, matrix in enumerate(plan.matrices):
        if matrix.way == "local":
            assert all(i not in found for found in everything)
            continue
        assert [rank for rank, found in enumerate(everything) if i in found] == [matrix.owner]
        arrived, truth = everything[matrix.owner][i], matrices[matrix.name]
        if matrix.way == "whole":
            assert torch.equal(arrived, truth)
        else:
            wide = truth if truth.shape[0] < truth.shape[1] or not matrix.cuts_rows else truth.mT
            expected = gram(wide[None])
            assert arrived.inner == max(truth.shape)
            assert (arrived.matrix - expected.matrix).abs().max() <= 1e-13 * expected.trace


def test_the_seeds_have_every_way():
    plans = [make_plan(shared_out(rng.randint(2, 5), rng)[1]) for rng in map(random.Random, range(25))]
    assert {matrix.way for plan in plans for matrix in plan.matrices} == {"local", "whole", "gram"}


@pytest.mark.parametrize(("axis", "way"), [(0, "whole"), (1, "gram")])
def test_the_bytes_of_a_matrix_that_no_device_holds(axis, way):
    """8192 x 28672 in FP32 over 8 ranks: 940 MB, of which a rank has 117."""
    shape, ranks = (8192, 28672), 8
    step = shape[axis] // ranks
    spans = [Span(i * step, (i + 1) * step, 0, 28672) if axis == 0 else Span(0, 8192, i * step, (i + 1) * step)
             for i in range(ranks)]  # fmt: skip
    plan = make_plan([[Holding("w", shape, "float32", (span,))] for span in spans])
    (matrix,) = plan.matrices
    assert matrix.way == way
    packed = 8 * packed_size(8192)
    assert packed == 272_629_760
    shard = 4 * shape[0] * shape[1] // ranks
    if way == "whole":  # a Gram on the short side cannot be summed over its parts
        sent = {rank: 0 if rank == matrix.owner else shard for rank in range(ranks)}
        received = {rank: 7 * shard if rank == matrix.owner else 0 for rank in range(ranks)}
        memory = {rank: 15 * shard + 8 * 8192**2 if rank == matrix.owner else shard for rank in range(ranks)}
    else:
        sent = {rank: packed * 7 // 8 if rank == matrix.owner else packed for rank in range(ranks)}
        received = {rank: packed * (14 if rank == matrix.owner else 7) // 8 for rank in range(ranks)}
        assert max(received.values()) < 4 * shape[0] * shape[1]  # less than the matrix
        memory = {
            rank: sent[rank] + received[rank] + packed * (2 if rank == matrix.owner else 1) for rank in range(ranks)
        }
        memory[matrix.owner] += 8 * 8192**2
    for rank in range(ranks):
        counting = CountingRanks(rank, ranks)
        moves = Moves(plan, counting, torch.device("meta"))
        part = torch.empty(spans[rank].shape, device="meta")
        moves.run(0, lambda _, part=part: [part])
        assert (counting.moved, counting.received) == (sent[rank], received[rank])
        assert (plan.sent(rank), plan.received(rank)) == (sent[rank], received[rank])
        assert plan.memory(rank) == memory[rank]
