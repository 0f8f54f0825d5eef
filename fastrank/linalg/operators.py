"""The operators of `fastrank.linalg`, of the same names: what a compiled function calls. Importing this registers them.

Each has an overload for a tensor `(..., m, n)` and one, `list`, for 2-D tensors of different shapes. An operator is its
function, and the answers have the same bits. Fake implementations have shapes alone, also where these are symbolic.
The functions here have the arguments and the answers of those in `functions`, and can be traced.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..metrics import RankBounds, Tolerance
from ..operators import register
from . import functions
from .arrays import refuse
from .functions import LowRankSVD

Given = Tensor | list[Tensor]
LARGEST_SEED = 2**63 - 1
"""An operator takes no larger whole number."""


def rank_bounds(A: Any, tolerance: Tolerance | None = None, *, resolve: bool = True) -> RankBounds:
    tolerance = Tolerance() if tolerance is None else tolerance
    if not isinstance(tolerance, Tolerance):
        raise TypeError(f"tolerance: expected a fastrank.Tolerance, not {tolerance!r}")
    return RankBounds(*_call("rank_bounds", A, tolerance.value, tolerance.relative_to, resolve))


def matrix_rank(A: Any, *, atol: Any = None, rtol: Any = None) -> Any:
    return _call("matrix_rank", A, *_threshold(atol, "atol"), *_threshold(rtol, "rtol"))


def spectral_norm(A: Any) -> Any:
    return _call("spectral_norm", A)


def stable_rank(A: Any) -> Any:
    return _call("stable_rank", A)


def svdvals(A: Any, *, accurate: bool = False) -> Any:
    return _call("svdvals", A, accurate)


def effective_rank(A: Any, *, accurate: bool = False) -> Any:
    return _call("effective_rank", A, accurate)


def energy_rank(A: Any, energy: float = 0.99, *, accurate: bool = False) -> Any:
    return _call("energy_rank", A, energy, accurate)


def nuclear_norm(A: Any, *, accurate: bool = False) -> Any:
    return _call("nuclear_norm", A, accurate)


def participation_ratio(A: Any, *, accurate: bool = False) -> Any:
    return _call("participation_ratio", A, accurate)


def svd_lowrank(A: Any, k: int, *, oversample: int = 8, power_iters: int = 2, seed: int = 0) -> LowRankSVD:
    if seed > LARGEST_SEED:
        raise ValueError(f"seed: in a function that is compiled it must be less than 2^63, not {seed}")
    found = _call("svd_lowrank", A, k, oversample, power_iters, seed)
    if isinstance(A, Tensor):
        return LowRankSVD(*found)
    n = len(A)
    return LowRankSVD(found[:n], found[n : 2 * n], found[2 * n : 3 * n], found[3 * n])


def _call(name: str, A: Any, *args: Any) -> Any:
    packet = getattr(torch.ops.fastrank, name)
    if not isinstance(A, list | tuple):
        return packet.default(_plain(A, "A"), *args)
    if not A:
        raise ValueError("A: a function that is compiled takes no list without matrices")
    return packet.list([_plain(a, f"A[{i}]") for i, a in enumerate(A)], *args)


def _plain(A: Any, name: str) -> Tensor:
    if not isinstance(A, Tensor):
        raise TypeError(f"{name}: a function that is compiled or transformed takes tensors, not {type(A).__name__}")
    if hasattr(A, "placements"):
        raise TypeError(f"{name}: a function that is compiled takes no DTensor; pass {name}.full_tensor()")
    return A.detach()


def _threshold(value: Any, name: str) -> tuple[float | None, Tensor | None]:
    """`atol` or `rtol` as a number and a tensor, of which one is None at least."""
    if value is None or isinstance(value, Tensor):
        return None, value
    if not isinstance(value, int | float):
        raise TypeError(f"{name}: a function that is compiled takes a number or a tensor, not {type(value).__name__}")
    return float(value), None


def _at_once(name: str) -> Any:
    """A function of `functions` that calls no operator, whatever goes on where it is called."""
    return getattr(functions, name).__wrapped__


def _real_rank_bounds(A: Given, value: float, relative_to: Any, resolve: bool) -> tuple[Tensor, ...]:
    return _own(_at_once("rank_bounds")(A, Tolerance(value, relative_to), resolve=resolve))


def _real_matrix_rank(
    A: Given, atol: float | None, atols: Tensor | None, rtol: float | None, rtols: Tensor | None
) -> Tensor:
    given = {"atol": atol if atols is None else atols, "rtol": rtol if rtols is None else rtols}
    return _own([_at_once("matrix_rank")(A, **given)])[0]


def _real_metric(name: str) -> Any:
    def real(A: Given, *args: Any) -> Tensor:
        """The last argument of those that have any is `accurate`."""
        accurate = {"accurate": args[-1]} if args else {}
        return _own([_at_once(name)(A, *args[:-1], **accurate)])[0]

    return real


def _real_svdvals(A: Given, accurate: bool) -> Tensor | list[Tensor]:
    found = _at_once("svdvals")(A, accurate=accurate)
    return _own([found])[0] if isinstance(found, Tensor) else list(_own(found))


def _real_svd_lowrank(
    A: Given, k: int, oversample: int, power_iters: int, seed: int
) -> tuple[Tensor, ...] | list[Tensor]:
    found = _at_once("svd_lowrank")(A, k, oversample=oversample, power_iters=power_iters, seed=seed)
    return _own(found) if isinstance(A, Tensor) else list(_own([*found.U, *found.S, *found.Vh, found.error]))


def _own(answers: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Answers in memory of their own, in the usual order: an operator may return no two that share some."""
    return tuple(
        x if x.is_contiguous() and x.untyped_storage().nbytes() == x.nbytes else x.clone(memory_format=_CONTIGUOUS)
        for x in answers
    )


