"""Sketches of shared matrices prove what is true, and a training that they measure is as its unsharded twin."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from cut_matrices import layouts, planned, source
from processes import run
from sharded import Llama, assert_same, by_fsdp, by_tensors, line, rows_of, train, twins
from thread_ranks import in_threads

from fastrank import Status, Tolerance, testing
from fastrank.measuring import columns
from fastrank.sharing import sketching as module
from fastrank.sharing.sketching import Sketching
from fastrank.sharing.thin import bytes_sent
from fastrank.sharing.traffic import Sketch, flows, reach, sketch_flow
from fastrank.sharing.travelling import JOURNEYS

CPU = torch.device("cpu")
TOLERANCES = (Tolerance(), Tolerance(0.05), Tolerance(0.01, "spectral"), Tolerance(0.2, "absolute"))
COLUMNS = columns(TOLERANCES, [])


AT = Tolerance(0.25, "absolute")


def followed(ranks, plan, pieces, steps, tolerances=TOLERANCES, between=None):
    """The rows that this rank has found at each step, by index, while it follows matrices `{name: matrix}`."""
    sketching, found = Sketching(plan, ranks, tolerances, [], CPU), []
    for step, matrices in enumerate(steps):
        sources = {i: source(x, pieces[ranks.rank]) for i, x in enumerate(matrices.values())}
        sketches = [Sketch(i, 16, (step + i) % 2, step, step == 0) for i in sources]
        found.append(dict(sketching.measure(sketches, sources).rows))
        for i, rows in sketching._rows.items():  # all ranks have the owner's bits
            basis = sketching._bases.get(i)
            piece = dict(plan.matrices[i].parts)[ranks.rank]
            assert basis is None or torch.equal(rows, basis.columns[slice(*reach(piece, sketches[i].side))])
        if between is not None:
            between(step, sketching)
    return found


def followed_by_all(pieces, steps, **options):
    """The row of each matrix at each step, by name: of the one rank that has it."""
    plan = planned(steps[0], pieces)
    given = partial(followed, plan=plan, pieces=pieces, steps=steps, **options)
    ranks = in_threads(4, given)
    names = [matrix.name for matrix in plan.matrices]
    for own in zip(*ranks, strict=True):
        rows = [item for each in own for item in each.items()]
        assert len(dict(rows)) == len(rows)
        yield {names[i]: row for i, row in rows}


def assert_true(row, matrix, tolerances=TOLERANCES):
    """A row that is there has the ranks and norms that FP64 singular values have. Returns whether it is there."""
    status = row[2 * len(tolerances) + 3].item()
    if row.isnan().all():
        return False
    assert status == Status.OK
    sigma = testing.true_singular_values(matrix)
    for i, tolerance in enumerate(tolerances):
        true = testing.true_rank(matrix, tolerance)
        lower, upper = row[2 * i : 2 * i + 2].tolist()
        assert lower == upper
        assert true.lower.item() <= lower <= true.upper.item()
    stable, spectral, frobenius = row[2 * len(tolerances) : 2 * len(tolerances) + 3].tolist()
    norm = torch.linalg.vector_norm(sigma).item()
    assert spectral == pytest.approx(sigma[0].item(), rel=1e-6)
    assert frobenius == pytest.approx(norm, rel=1e-12)
    assert stable == pytest.approx((norm / sigma[0].item()) ** 2 if norm else 0.0, rel=2e-6)
    return True


def drifting(exact, steps, noise=0.0):
    """Matrices that turn a little from step to step, and keep their ranks but for `noise`."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        yield {name: x.float() for name, x in exact.items()}
        for name, x in exact.items():
            turned = x * (1 + 0.02 * torch.randn(1, x.shape[1], generator=generator, dtype=x.dtype))
            exact[name] = turned + noise * torch.randn(x.shape, generator=generator, dtype=x.dtype)


