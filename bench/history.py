"""Writes a long run's history as a tracker does, and reads it back: bytes on disk, seconds, milliseconds for a series.

    python bench/history.py [--steps 100000] [--matrices 60] [--rows-per-part 32768] [--folder FOLDER] [--seed 0]

Sixty matrices, eight metrics and 1e5 steps are 48 million values; they must take less than 250 MB, or 5.2 bytes each,
and one metric of one matrix must be read in less than 100 ms. What was tried, on two cores of an AMD EPYC shared with
other work (the fastest of three visits; pyarrow 26; 131 parts, written by `fastrank.write_history` alone):

    rows, encoding of floats, row groups             MB   write s   series ms   all s
    by step, dictionary, one a part (at first)      338       3.5         202     1.0
    by step, split bytes, one a part                220       1.0         123     0.5
    by matrix, dictionary, one a part               335       4.1         191     1.0
    by matrix, split bytes, one a part              213       1.7         123     0.6
    by matrix, split bytes, 16384 rows or more      214       2.0          77     0.8
    by matrix, split bytes, 8192 rows or more       216       1.7          69     0.8   chosen, with zstd level 3
    by matrix, split bytes, 4096 rows or more       217       2.3          75     1.0
    by matrix, split bytes, one a matrix            227       6.3         123     2.0
    as chosen, zstd level 1                         218       1.7          75     0.9
    as chosen, zstd level 9                         214       2.1          68     0.8
    as chosen, LZ4                                  218       1.8          63     0.8
    as chosen, not compressed                       293       1.5          63     0.7
    as chosen, floats stored as FP32                 76       1.9          69     0.7   loses bits

Splitting the bytes of FP64 into streams is what makes it small: noise of 1e-4 leaves 39 of 52 bits, or 29 bytes a row,
that nothing compresses, and of which dictionaries make more. No bit has to be lost. Rows by matrix make a series quick
whatever the number of matrices, where rows by step take as long as the whole column. A file costs half a millisecond
to open and to look through, so that smaller row groups do not pay, and larger parts would: their number is what a
series waits for. Readers of Arrow do not use page indexes, so there are none.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import fastrank

METRICS = 8
"""Measured columns of a row; its status, step, name and shape come on top, and are not counted as values."""
BUDGET = 250e6 / 48e6
"""Bytes on disk a value: 250 MB for 60 matrices, 8 metrics and 1e5 steps."""
KINDS = ("query", "output", "up", "down")
SIDE = 256
CHUNK = 500
"""Steps that are made up at a time."""

FloatArray = NDArray[np.float64]


class Result(NamedTuple):
    """What `measure` found."""

    values: int
    parts: int
    megabytes: float
    write_s: float
    series_ms: float
    row_ms: float
    """A series with every column."""
    all_s: float

    @property
    def bytes_per_value(self) -> float:
        return self.megabytes * 1e6 / self.values


def network(matrices: int) -> nn.Module:
    """Blocks of four linear layers, named as a transformer's are."""
    model = nn.Module()
    model.blocks = nn.ModuleList(nn.Module() for _ in range(-(-matrices // len(KINDS))))
    for i in range(matrices):
        setattr(model.blocks[i // len(KINDS)], KINDS[i % len(KINDS)], nn.Linear(SIDE, SIDE, bias=False))
    return model


def measurements(steps: int, matrices: int, columns: Sequence[str], seed: int = 0) -> Iterator[FloatArray]:
    """Made-up rows of a training run, `(at most CHUNK, matrices, columns)` at a time.

    Ranks are constant for some five hundred steps, and fall; a bound is open once in a thousand rows. Norms and the
    metrics of the spectrum are random walks of relative 1e-4 a step, each with as much noise again, as mini-batches
    give them. Every number has all the digits of FP64.
    """
    generator = np.random.default_rng(seed)
    rank = generator.integers(SIDE // 4, SIDE, matrices).astype(float)
    logs = {"frobenius_norm": np.log(generator.uniform(1, 20, matrices))}
    logs |= {name: np.log(generator.uniform(2, 40, matrices)) for name in ("stable_rank", "effective_rank")}
    for start in range(0, steps, CHUNK):
        shape = (min(CHUNK, steps - start), matrices)
        walks = {name: log + np.cumsum(generator.normal(0, 1e-4, shape), axis=0) for name, log in logs.items()}
        logs = {name: walk[-1] for name, walk in walks.items()}
        made = {name: np.exp(walk + generator.normal(0, 1e-4, shape)) for name, walk in walks.items()}
        made["spectral_norm"] = made["frobenius_norm"] / np.sqrt(made["stable_rank"])
        lower = np.maximum(rank - np.cumsum(generator.random(shape) < 2e-3, axis=0), 1)
        rank = lower[-1]
        open_bound = generator.random(shape) < 1e-3
        made["rank_lower"], made["rank_upper"] = lower, lower + open_bound
        made["status"] = np.where(open_bound, float(fastrank.Status.FALLBACK), float(fastrank.Status.OK))
        noise = np.exp(generator.normal(0, 1e-4, (2, *shape)))
        made["nuclear_norm"] = made["spectral_norm"] * np.sqrt(made["effective_rank"] * lower) * noise[0]
        made["participation_ratio"] = made["stable_rank"] * 1.7 * noise[1]
        yield np.stack([made[name] for name in columns], axis=-1)


def write(folder: Path, steps: int, matrices: int, rows_per_part: int = 32768, seed: int = 0) -> float:
    """Write a history of made-up measurements to a folder of parts; returns the seconds that took.

    A tracker as a user makes it writes them: only its measurements are not its own.
    """
    spectrum = ["effective_rank", "nuclear_norm", "participation_ratio"]
    tracker = fastrank.RankTracker(network(matrices), spectrum=spectrum, directory=folder, rows_per_part=rows_per_part)
    history, shapes = tracker._history, tuple(tuple(s.matrix.shape) for s in tracker._weights.sources())
    seconds, step = 0.0, 0
    for chunk in measurements(steps, matrices, history.layout.columns, seed):
        values = torch.from_numpy(chunk)
        begin = time.perf_counter()
        for row in values:
            step += 1
            history.append(torch.tensor(step), row, None, shapes)
        seconds += time.perf_counter() - begin
    begin = time.perf_counter()
    tracker.close()
    return seconds + time.perf_counter() - begin


def measure(folder: Path, write_s: float, rounds: int = 9) -> Result:
    """Size and times of a history that `write` wrote, once what is read in part is the same as in the whole.

    Raises:
        AssertionError: it is not.
    """
    names = fastrank.read_history(folder, columns=["name"])["name"].chunk(0).dictionary.to_pylist()
    columns = ["step", "spectral_norm"]
    begin = time.perf_counter()
    whole = fastrank.read_history(folder)
    all_s = time.perf_counter() - begin
    for name in (names[0], names[-1]):
        expected = whole.filter(np.asarray(whole["name"]) == name)
        assert fastrank.read_history(folder, names=[name], columns=columns).equals(expected.select(columns)), name
    rows = len(whole)
    del whole, expected

    def milliseconds(read: Callable[[str], object]) -> float:
        """Median over matrices from all over the files, each once read before."""
        times = []
        for name in [names[i * len(names) // rounds] for i in range(rounds)]:
            read(name)
            begin = time.perf_counter()
            read(name)
            times.append(time.perf_counter() - begin)
        return median(times) * 1e3

    parts = list(folder.iterdir())
    return Result(
        values=rows * METRICS,
        parts=len(parts),
        megabytes=sum(part.stat().st_size for part in parts) / 1e6,
        write_s=write_s,
        series_ms=milliseconds(lambda name: fastrank.read_history(folder, names=[name], columns=columns)),
        row_ms=milliseconds(lambda name: fastrank.read_history(folder, names=[name])),
        all_s=all_s,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--matrices", type=int, default=60)
    parser.add_argument("--rows-per-part", type=int, default=32768)
    parser.add_argument("--folder", type=Path, help="keep the history here (default: a temporary folder)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="fastrank-history-"))
    try:
        seconds = write(folder, arguments.steps, arguments.matrices, arguments.rows_per_part, arguments.seed)
        result = measure(folder, seconds)
    finally:
        if arguments.folder is None:
            shutil.rmtree(folder)
    print(f"{result.values:,} values in {result.parts} parts: {result.megabytes:.1f} MB, "
          f"{result.bytes_per_value:.2f} bytes a value (budget {BUDGET:.2f})")  # fmt: skip
    print(f"written in {result.write_s:.1f} s")
    print(f"one metric of one matrix read in {result.series_ms:.0f} ms, all its columns in {result.row_ms:.0f} ms")
    print(f"everything read in {result.all_s:.2f} s")
    return 0 if result.bytes_per_value <= BUDGET else 1


if __name__ == "__main__":
    sys.exit(main())
