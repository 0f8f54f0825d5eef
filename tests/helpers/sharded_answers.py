"""What each process of a job asks of `fastrank.linalg` about DTensors, for tests/linalg/test_sharded.py.

Starting processes is what costs time: one job asks everything, and its answers are judged where the job was started.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import distributed, nn

from fastrank import Tolerance, linalg

RANKS = 4
TIE, TINY = Tolerance(0.5, "absolute"), Tolerance(2.0**-34, "spectral")
BY_GRAM = {
    "rank_bounds": partial(linalg.rank_bounds, tolerance=Tolerance(0.2)),
    "spectral rank_bounds": partial(linalg.rank_bounds, tolerance=Tolerance(0.4, "spectral")),
    "spectral_norm": linalg.spectral_norm,
    "stable_rank": linalg.stable_rank,
    "effective_rank": linalg.effective_rank,
    "energy_rank": partial(linalg.energy_rank, energy=0.9),
    "nuclear_norm": linalg.nuclear_norm,
    "participation_ratio": linalg.participation_ratio,
    "svdvals": linalg.svdvals,
}
WHOLE = {
    "matrix_rank": partial(linalg.matrix_rank, rtol=0.3),
    "accurate nuclear_norm": partial(linalg.nuclear_norm, accurate=True),
    "accurate svdvals": partial(linalg.svdvals, accurate=True),
    "svd_lowrank": partial(linalg.svd_lowrank, k=1),
}
FUNCTIONS = BY_GRAM | WHOLE


def matrix(*shape, dtype=torch.float32, scale=1.0):
    """Singular values that fall to a tenth: they are well above the rounding of a Gram, and thresholds among them."""
    made = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)
    falling = torch.logspace(0, -1, min(shape[-2:]), dtype=torch.float64) * scale
    return (made * (falling if shape[-2] >= shape[-1] else falling[:, None])).to(dtype)


def diagonal(*sigma):
    """`(40, r)`: singular values that are known exactly."""
    made = torch.zeros(40, len(sigma))
    made[: len(sigma)] = torch.diag(torch.tensor(sigma))
    return made


def with_nan(made):
    made.view(-1)[-1] = torch.nan
    return made


MATRICES = {
    "tall": matrix(203, 12),
    "wide": matrix(20, 230, dtype=torch.bfloat16),
    "half": matrix(7, 101, dtype=torch.float16),
    "several strips": matrix(130, 700),
    "nothing on one rank": matrix(9, 2),
    "faint": matrix(150, 6, scale=1e-30),
    "subnormal": matrix(150, 6, scale=1e-40),
    "zero": torch.zeros(100, 5),
    "not finite": with_nan(matrix(100, 5)),
    "batch": torch.stack([with_nan(matrix(90, 8)), matrix(90, 8), torch.zeros(90, 8)])[None],
    "nearly square": matrix(30, 26),
    "double": matrix(90, 5, dtype=torch.float64),
    "no rows": torch.zeros(0, 4),
}
ANYWHERE = ("tall", "wide", "not finite", "batch")
"""Matrices that are measured in any placement. The others are cut along their long side."""
NOT_BY_GRAM = ("nearly square", "double", "no rows")


def placements():
    """Name: mesh (its ranks, in their order), and the placements of a matrix: which of its sides is cut."""
    line, square = list(range(RANKS)), [[0, 1], [2, 3]]
    return {
        "one axis, long": (line, ["long"]),
        "two axes, long": (square, ["long", "long"]),
        "replicas of long": (square, [None, "long"]),
        "long and replicas": (square, ["long", None]),
        "one axis, short": (line, ["short"]),
        "both sides": (square, ["long", "short"]),
        "replicas": (line, [None]),
        "sums": (line, ["sum"]),
        "sums of long": (square, ["sum", "long"]),
        "batch": (line, ["batch"]),
    }


CASES = [
    (place, kind)
    for place in placements()
    for kind in MATRICES
    if (kind in ANYWHERE or place == "one axis, long") and (kind == "batch" or place != "batch")
]


def asked(place, kind):
    """The functions that are asked of a case, by name: all of them where the matrix is cut as most are."""
    if kind == "no rows":
        return BY_GRAM
    some = ("rank_bounds", "stable_rank", "svdvals", "matrix_rank", "svd_lowrank")
    return FUNCTIONS if place == "one axis, long" else {name: FUNCTIONS[name] for name in some}


MEASURED_BY_GRAM = ("one axis, long", "two axes, long", "replicas of long", "long and replicas")


def placed(whole, ranks, places):
    """A DTensor of `whole`, which is a sum of several wherever it is said to be one."""
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

    if str(ranks) not in MESHES:
        MESHES[str(ranks)] = DeviceMesh("cpu", ranks)
    mesh = MESHES[str(ranks)]
    tall = whole.shape[-2] > whole.shape[-1]
    sides = {"batch": whole.ndim - 3, "long": whole.ndim - 2 + (not tall), "short": whole.ndim - 2 + tall}
    kinds = [Shard(sides[place]) if place in sides else Replicate() for place in places]
    made = distribute_tensor(whole, mesh, kinds)
    if "sum" not in places or mesh.get_coordinate() is None:
        return made
    local = made.to_local()
    local = local if mesh.get_coordinate()[places.index("sum")] == 1 else torch.zeros_like(local)
    kinds[places.index("sum")] = Partial()
    return DTensor.from_local(local, mesh, kinds, shape=whole.shape, stride=whole.stride())


MESHES: dict[str, object] = {}


class Moved:
    """What this rank has moved: the bytes of all-reduces by the library itself, and how many matrices were gathered."""

    def __init__(self):
        from torch.distributed.tensor import DTensor

        self.bytes, self.gathered = 0, 0
        self.reduce, self.gather = distributed.all_reduce, DTensor.full_tensor
        distributed.all_reduce, DTensor.full_tensor = self._reduce, lambda tensor: self._gather(tensor)

    def _reduce(self, tensor, **options):
        self.bytes += tensor.nbytes
        return self.reduce(tensor, **options)

    def _gather(self, tensor):
        self.gathered += 1
        return self.gather(tensor)

    def since(self):
        seen, self.bytes, self.gathered = (self.bytes, self.gathered), 0, 0
        return seen


def answer_or_error(function, *arguments, **options):
    try:
        return function(*arguments, **options)
    except (TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"


def on_each_rank(rank):
    """All that is asked of the processes, by name: collectives in the same order on each."""
    moved, found = Moved(), {}
    for place, kind in CASES:
        A = placed(MATRICES[kind], *placements()[place])
        for name, function in asked(place, kind).items():
            found[place, kind, name] = (answer_or_error(function, A), *moved.since())
    found |= open_brackets(rank, moved)
    found |= lists(moved)
    found["strided"] = strided(moved)
    found["kept"] = kept()
    wrong = [torch.ones(9, 2, device="meta"), torch.ones(9, 2, dtype=torch.int32), torch.ones(9)[:, None, None]]
    A, B, C = (placed(tensor, [0, 1, 2, 3], ["long"]) for tensor in wrong)
    found["wrong"] = [answer_or_error(linalg.rank_bounds, a) for a in (A, [B], [C])]
    found["outside"] = [
        answer_or_error(linalg.spectral_norm, A)
        for A in (
            placed(MATRICES["tall"], [1, 3], ["long"]),
            [placed(MATRICES["tall"], [0, 1, 2, 3], ["short"]), placed(MATRICES["tall"], [1, 3], ["long"])],
        )
    ]
    return found


def open_brackets(rank, moved):
    """Of singular values that the Gram cannot tell from tau; and of ranks that see different Grams."""
    tie, tiny = diagonal(1.0, 0.5, 0.25), diagonal(1.0, 0.5, 2.0**-33)
    found = {}
    for resolve in (True, False):
        for name, whole, tolerance in (("tie", tie, TIE), ("tiny", tiny, TINY)):
            A = placed(whole, [0, 1, 2, 3], ["long"])
            found[name, resolve] = (linalg.rank_bounds(A, tolerance, resolve=resolve), *moved.since())
    stock = distributed.all_reduce

    def odd(tensor, **options):
        stock(tensor, **options)
        tensor *= 1 + 2 * rank

    distributed.all_reduce = odd
    found["odd"] = [linalg.rank_bounds(placed(tie, ranks, ["long"]), TIE) for ranks in ([0, 1, 2, 3], [3, 2, 1, 0])]
    found["odd"].append(linalg.svdvals(placed(tie, [[0, 3], [2, 1]], [None, "long"])))
    distributed.all_reduce = stock
    moved.since()
    return found


def lists(moved):
    """Of DTensors on two meshes that go both ways, beside a plain tensor."""
    A = [MATRICES["tall"], placed(MATRICES["tall"], [0, 1, 2, 3], ["long"])]
    A.append(placed(MATRICES["wide"], [[0, 1], [2, 3]], ["short", "long"]))
    A += [placed(whole, [0, 1, 2, 3], ["long"]) for whole in (MATRICES["zero"], diagonal(1.0, 0.5, 0.25))]
    found = {("list", name): (function(A), *moved.since()) for name, function in FUNCTIONS.items()}
    return found | {("list", "tie"): (linalg.rank_bounds(A, TIE), *moved.since())}


def strided(moved):
    """FSDP and tensor parallelism, both along the rows; the shards are uneven."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    layer = nn.Linear(12, 203, bias=False)
    layer.weight.data.copy_(MATRICES["tall"])
    parallelize_module(layer, mesh["tensor"], ColwiseParallel())
    fully_shard(layer, mesh=mesh["data"])
    moved.since()
    found = {name: (function(layer.weight), *moved.since()) for name, function in FUNCTIONS.items()}
    return str(layer.weight.placements), found


def kept():
    """Whether arguments are as they were and answers carry no gradient; and a DTensor that has not arrived yet."""
    from torch.distributed.tensor import Replicate

    A = placed(MATRICES["tall"], [0, 1, 2, 3], ["long"]).requires_grad_()
    before = A.to_local().detach().clone()
    answers = [x for function in FUNCTIONS.values() for x in fields(function(A))]
    plain = all(type(x) is torch.Tensor and not x.requires_grad for x in answers)
    under_way = A.detach().redistribute(A.device_mesh, [Replicate()], async_op=True)
    return plain, torch.equal(A.to_local(), before), A.grad is None, linalg.spectral_norm(under_way)


def fields(answer):
    """The tensors of an answer, end to end."""
    return [x for y in (answer if isinstance(answer, tuple) else [answer]) for x in (y if isinstance(y, list) else [y])]
