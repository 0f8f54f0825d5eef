"""Measure: the weights of an analysis one after the other, several at a time, each forgotten before the next.

What is in memory at a time is, for each job, the largest weight as its file has it, the largest matrix in FP32 (FP64 if
that is what it is in, or if scales make it so), and what the kernels work in: about 40 bytes for each of the squared
smaller side. A weight of many matrices, as experts are stored, is measured matrix by matrix.

Each matrix is measured by one thread. So its row has the same bits whatever is measured at the same time, by however
many threads, and wherever a run was interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..jobs import in_threads
from ..metrics import Tolerance
from ..tracking import RankTracker
from ..weights import Choice, TrackedWeights
from .kept import Kept, Row
from .kinds import layer_type
from .matrices import Holder, Matrices, Weight, current
from .pages import give_back, give_back_heap

if TYPE_CHECKING:
    import pyarrow as pa

SPECTRUM = ("effective_rank", "nuclear_norm", "participation_ratio")
MOST_JOBS = 8
TOGETHER = 2**20
"""Elements of small matrices that are measured in one call; a larger matrix is measured alone."""
TOGETHER_ON_DEVICE = 2**26
POINTS = np.linspace(0, 1, 33)
"""Where in the descending singular values those stand that are kept of each matrix, for pictures."""
Progress = Callable[[float, float], None]
"""Told after each weight how much is done, and of how much in all: in flops, nearly."""


class Settings(NamedTuple):
    """What is measured of each matrix; the fields are the arguments of `fastrank.analyze`."""

    tolerance: Tolerance | Sequence[Tolerance] | None
    energy: float | Sequence[float]
    spectrum: bool
    device: str | torch.device | None


def schema_of(settings: Settings) -> pa.Schema:
    """The columns of a row, with the types that a history gives them. Raises what the tracker does for settings that
    make no sense, before anything is read; and has the kernels compiled."""
    return _tracked([torch.ones(1, 1)], settings).drop_columns(["spectrum"] if settings.spectrum else []).schema


def measure(
    matrices: Matrices, settings: Settings, kept: Kept, jobs: int | None, progress: Progress | None, mapped: bool
) -> list[Row]:
    """A row for each matrix, in their order, as dictionaries of plain numbers: a history's columns without the step,
    and under ``spectrum`` the singular values at `POINTS`, if they are asked for.

    Args:
        kept: has the rows that are known already, and is given the others.
        jobs: how many weights are measured at once (default: as many as PyTorch has threads, and at most `MOST_JOBS`).
            On another device than the CPU it is always one.
        mapped: whether the weights are in files that were mapped for this, and that nobody writes to.
    """
    weights = matrices.weights
    on_cpu = torch.device(settings.device or "cpu").type == "cpu" and all(
        part.device.type == "cpu" for weight in weights.values() for part in weight.recipe.parts
    )
    known = {name: kept.known[name] for name in weights if name in kept.known}
    chunks = [c for c in _together(weights, TOGETHER if on_cpu else TOGETHER_ON_DEVICE) if not c.keys() <= known.keys()]
    costs = {name: _cost(weight.shape, settings.spectrum) for name, weight in weights.items()}
    total, done = sum(costs.values()), sum(costs[name] for name in known)

    def measured(chunk: Mapping[str, Weight]) -> dict[str, list[Row]]:
        found = _rows(chunk, matrices.split, settings)
        for name in found.keys() - known.keys():
            kept.add(name, found[name])
        if mapped:
            for part in (part for weight in chunk.values() for part in weight.recipe.parts):
                give_back(part)
            give_back_heap()
        return found

    # The largest first, so that no job is at one when the others have nothing left.
    chunks.sort(key=lambda chunk: -sum(costs[name] for name in chunk))
    count = min(jobs or min(torch.get_num_threads(), MOST_JOBS), len(chunks)) if on_cpu else 1
    tell = progress or (lambda _done, _total: None)
    tell(done, total)
    with _one_thread_each() if on_cpu else nullcontext():
        for found in in_threads(measured, chunks, count):
            done += sum(costs[name] for name in found.keys() - known.keys())
            known |= found
            tell(done, total)
    kinds = {name: weight.convolution for name, weight in weights.items()}
    return [{**row, "layer_type": layer_type(row["name"], kinds[name])} for name in weights for row in known[name]]


def _rows(chunk: Mapping[str, Weight], split: Mapping[str, Any], settings: Settings) -> dict[str, list[Row]]:
    """The rows of some weights. Names that would not be the same in another company are not given to anybody."""
    named: list[tuple[str, str, Tensor]] = []
    for name, weight in chunk.items():
        rule = next((parts for glob, parts in split.items() if fnmatchcase(name, glob)), None)
        cut = current(TrackedWeights(Holder({"w": weight.make()}), Choice(split={"w": rule} if rule else {})))
        named += [(name, f"{name}{matrix.removeprefix('w')}", x) for matrix, x in cut.items()]
    rows: dict[str, list[Row]] = {name: [] for name in chunk}
    while named:
        count, size = 0, 0
        while count < len(named) and (count == 0 or size + named[count][2].numel() <= TOGETHER):
            size, count = size + named[count][2].numel(), count + 1
        found = _tracked([x for _, _, x in named[:count]], settings).to_pylist()
        for (of, name, _), row in zip(named[:count], found, strict=True):
            rows[of].append({**row, "name": name})
        del named[:count]
    return rows


def _tracked(matrices: Sequence[Tensor], settings: Settings) -> pa.Table:
    """A row of a history for each of the matrices, without the step and under the name of its number."""
    import pyarrow as pa

    device = settings.device
    holder = Holder({f"{i}": x if device is None else x.to(device) for i, x in enumerate(matrices)})
    more: dict[str, Any] = {"energy": settings.energy} if settings.energy != () else {}
    spectrum = (*SPECTRUM, "singular_values") if settings.spectrum else ()
    with RankTracker(holder, tolerance=settings.tolerance, spectrum=spectrum, **more) as tracker:
        tracker.step()
        table = tracker.to_arrow().drop_columns(["step"])
    if not settings.spectrum:
        return table
    points = [_points(sigma) for sigma in table["singular_values"].to_pylist()]
    return table.drop_columns(["singular_values"]).append_column("spectrum", pa.array(points, pa.list_(pa.float64())))


def _points(sigma: Sequence[float] | None) -> list[float] | None:
    if not sigma:
        return None
    return [float(sigma[i]) for i in np.rint(POINTS * (len(sigma) - 1)).astype(int)]


def _together(weights: Mapping[str, Weight], most: int) -> Iterator[dict[str, Weight]]:
    """The weights in chunks, of which each but one of a single weight has at most so many elements."""
    chunk: dict[str, Weight] = {}
    size = 0
    for name, weight in weights.items():
        if chunk and size + weight.shape.numel() > most:
            yield chunk
            chunk, size = {}, 0
        chunk[name] = weight
        size += weight.shape.numel()
    yield chunk


def _cost(shape: torch.Size, spectrum: bool) -> float:
    """Flops, nearly, of all matrices of a weight: its Grams, two counts, and the eigenvalues."""
    (*lead, m, n), r = shape, min(shape[-2:])
    return float(np.prod(lead, initial=1.0) * r * r * (max(m, n) + r * (2 / 3 + (4 / 3 if spectrum else 0))))


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Meanwhile PyTorch uses one thread in each thread that calls it: the number is one for the whole process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
