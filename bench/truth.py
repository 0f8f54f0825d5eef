"""Counts thousands of matrices whose rank is known, and exits with 1 if a single proven bound is false.

    python bench/truth.py [--matrices 10000] [--largest 512] [--device cuda] [--seed 0] [--jobs 1] [--out FOLDER]
        [--results FILE.csv] [--report] [--worst FILE.npz]

Every family of `truth_spectra.py` and `truth_structures.py` in turn, in batches of one shape, dtype and tolerance, and
each in every way that ranks are counted in (`truth_paths.py`). The truth is FP64 singular values where these are
beyond doubt, and whole numbers where they are not (`truth_made.py`); a matrix too large for that is counted as
ambiguous, and its bounds are false only if they exclude every rank that it may have. Bounds are the count's alone
first, then with what it left open resolved; the table says by family how many of either were left open. Products of
slices, integers, are a way of their own, and for `--results` there is a second file, `integers.csv`, of what they leave
open beside FP64. With TRITON_INTERPRET=1 the kernels count on a CPU, slowly. So many `--jobs` work side by side on a
CPU; where a GPU counts, they make the matrices.

With `--out` the outcome of every batch is written there at once, and the same command goes on where it was ended
(`truth_ledger.py`). Matrices with a false bound are written there, too. `--worst` writes, of every family, the matrices
that were the nearest calls.

When it is stopped by SIGTERM it tells what it has found until then, and exits with 1: it has not done what was asked.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Event

import torch
import truth_report
from truth_ledger import Ledger, Row, fingerprint, keep, save, totals
from truth_made import BATCH, FAMILIES, TAIL, Made, Specification, make, specifications
from truth_paths import Outcome, Tally, judge

from fastrank import backend, linalg
from fastrank.experiments.provenance import commit

AHEAD = 4
"""Batches that a process of several may be ahead of the one that writes the ledger."""


def batch_size(count: int) -> int:
    """So that every family has four batches at least."""
    return max(1, min(BATCH, count // (4 * len(FAMILIES))))


@contextmanager
def workers(jobs: int, device: torch.device) -> Iterator[Callable[[Iterable[Specification]], Iterator[Outcome]]]:
    """Outcomes of batches in their order: by this process, or by `jobs` that are forked at once, before CUDA is in use.
    What is to be counted on a GPU is only made there."""
    if jobs == 1:
        yield partial(map, partial(_outcome, device))
        return
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("fork"), _alone)
    try:
        pool.submit(int).result()
        yield partial(_ahead, pool, AHEAD * jobs, device)
    finally:
        pool.shutdown(cancel_futures=True)


def _alone() -> None:
    """On one core; a signal to stop is the parent's, which ends its processes itself."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)


def _outcome(device: torch.device, specification: Specification) -> Outcome:
    return judge(make(specification), device)


def _ahead(
    pool: ProcessPoolExecutor, most: int, device: torch.device, wanted: Iterable[Specification]
) -> Iterator[Outcome]:
    """What the processes of a pool make, so many batches ahead of whoever takes them."""
    work = partial(_outcome, device) if device.type == "cpu" else _pickled
    wanted = iter(wanted)
    begun = deque(pool.submit(work, specification) for specification in islice(wanted, most))
    while begun:
        done = begun.popleft().result()
        begun.extend(pool.submit(work, specification) for specification in islice(wanted, 1))
        yield judge(pickle.loads(done), device) if isinstance(done, bytes) else done


def _pickled(specification: Specification) -> bytes:
    """Bytes, because PyTorch would send each tensor through a file of its own, of which there are few."""
    made: Made = make(specification)
    return pickle.dumps(made)


def count(
    wanted: Sequence[Specification],
    device: torch.device,
    ledger: Ledger,
    stopped: Event,
    jobs: int = 1,
    folder: Path | None = None,
) -> None:
    """Have the batches counted that are not in the ledger, all of them or those before `stopped` is set. Matrices with
    a false bound are written into the folder."""
    done = ledger.done()
    left = [s for s in wanted if s.number not in done]
    with workers(jobs, device) as outcomes_of:
        for specification, outcome in zip(left, outcomes_of(left), strict=True):
            ledger.add(specification, outcome)
            if outcome.false:
                folder = folder or Path(tempfile.mkdtemp(prefix="truth-"))
                path = folder / f"false-{specification.number}.npz"
                cases = [(f"{f.path}: {f.lower} to {f.upper}, not {f.truth}", specification, f.index)
                         for f in outcome.false]  # fmt: skip
                keep(path, cases)
                print(f"FALSE: {specification} {cases[0][0]}, see {path}", flush=True)
            if stopped.is_set():
                return