_CONTIGUOUS = torch.contiguous_format


def _empty(A: Given, dtype: torch.dtype = torch.float64) -> Tensor:
    """An answer without values: one element for each matrix. Refuses what `functions` would refuse."""
    if isinstance(A, Tensor):
        refuse(A, "A")
        return A.new_empty(A.shape[:-2], dtype=dtype)
    for i, matrix in enumerate(A):
        refuse(matrix, f"A[{i}]", listed=True)
    return A[0].new_empty([len(A)], dtype=dtype)


def _fake_rank_bounds(A: Given, *args: Any) -> tuple[Tensor, ...]:
    return _empty(A, torch.int64), _empty(A, torch.int64), _empty(A, torch.int8)


def _fake_matrix_rank(A: Given, *args: Any) -> Tensor:
    return _empty(A, torch.int64)


def _fake_metric(A: Given, *args: Any) -> Tensor:
    return _empty(A)


def _fake_svdvals(A: Given, accurate: bool) -> Tensor | list[Tensor]:
    _empty(A)
    each = [A] if isinstance(A, Tensor) else A
    sigma = [a.new_empty([*a.shape[:-2], _smaller(a)], dtype=torch.float64) for a in each]
    return sigma[0] if isinstance(A, Tensor) else sigma


def _smaller(A: Tensor) -> int:
    """The smaller side of a matrix, which may be a symbol."""
    side: int = torch.sym_min(*A.shape[-2:])  # type: ignore[no-untyped-call]
    return side


def _fake_svd_lowrank(A: Given, k: int, *args: Any) -> tuple[Tensor, ...] | list[Tensor]:
    error = _empty(A)
    us, ss, vhs = [], [], []
    for a in [A] if isinstance(A, Tensor) else A:
        *batch, m, n = a.shape
        dtype = torch.float64 if a.dtype == torch.float64 else torch.float32
        us.append(a.new_empty([*batch, m, k], dtype=dtype))
        ss.append(a.new_empty([*batch, k], dtype=dtype))
        vhs.append(a.new_empty([*batch, k, n], dtype=dtype))
    return (us[0], ss[0], vhs[0], error) if isinstance(A, Tensor) else [*us, *ss, *vhs, error]


def _by_slice(name: str) -> Any:
    """The rule of `torch.func.vmap`: each slice is answered as if it were alone."""

    def rule(info: Any, in_dims: tuple[Any, ...], A: Tensor, *args: Any) -> tuple[Any, Any]:
        operator = getattr(torch.ops.fastrank, name).default
        if any(dim is not None for dim in in_dims[1:]):
            raise NotImplementedError(f"{name}: vmap takes matrices alone; let thresholds be the same for all slices")
        answers = [operator(a, *args) for a in A.movedim(in_dims[0], 0)]
        if isinstance(answers[0], Tensor):
            return torch.stack(answers), 0
        return tuple(torch.stack(each) for each in zip(*answers, strict=True)), (0,) * len(answers[0])

    return rule


_METRICS = {
    "spectral_norm": "",
    "stable_rank": "",
    "effective_rank": ", bool accurate",
    "energy_rank": ", float energy, bool accurate",
    "nuclear_norm": ", bool accurate",
    "participation_ratio": ", bool accurate",
}
_THRESHOLDS = ", float? atol, Tensor? atols, float? rtol, Tensor? rtols"
_SEARCH = ", int k, int oversample, int power_iters, int seed"
_BOUNDS = ", float value, str relative_to, bool resolve"
_THREE = "(Tensor lower, Tensor upper, Tensor status)"
_REGISTERED: dict[str, tuple[str, str, str, Any, Any]] = {
    "rank_bounds": (_BOUNDS, _THREE, _THREE, _real_rank_bounds, _fake_rank_bounds),
    "matrix_rank": (_THRESHOLDS, "Tensor", "Tensor", _real_matrix_rank, _fake_matrix_rank),
    "svdvals": (", bool accurate", "Tensor", "Tensor[]", _real_svdvals, _fake_svdvals),
    "svd_lowrank": (
        _SEARCH,
        "(Tensor U, Tensor S, Tensor Vh, Tensor error)",
        "Tensor[]",
        _real_svd_lowrank,
        _fake_svd_lowrank,
    ),
    **{name: (rest, "Tensor", "Tensor", _real_metric(name), _fake_metric) for name, rest in _METRICS.items()},
}
"""Of each operator: arguments beside A, what either overload returns, what does the work, and what has shapes only."""

for _name, (_rest, _one, _many, _real, _fake) in _REGISTERED.items():
    register(f"{_name}(Tensor A{_rest}) -> {_one}", _real, _fake, vmap=_by_slice(_name))
    register(f"{_name}.list(Tensor[] A{_rest}) -> {_many}", _real, _fake)