@pytest.mark.parametrize("name", list(layouts(2, 2, 0)))
def test_what_is_proven_is_true_however_matrices_are_cut(name):
    exact = {
        family: testing.make(family, 40, 60, seed=3, dtype=torch.float64).matrix
        for family in ("low_rank", "noisy_low_rank", "geometric", "identity", "zero")
    }
    steps = list(drifting(exact, 6))
    decided = {}
    for step, rows in enumerate(followed_by_all(layouts(40, 60, 5)[name], steps)):
        assert rows.keys() == (exact.keys() if step else set())
        decided = {key: assert_true(row, steps[step][key]) for key, row in rows.items()}
    assert decided["low_rank"]
    assert decided["zero"]
    assert not decided["identity"]


@pytest.mark.parametrize("off", [2.0**-4, 2.0**-12, 2.0**-22, 0.0, -(2.0**-22), -(2.0**-12), -(2.0**-4)])
def test_values_clustered_at_tau_are_counted_right_or_left_open(off):
    """Three of eight are at tau or next to it. All are exact: of a diagonal matrix whose rows are in another order."""
    values = torch.tensor([1.0] * 5 + [0.25 * (1 + off)] * 3)
    matrix = torch.zeros(40, 60)
    matrix[torch.arange(8) * 3 % 40, torch.arange(8) * 7] = values
    *_, last = followed_by_all(layouts(40, 60, 1)["grid"], [{"x": matrix}] * 5, tolerances=[AT])
    assert assert_true(last["x"], matrix, [AT]) == (off != 0)
    if off:
        assert last["x"][:2].tolist() == ([8, 8] if off > 0 else [5, 5])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_has_its_row_at_once_and_harms_no_neighbour(bad):
    matrices = {str(i): testing.make("low_rank", 40, 60, seed=i).matrix for i in range(2)}
    spoilt = {"0": matrices["0"], "1": matrices["1"].clone()}
    spoilt["1"][-1, -1] = bad
    steps = [matrices, matrices, matrices, spoilt, matrices, matrices, matrices]
    for step, rows in enumerate(followed_by_all(layouts(40, 60, 2)["columns"], steps)):
        if step != 3:
            assert all(assert_true(row, matrices[i]) == (i == "0" or step != 4) for i, row in rows.items())
    rows = list(followed_by_all(layouts(40, 60, 2)["columns"], steps))[3]
    assert assert_true(rows["0"], matrices["0"])
    found = dict(zip(COLUMNS, rows["1"].tolist(), strict=True))
    assert found.pop("status") == Status.NONFINITE
    assert all(
        value == -1 if "rank_" in key and key != "stable_rank" else value != value for key, value in found.items()
    )


def test_a_basis_that_is_too_long_proves_nothing():
    """Negative control: all ranks and the owner have the same columns, which are longer than 1 by a half."""
    matrices = {"x": testing.make("low_rank", 40, 60, seed=1).matrix}

    def lengthen(step, sketching):
        if step == 3:
            sketching._rows = {i: x * 1.5 for i, x in sketching._rows.items()}
            sketching._bases = {i: b._replace(columns=b.columns * 1.5) for i, b in sketching._bases.items()}

    rows = list(followed_by_all(layouts(40, 60, 1)["rows"], [matrices] * 6, between=lengthen))
    assert [assert_true(row["x"], matrices["x"]) for row in rows[1:]] == [True, True, True, False, True]


def test_sigma_1_is_left_open_unless_it_is_tight(monkeypatch):
    """The rank of one and a tail of 1e-2 in all is clear at 0.05; sigma_1 is known to 1e-4 only."""
    sigma = torch.cat([torch.ones(1), torch.full((39,), 1.6e-3)]).double()
    steps = [{"x": testing.planted(sigma, 40, 60, seed=0)}] * 5
    given = layouts(40, 60, 0)["rows"], steps
    *_, last = followed_by_all(*given, tolerances=[Tolerance(0.05)])
    assert last["x"].isnan().all()
    monkeypatch.setattr(module, "TIGHT", 1 + 1e-3)
    *_, last = followed_by_all(*given, tolerances=[Tolerance(0.05)])
    assert last["x"][:2].tolist() == [1, 1]


def low(r):
    """Six singular values of about 1, and a tail that no tolerance sees."""
    return torch.cat([torch.linspace(1, 0.5, 6), torch.full((r - 6,), 1e-6)])


JUMP, LOAD, SPOIL, STEPS = 4, 5, 9, 10


