"""What a terminal shows of a history: read from its files, of which only those are read again that have changed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import fastrank
from fastrank.plotting import Standing
from fastrank.plotting.figures import Source, ranks, share

from ..records import history_parts

COLUMNS = ("step", "name", "rows", "cols", "rank_lower", "rank_upper")
MORE = ("stable_rank", "status")  # read where they are there
TRIES = 3  # a part may be removed while it is read: a resumed training does that

Stamp = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class History:
    """What is shown of a history.

    Attributes:
        steps: (n,), the recorded ones.
        shares: (matrices, n), ranks as shares of full rank; NaN where a matrix has no rank, or no row.
        standing: the matrices, and how they stand at the last step.
    """

    steps: NDArray[np.int64]
    shares: NDArray[np.float32]
    standing: Standing


@dataclass(frozen=True, eq=False)
class _Part:
    """What is kept of a file: a rank for each of its steps and matrices, and the rows of its last step."""

    steps: NDArray[np.int64]
    ranks: NDArray[np.float32]
    shapes: Mapping[str, tuple[int, int]]
    latest: Mapping[str, Mapping[str, Any]]


class Reader:
    """Reads a history, and reads it again when its files have changed.

    Args:
        path: a folder of parts, to which a tracker may be writing, or a Parquet file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[Path, tuple[Stamp, _Part]] = {}
        self._stamps: list[tuple[Path, Stamp]] = []

    def changed(self) -> bool:
        """Whether the files are others than those that were last read."""
        try:
            return [(file, _stamp(file)) for file in self._files()] != self._stamps
        except (fastrank.HistoryError, OSError):
            return bool(self._stamps)

    def read(self) -> History:
        """Read the history as it is now.

        Raises:
            fastrank.HistoryError: there is no row, or a file is damaged.
        """
        for left in reversed(range(TRIES)):
            try:
                return self._read()
            except (fastrank.HistoryError, OSError):
                if not left:
                    raise
        raise AssertionError("the last try returns or raises")

    def _files(self) -> list[Path]:
        return history_parts(self.path) if self.path.is_dir() else [self.path]

    def _read(self) -> History:
        # First the names, then the stamps, then the files: a part is complete before the next one is there. What is
        # replaced after its stamp was taken is read again the next time.
        stamps = [(file, _stamp(file)) for file in self._files()]
        known = {}
        for file, stamp in stamps:
            before = self._known.get(file)
            known[file] = before if before is not None and before[0] == stamp else (stamp, _read_part(file))
        self._known, self._stamps = known, stamps
        return _joined([part for _, part in known.values()], self.path)


def _stamp(file: Path) -> Stamp:
    """What tells a file from another that was put in its place."""
    status = file.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _read_part(file: Path) -> _Part:
    there = Source(file).columns
    table = fastrank.read_history(file, columns=[*COLUMNS, *(column for column in MORE if column in there)])
    names = table["name"].combine_chunks()
    names = names if pa.types.is_dictionary(names.type) else names.dictionary_encode()
    steps, place = np.unique(table["step"].to_numpy(), return_inverse=True)
    codes = names.indices.to_numpy()
    words = names.dictionary.to_pylist()
    found = np.full((len(steps), len(words)), np.nan, dtype=np.float32)
    found[place, codes] = ranks(table)
    present, rows = np.unique(codes, return_index=True)  # a dictionary may have words that no row has
    places = zip(present, rows.tolist(), strict=True)
    shapes = {words[i]: (table["rows"][row].as_py(), table["cols"][row].as_py()) for i, row in places}
    last = table.filter(pa.array(place == len(steps) - 1)).to_pylist()
    return _Part(steps, found[:, present], shapes, {row["name"]: row for row in last})


def _joined(parts: list[_Part], path: Path) -> History:
    parts = [part for part in parts if len(part.steps)]
    if not parts:
        raise fastrank.HistoryError(f"{path}: has no row yet")
    shapes = {name: shape for part in parts for name, shape in part.shapes.items()}
    names = list(shapes)
    steps = np.concatenate([part.steps for part in parts])
    found = np.full((len(names), len(steps)), np.nan, dtype=np.float32)
    start = 0
    for part in parts:
        rows = [names.index(name) for name in part.shapes]
        found[rows, start : start + len(part.steps)] = part.ranks.T
        start += len(part.steps)
    full = np.array([min(shape) for shape in shapes.values()], dtype=np.float32)
    first, last = int(steps[0]), int(steps[-1])
    standing = Standing(names, list(shapes.values()), first, last, parts[-1].latest, owner=path.name or str(path))
    return History(steps, share(found, full[:, None]), standing)
