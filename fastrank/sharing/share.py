"""Share: whether the processes of a job measure together, and what they have to agree on before they do."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from enum import Enum
from typing import Any

import torch
from torch import Tensor, distributed, nn

from ..metrics import Tolerance
from ..streams import OwnStream
from ..weights import Source, Span, TrackedMatrices, is_ddp
from .holdings import Holding, groups_of
from .measurer import SharedMeasurer
from .plan import Plan, make_plan
from .ranks import Ranks


class Role(Enum):
    """What a process does for the history of its model."""

    ALONE = "it measures by itself"
    TOGETHER = "it measures together with others"
    IDLE = "another process has the same weights and measures them"


def role_of(model: nn.Module, sources: Sequence[Source], share: Any) -> Role:
    """What this process does.

    Args:
        sources: the tracked matrices.
        share: the argument of `RankTracker`.

    Raises:
        TypeError, ValueError: `share` is none of those that there are, or not possible here.
    """
    several = distributed.is_available() and distributed.is_initialized()
    is_group = several and isinstance(share, distributed.ProcessGroup)
    if several and share is distributed.GroupMember.NON_GROUP_MEMBER:  # of `new_group`, in place of the group
        raise ValueError(
            "share: this process is not in the group; only those in it make a RankTracker with share=group"
        )
    if not (is_group or share is None or isinstance(share, bool)):
        raise TypeError(f"share: expected None, True, False or a process group, not {share!r}")
    sharded = any(source.piece is not None for source in sources)
    if sharded and not several:
        raise ValueError("share: the weights are sharded, and torch.distributed is not initialised")
    if sharded and share is False:
        raise ValueError("share: the weights are sharded over several processes, which have to measure them together")
    if share is not None and share is not False and not several:
        raise ValueError("share: torch.distributed is not initialised, and there are no others to share with")
    if sharded or is_group or share is True:
        return Role.TOGETHER
    if share is None and several:
        replicas: list[Any] = [module for module in model.modules() if is_ddp(module)]
        if any(distributed.get_rank(module.process_group) > 0 for module in replicas):
            return Role.IDLE
    return Role.ALONE


def share_out(
    matrices: TrackedMatrices,
    sources: Sequence[Source],
    share: Any,
    timeout: float,
    arguments: Mapping[str, Any],
    tolerances: Sequence[Tolerance],
    spectrum: Sequence[str],
    device: torch.device,
    stream: OwnStream,
) -> SharedMeasurer:
    """Meet the other ranks, and agree on who measures what.

    Args:
        matrices: those that this rank tracks. sources: their parts that it has.
        share: a process group, or anything else for all ranks of the job.
        timeout: seconds to wait for other ranks.
        arguments: what has to be the same on all ranks, by name.
        tolerances, spectrum, device, stream: as of `Measurer`.

    Raises:
        RuntimeError: a rank does not come. ValueError: the ranks differ in `arguments`, or about their matrices.
    """
    group = share if isinstance(share, distributed.ProcessGroup) else None
    ranks = Ranks(group, device, timeout, "RankTracker")
    try:
        own = json.dumps({name: _described(value) for name, value in arguments.items()})
        _compare(ranks, [json.loads(given) for given in ranks.meet(own.encode())])
        declared = [_holding(name, source) for name, source in zip(matrices.names, sources, strict=True)]
        beside = set(matrices.names[matrices.weights :])
        frozen = {name for name, source in zip(matrices.names, sources, strict=True) if source.frozen}
        packed = json.dumps([declared, sorted(beside), sorted(frozen)]).encode()
        known = [json.loads(each) for each in _everybodys(ranks, packed, device)]
        beside, frozen = (set().union(*(each[i] for each in known)) for i in (1, 2))
        holdings = [[_declared(holding) for holding in own] for own, _, _ in known]
        plan = _planned(ranks, holdings, beside)
        weights = sum(matrix.name not in beside for matrix in plan.matrices)
        replicas = groups_of(holdings, [matrix.name for matrix in plan.matrices[:weights]])
        ranks.moved = 0  # from here on only what is measured
        return SharedMeasurer(
            plan, ranks, sources, matrices.names, frozen, weights, tolerances, spectrum, device, stream, replicas
        )
    except BaseException as error:
        ranks.told(f"it failed to make its tracker: {type(error).__name__}: {error}")
        raise


def _compare(ranks: Ranks, given: Sequence[Mapping[str, str]]) -> None:
    """Raise a `ValueError` for an argument that differs from one rank to the next."""
    for rank, arguments in enumerate(given):
        for name, value in arguments.items():
            if value != given[0].get(name):
                raise ValueError(
                    f"{name}: the ranks that measure together need the same arguments, and {ranks.name(rank)} has "
                    f"{value}, {ranks.name(0)} {given[0].get(name)}"
                )


def _planned(ranks: Ranks, holdings: Sequence[Sequence[Holding]], last: Collection[str]) -> Plan:
    """As `make_plan`, whose errors number ranks from 0: they say which those are, if the job numbers them otherwise."""
    try:
        return make_plan(holdings, last)
    except ValueError as error:
        names = [ranks.name(i) for i in range(ranks.size)]
        if names == [f"rank {i}" for i in range(ranks.size)]:
            raise
        raise ValueError(f"{error} (ranks 0, 1 and so on of the group share= are {', '.join(names)})") from None


def _described(value: Any) -> str:
    """An argument as all ranks describe it, who have the same function at different addresses."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def _holding(name: str, source: Source) -> tuple[Any, ...]:
    """What a rank declares about a matrix, see `Holding`, of builtin types."""
    rows, cols = source.shape
    spans = ((0, rows, 0, cols),) if source.piece is None else tuple(map(tuple, source.piece.spans))
    dtype = str(source.matrix.dtype).removeprefix("torch.")
    return name, (rows, cols), dtype, spans, "frozen" if source.frozen else "trained"


def _declared(holding: Sequence[Any]) -> Holding:
    """A `_holding` as JSON has it."""
    name, (rows, cols), dtype, spans, tag = holding
    return Holding(name, (rows, cols), dtype, tuple(Span(*span) for span in spans), tag)


def _everybodys(ranks: Ranks, own: bytes, device: torch.device) -> list[bytes]:
    """The bytes of all ranks, in their order. They do not go by the store, as those of `Ranks.meet` do: what ranks say
    of their matrices is too much for one process to hand to a thousand others."""
    sizes = torch.zeros(ranks.size, dtype=torch.int64, device=device)
    sizes[ranks.rank] = len(own)
    lengths = ranks.sum_(sizes).tolist()
    mine: Tensor = torch.frombuffer(bytearray(own), dtype=torch.uint8).to(device).repeat(ranks.size)
    came = ranks.exchange(mine, [len(own)] * ranks.size, lengths).cpu()
    return [bytes(piece.numpy()) for piece in torch.split(came, lengths)]
