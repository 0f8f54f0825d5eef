"""Counts thousands of matrices whose rank is known, and exits with 1 if a single proven bound is false.

    python bench/truth.py [--matrices 10000] [--largest 512] [--device cuda] [--seed 0] [--results FILE.csv]

Every family of `fastrank.testing` in turn, clusters 1e-3, 1e-5 and 1e-7 of tau away from it, sizes log-uniform from 1
to `--largest` on either side, all dtypes, scales and kinds of tolerance. The truth is FP64 singular values of the
matrices as stored, with room for their own rounding (`fastrank.testing.true_rank`). Bounds are the count's alone first,
then with what it left open resolved; the table says by family how many of either were left open. With
TRITON_INTERPRET=1 the kernels count on a CPU, slowly.

When it is stopped by SIGTERM it tells what it has found until then, and exits with 1: it has not done what was asked.
"""

from __future__ import annotations

import argparse
import csv
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass
from itertools import islice
from pathlib import Path
from threading import Event

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


@dataclass
class Tally:
    """Of one family: matrices, false bounds, and bounds left open by the count and after that."""

    matrices: int = 0
    wrong: int = 0
    open: int = 0
    unresolved: int = 0


def cases(count: int, largest: int, seed: int) -> Iterator[tuple[str, Tensor, Tolerance]]:
    """Family, matrix and tolerance, `count` times; a batch of `BATCH` shares its tolerance, if it is relative."""
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
        options = {"distance": float(distance)} if distance else {}
        case = testing.make(name, rows, cols, seed=i, dtype=dtype, scale=scale, tolerance=tolerance, **options)
        yield family, case.matrix, case.tolerance


def tally(
    count: int, largest: int, device: torch.device, seed: int = 0, stopped: Event | None = None
) -> dict[str, Tally]:
    """Counts by family, of all matrices or of those before `stopped` is set."""
    stopped = stopped or Event()
    tallies = {family: Tally() for family in FAMILIES}
    made = cases(count, largest, seed)
    while not stopped.is_set() and (batch := list(islice(made, BATCH))):
        by_tolerance: dict[Tolerance, list[tuple[str, Tensor]]] = {}
        for family, matrix, tolerance in batch:
            by_tolerance.setdefault(tolerance, []).append((family, matrix))
        for tolerance, members in by_tolerance.items():
            _judge(tolerance, members, device, tallies, stopped)
    return tallies


def _judge(
    tolerance: Tolerance,
    members: list[tuple[str, Tensor]],
    device: torch.device,
    tallies: dict[str, Tally],
    stopped: Event,
) -> None:
    """Adds matrices of one tolerance to the tallies of their families."""
    matrices = [matrix.to(device) for _, matrix in members]
    counted = linalg.rank_bounds(matrices, tolerance, resolve=False)
    left = (counted.lower < counted.upper).nonzero().flatten().tolist()
    resolved = linalg.rank_bounds([matrices[j] for j in left], tolerance)
    second = dict(zip(left, zip(*resolved, strict=True), strict=True))
    for j, ((family, matrix), *first) in enumerate(zip(members, *counted, strict=True)):
        if stopped.is_set():
            return
        truth = testing.true_rank(matrix, tolerance)
        one, two = (
            testing.count_errors(fastrank.RankBounds(*(x.cpu() for x in bounds)), truth)
            for bounds in (first, second.get(j, first))
        )
        t = tallies[family]
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
    parser.add_argument("--results", type=Path, help="file for the tally, as CSV")
    arguments = parser.parse_args()
    stopped = Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    serving = "without kernels"
    if os.environ.get("TRITON_INTERPRET") == "1":
        backend.kernels_serve = lambda device: True  # type: ignore[assignment]
    if backend.kernels_serve(arguments.device):
        serving = "by the kernels"
    start = time.monotonic()
    tallies = tally(arguments.matrices, arguments.largest, arguments.device, arguments.seed, stopped)
    total = Tally(*(sum(column) for column in zip(*map(astuple, tallies.values()), strict=True)))
    if arguments.results:
        save(arguments.results, tallies | {"all": total})
    print(f"{'family':16} {'matrices':>9} {'wrong':>6} {'open by the count':>18} {'open at last':>13}")
    for family, t in [*tallies.items(), ("all", total)]:
        left, last = (f"{n / max(t.matrices, 1):.1%}" for n in (t.open, t.unresolved))
        print(f"{family:16} {t.matrices:9} {t.wrong:6} {left:>18} {last:>13}")
    print(f"counted {serving} on {arguments.device} in {time.monotonic() - start:.0f} s")
    if stopped.is_set():
        print(f"stopped after {total.matrices} of {arguments.matrices} matrices")
    return 1 if total.wrong or stopped.is_set() else 0


if __name__ == "__main__":
    sys.exit(main())