def disturb(model, step):
    """One matrix has full rank again at a step, and another NaN at the last one."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    layer, what = model.layers[0], None
    if step == JUMP:
        what = torch.randn(layer.w1.weight.shape, generator=torch.Generator().manual_seed(1)) / 20
    if step == SPOIL:
        what = torch.zeros(layer.w1.weight.shape)
        what[-1, -1] = torch.nan
    if what is not None:
        weight = layer.w1.weight.detach()
        if isinstance(weight, DTensor):
            weight.to_local().add_(distribute_tensor(what, weight.device_mesh, weight.placements).to_local())
        else:
            weight.add_(what)


def trained(rank, shard):
    """How many sketches decided at each step, which ranks there were, and bytes: sent, and on paper.

    The rows are compared with those of the unsharded twin, at each step.
    """
    given = {"tolerance": (Tolerance(1e-2), Tolerance(0.1, "spectral")), "spectrum": ["effective_rank"]}
    given |= {"spectrum_every": 100, "spectrum_of": low, "lr": 3e-3}
    (*sharded, own), (*plain, expected) = twins(lambda: Llama(128, 256), shard, line(), **given)
    shared, left, found = own._shared, [], []
    find = shared._left_open
    shared._left_open = lambda *given: left.append(find(*given)) or left[-1]
    for step in range(STEPS):
        before, sketches = shared._ranks.moved, shared._choice.now()
        if step == LOAD and rank == 1:
            shared.load((), {})  # one rank is enough to have all begin anew
        for model, optimizer in (sharded, plain):
            disturb(model, step)
            train(model, optimizer, 1, step)
        rows = list(own.latest().values())
        assert_same(rows, list(expected.latest().values()), 1e-6)
        proving = [sketch for sketch in sketches if not sketch.fresh]
        travelling = [shared._plan.matrices[i] for i in left[-1]]
        beginning = [sketch_flow(shared._plan.matrices[s.matrix], s.columns, s.side) for s in sketches if s.fresh]
        paper = bytes_sent(shared._plan, proving, 2)
        for flow in flows(travelling) + beginning:
            paper[flow.ranks] += flow.sent
        uppers = sorted({row["rank_upper"] for row in rows})
        found.append((len(proving) - len(left[-1]), uppers, shared._ranks.moved - before, int(paper[rank])))
    if rank == 0:
        assert_same(rows_of(own), rows_of(expected), 1e-6)
    journeys = shared._moving._journeys.values()
    assert 1 < len(journeys) <= JOURNEYS
    assembled = [x for own in journeys for targets in own.moves.targets for x in targets.values()]
    assert {x.untyped_storage().data_ptr() for x in assembled} == {shared._moving._space["float32"].data_ptr()}
    planned = shared._plan.sent(rank), len(shared._plan.matrices)
    own.close()
    return planned, found


def everything(rank):
    torch.set_num_threads(1)
    return {"fsdp": trained(rank, by_fsdp), "tp": trained(rank, by_tensors)}


def test_a_training_has_the_rows_of_its_unsharded_twin_and_moves_less():
    """Each of 16 matrices is sketched with 16 columns, two steps after its rank is first known."""
    found = run(everything, 2, timeout=180)
    for layout in ("fsdp", "tp"):
        plans, steps = zip(*(ranks[layout] for ranks in found), strict=True)
        assert plans[0][1] == 16
        before, usual = sum(sent for sent, _ in plans), []
        for step, ranks in enumerate(zip(*steps, strict=True)):
            assert all(moved == paper for _, _, moved, paper in ranks), step
            (decided, uppers, *_), moved = ranks[0], sum(rank[2] for rank in ranks)
            assert uppers == ([None] if step == SPOIL else [6] if step < JUMP else [6, 128])
            # All begin anew after `LOAD`: then there is no sketch at first, and one of noise next.
            if step in (0, 1, LOAD + 1, LOAD + 2):
                assert decided == 0
            else:
                assert decided >= (14 if step in (2, LOAD + 3) else 16 if step < JUMP else 15), step
                assert moved < 0.75 * before
                usual.append(moved)
        assert sum(usual) < 0.55 * before * len(usual)