def tally(
    matrices: int, largest: int, device: torch.device, seed: int = 0, stopped: Event | None = None, jobs: int = 1
) -> dict[str, Tally]:
    """Counts by family in the way that the library chooses, without a ledger; false bounds are those of all ways."""
    ledger = Ledger(None, "")
    count(list(specifications(matrices, largest, seed, most=batch_size(matrices))), device, ledger,
          stopped or Event(), jobs)  # fmt: skip
    rows = ledger.summary()
    every = totals(rows, "family")
    return {name: t._replace(wrong=every[name].wrong) for name, t in totals(first_path(rows), "family").items()}


def first_path(rows: Sequence[Row]) -> list[Row]:
    """Those of the way that the library chooses, which every batch has first."""
    return [row for row in rows if row.path == rows[0].path]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--matrices", type=int, default=10_000)
    parser.add_argument("--largest", type=int, default=512)
    parser.add_argument("--tail", type=float, default=TAIL, help="share of batches whose sides go up to the largest")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes that work side by side (default: this one)")
    parser.add_argument("--out", type=Path, help="folder of the ledger, and of matrices with false bounds")
    parser.add_argument("--results", type=Path, help="file for the summary, as CSV")
    parser.add_argument("--report", action="store_true", help="a table of it as well, beside the file of --results")
    parser.add_argument("--worst", type=Path, help="file for the matrices that were the nearest calls")
    arguments = parser.parse_args()
    device, jobs, folder = arguments.device, arguments.jobs, arguments.out
    if backend.compiled_serve(device):
        linalg.rank_bounds(torch.eye(2))  # loads the kernels, or compiles them, before the time counts
    stopped = Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if interpreted:
        backend.kernels_serve = lambda device: True  # type: ignore[assignment]
    size = (arguments.largest, arguments.seed, batch_size(arguments.matrices), arguments.tail)
    key = fingerprint(*size, device, interpreted, backend.installed("flint"))
    ledger = Ledger(folder and folder / "ledger.sqlite", key)
    wanted = list(specifications(arguments.matrices, *size[:2], most=size[2], tail=size[3]))
    if interpreted:  # Triton's interpreter takes subnormal numbers of BF16 for others, which no GPU does
        wanted = [s for s in wanted if not (s.family == "subnormal" and s.dtype == torch.bfloat16)]
    before, start = len(ledger.done()), time.monotonic()
    torch.set_num_threads(1)
    count(wanted, device, ledger, stopped, jobs, folder)
    rows = ledger.summary(len(wanted))
    if arguments.results:
        sliced = arguments.results.with_name("integers.csv")
        save(arguments.results, rows)
        save(sliced, ledger.beside(len(wanted)))
        if arguments.report:
            note = f"Counted on {device} until {time.strftime('%Y-%m-%d', time.gmtime())}, by commit {commit()}."
            truth_report.write(arguments.results, note=note)
            truth_report.write_beside(sliced, note)
    if arguments.worst:
        by_number = {s.number: s for s in wanted}
        cases = [(f"{k.family}, {k.why} {abs(k.score):.3g}", by_number[k.number], k.place)
                 for k in ledger.kept() if k.number in by_number]  # fmt: skip
        keep(arguments.worst, cases)
    print("\n".join(truth_report.lines(rows)))
    if not backend.installed("flint"):
        print("without python-flint: what FP64 singular values do not tell is ambiguous")
    counted = sum(t.matrices for t in totals(first_path(rows), "family").values()) if rows else 0
    again = f", {before} of {len(wanted)} batches before" if before else ""
    print(f"counted {counted} matrices on {device} in {time.monotonic() - start:.0f} s{again}")
    if stopped.is_set():
        print(f"stopped after {counted} of {arguments.matrices} matrices")
    return 1 if stopped.is_set() or any(row.tally.wrong for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
