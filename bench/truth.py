"""Counts thousands of matrices whose rank is known, and exits with 1 if a single proven bound is false.

    python bench/truth.py [--matrices 10000] [--largest 512] [--device cuda] [--seed 0] [--jobs 1]
        [--results FILE.csv]

Every family of `fastrank.testing` in turn, clusters 1e-3, 1e-5 and 1e-7 of tau away from it, sizes log-uniform from 1
to `--largest` on either side, all dtypes, scales and kinds of tolerance. The truth is FP64 singular values of the
matrices as stored, with room for their own rounding (`fastrank.testing.true_rank`). Bounds are the count's alone first,
then with what it left open resolved; the table says by family how many of either were left open. With
TRITON_INTERPRET=1 the kernels count on a CPU, slowly. Making the matrices and finding the truth takes nearly all the
time, and is done by so many `--jobs` side by side: the matrices are the same.

When it is stopped by SIGTERM it tells what it has found until then, and exits with 1: it has not done what was asked.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import pickle
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import fastrank
from fastrank import Tolerance, backend, linalg, testing

DISTANCES = (1e-3, 1e-5, 1e-7)
FAMILIES = (*(f for f in testing.FAMILIES if f != "clustered"), *(f"clustered {d:g}" for d in DISTANCES))
TOLERANCES = (Tolerance(), Tolerance(0.04), Tolerance(1e-3, "spectral"), Tolerance(0.01, "absolute"), Tolerance(0.05))
SCALES = {torch.float16: (1.0,), torch.bfloat16: (1.0, 1e30), torch.float32: (1.0, 1e-30, 1e30),
          torch.float64: (1.0, 1e-300, 1e300)}  # fmt: skip
BATCH = 50
"""Matrices of one call, of all shapes and dtypes but of one tolerance."""
AHEAD = 4
"""Matrices that a process of several may be ahead of the count."""


@dataclass
class Tally:
    """Of one family: matrices, false bounds, and bounds left open by the count and after that."""

    matrices: int = 0
    wrong: int = 0
    open: int = 0
    unresolved: int = 0


class Specification(NamedTuple):
    """What a matrix is made of: its family, and the arguments of `testing.make`."""

    family: str
    arguments: tuple[str, int, int]
    options: dict[str, Any]


class Made(NamedTuple):
    """A matrix, what it is to be measured with, and its true rank."""

    family: str
    matrix: Tensor
    tolerance: Tolerance
    truth: testing.TrueRank


def specifications(count: int, largest: int, seed: int) -> Iterator[Specification]:
    """So many; a batch of `BATCH` shares its tolerance, if it is relative."""
    generator = np.random.Generator(np.random.Philox(key=seed))
    dtypes = list(SCALES)
    for i in range(count):
        family = FAMILIES[i % len(FAMILIES)]
        rows, cols = (round(largest ** generator.uniform()) for _ in range(2))
        dtype = dtypes[int(generator.integers(len(dtypes)))]
        scale = float(generator.choice(SCALES[dtype]))
        tolerance = TOLERANCES[i // BATCH % len(TOLERANCES)]
        name, _, distance = family.partition(" ")
        if name == "clustered" and min(rows, cols) * tolerance.value**2 >= 0.5:
            tolerance = Tolerance(tolerance.value / 50, tolerance.relative_to)  # or there is no such spectrum
        options = {"seed": i, "dtype": dtype, "scale": scale, "tolerance": tolerance}
        yield Specification(family, (name, rows, cols), options | ({"distance": float(distance)} if distance else {}))


def make(specification: Specification) -> Made:
    case = testing.make(*specification.arguments, **specification.options)
    truth = testing.true_rank(case.matrix, case.tolerance)
    return Made(specification.family, case.matrix, case.tolerance, truth)


@contextmanager
def makers(jobs: int) -> Iterator[Callable[[Iterable[Specification]], Iterator[Made]]]:
    """Makes matrices in their order: in this process, or in `jobs` that are forked at once, before CUDA is in use."""
    if jobs == 1:
        yield partial(map, make)
        return
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("fork"), _alone)
    try:
        pool.submit(int).result()
        yield partial(_ahead, pool, AHEAD * jobs)
    finally:
        pool.shutdown(cancel_futures=True)


def _alone() -> None:
    """On one core; a signal to stop is the parent's, which ends its processes itself."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)


def _ahead(pool: ProcessPoolExecutor, most: int, wanted: Iterable[Specification]) -> Iterator[Made]:
    """As the processes of a pool make them, so many ahead of whoever takes them."""
    wanted = iter(wanted)
    begun = deque(pool.submit(_pickled, specification) for specification in islice(wanted, most))
    while begun:
        content = begun.popleft().result()
        begun.extend(pool.submit(_pickled, specification) for specification in islice(wanted, 1))
        yield pickle.loads(content)


def _pickled(specification: Specification) -> bytes:
    """Bytes, because PyTorch would send each tensor through a file of its own, of which there are few."""
    return pickle.dumps(make(specification))


def tally(
    count: int, largest: int, device: torch.device, seed: int = 0, stopped: Event | None = None, jobs: int = 1
) -> dict[str, Tally]:
    """Counts by family, of all matrices or of those before `stopped` is set."""
    stopped = stopped or Event()
    tallies = {family: Tally() for family in FAMILIES}
    with makers(jobs) as made_of:
        made = iter(made_of(specifications(count, largest, seed)))
        while not stopped.is_set() and (batch := list(islice(made, BATCH))):
            by_tolerance: dict[Tolerance, list[Made]] = {}
            for one in batch:
                by_tolerance.setdefault(one.tolerance, []).append(one)
            for tolerance, members in by_tolerance.items():
                _judge(tolerance, members, device, tallies, stopped)
    return tallies


def _judge(
    tolerance: Tolerance,
    members: list[Made],
    device: torch.device,
    tallies: dict[str, Tally],
    stopped: Event,
) -> None:
    """Adds matrices of one tolerance to the tallies of their families."""
    matrices = [member.matrix.to(device) for member in members]
    counted = linalg.rank_bounds(matrices, tolerance, resolve=False)
    left = (counted.lower < counted.upper).nonzero().flatten().tolist()
    resolved = linalg.rank_bounds([matrices[j] for j in left], tolerance)
    second = dict(zip(left, zip(*resolved, strict=True), strict=True))
    for j, (member, *first) in enumerate(zip(members, *counted, strict=True)):
        if stopped.is_set():
            return
        one, two = (
            testing.count_errors(fastrank.RankBounds(*(x.cpu() for x in bounds)), member.truth)
            for bounds in (first, second.get(j, first))
        )
        t = tallies[member.family]
        t.matrices += 1
        t.wrong += one.wrong or two.wrong
        t.open += one.uncertified
        t.unresolved += two.uncertified


def save(path: Path, tallies: dict[str, Tally]) -> None:
    """A row a family: family, matrices, wrong, open, unresolved."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ("family", *asdict(Tally())), lineterminator="\n")
        writer.writeheader()
        writer.writerows({"family": family} | asdict(t) for family, t in tallies.items())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--matrices", type=int, default=10_000)
    parser.add_argument("--largest", type=int, default=512)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes that make matrices (default: this one)")
    parser.add_argument("--results", type=Path, help="file for the tally, as CSV")
    arguments = parser.parse_args()
    if backend.compiled_serve(arguments.device):
        linalg.rank_bounds(torch.eye(2))  # loads the kernels, or compiles them, before the time counts
    stopped = Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    if os.environ.get("TRITON_INTERPRET") == "1":
        backend.kernels_serve = lambda device: True  # type: ignore[assignment]
    start = time.monotonic()
    device, jobs = arguments.device, arguments.jobs
    tallies = tally(arguments.matrices, arguments.largest, device, arguments.seed, stopped, jobs)
    by_kernels = backend.kernels_serve(device) or backend.compiled_serve(device)  # once CUDA may be in use
    serving = "by the kernels" if by_kernels else "by PyTorch"
    total = Tally(*(sum(column) for column in zip(*map(astuple, tallies.values()), strict=True)))
    if arguments.results:
        save(arguments.results, tallies | {"all": total})
    print(f"{'family':16} {'matrices':>9} {'wrong':>6} {'open by the count':>18} {'open at last':>13}")
    for family, t in [*tallies.items(), ("all", total)]:
        left, last = (f"{n / max(t.matrices, 1):.1%}" for n in (t.open, t.unresolved))
        print(f"{family:16} {t.matrices:9} {t.wrong:6} {left:>18} {last:>13}")
    print(f"counted {serving} on {device} in {time.monotonic() - start:.0f} s")
    if stopped.is_set():
        print(f"stopped after {total.matrices} of {arguments.matrices} matrices")
    return 1 if total.wrong or stopped.is_set() else 0


if __name__ == "__main__":
    sys.exit(main())
