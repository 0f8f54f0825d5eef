"""What `make truth` has counted: a ledger of batches, which outlives the run, and what is made of it.

A batch is in the ledger as a whole or not at all (SQLite), under its number and a fingerprint of everything that its
outcome depends on: the sources of the library and of the run itself, the seed and the sizes. A run that was ended goes
on where it was; after a change of the library it begins anew.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from truth_made import Specification, matrices_of, truth_of
from truth_paths import INTEGERS, Outcome, Tally, beside

import fastrank
from fastrank import Tolerance
from fastrank.files import replacing

LIBRARY = Path(fastrank.__file__).parent
OTHERS = {"experiments", "plotting", "sinks"}
"""Folders of the library that no rank depends on."""
SIZES = {16: "1 to 16", 96: "17 to 96", 10**9: "97 and more"}
FIELDS = ("family", "path", "r", "bits", *Tally._fields)
MOST = {"nearest": 10**9, "growth": 9, "widest": 9}
"""How many matrices are kept for each reason: one of each family at most."""
TABLES = f"""
create table if not exists outcomes (fingerprint, number integer, {", ".join(FIELDS)},
    primary key (fingerprint, number, path));
create table if not exists kept (fingerprint, family, why, score real, number integer, place integer,
    primary key (fingerprint, family, why));
"""


class Row(NamedTuple):
    """A line of the summary."""

    family: str
    path: str
    r: str
    bits: int
    tally: Tally


class Keeping(NamedTuple):
    """A matrix that is worth keeping: `place` is its index in the batch of that number."""

    family: str
    why: str
    score: float
    number: int
    place: int


class Ledger:
    """The batches that were counted for one fingerprint. path: the file (default None: none, only memory)."""

    def __init__(self, path: Path | None, fingerprint: str) -> None:
        self._fingerprint = fingerprint
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._base = sqlite3.connect(path or ":memory:", timeout=60)
        self._base.executescript(TABLES)

    def done(self) -> set[int]:
        """Numbers of the batches that are in it."""
        found = self._base.execute("select distinct number from outcomes where fingerprint = ?", (self._fingerprint,))
        return {number for (number,) in found}

    def add(self, s: Specification, outcome: Outcome) -> None:
        r = min(s.rows, s.cols)
        size, bits = next(name for most, name in SIZES.items() if r <= most), torch.finfo(s.dtype).bits
        with self._base:
            for path, tally in outcome.tallies.items():
                values = (self._fingerprint, s.number, s.family, path, size, bits, *tally)
                self._base.execute(f"insert into outcomes values ({', '.join('?' * len(values))})", values)
            for kept in outcome.kept:
                self._base.execute(
                    "insert into kept values (?, ?, ?, ?, ?, ?) on conflict do update set score = excluded.score, "
                    "number = excluded.number, place = excluded.place where excluded.score > score "
                    "or excluded.score = score and excluded.number < number",
                    (self._fingerprint, s.family, kept.why, kept.score, s.number, kept.index),
                )

    def summary(self, up_to: int | None = None) -> list[Row]:
        """Sums by family, path, size and dtype, of the batches before number `up_to`."""
        sums = ", ".join(f"sum({name})" for name in Tally._fields)
        found = self._base.execute(
            f"select family, path, r, bits, {sums} from outcomes where fingerprint = ? and number < ? "
            "group by family, path, r, bits order by min(rowid)",
            (self._fingerprint, 10**18 if up_to is None else up_to),
        )
        return [Row(family, path, r, bits, Tally(*tally)) for family, path, r, bits, *tally in found]

    def beside(self, up_to: int) -> list[Row]:
        """Sums of the ways by integers, and of the same batches in FP64 by the same means, as `truth_paths.beside`
        calls it."""
        sums = ", ".join(f"sum(o.{name})" for name in Tally._fields)
        rows = []
        for path in sorted({row.path for row in self.summary(up_to) if INTEGERS in row.path}):
            fp64, name = beside(path)
            found = self._base.execute(
                f"select o.family, o.path, o.r, o.bits, {sums} from outcomes o join outcomes i "
                "on i.fingerprint = o.fingerprint and i.number = o.number and i.path = ? "
                "where o.fingerprint = ? and o.number < ? and o.path in (?, ?) "
                "group by o.family, o.path, o.r, o.bits order by min(o.rowid)",
                (path, self._fingerprint, up_to, path, fp64),
            )
            rows += [Row(*one[:1], name if one[1] == fp64 else path, *one[2:4], Tally(*one[4:])) for one in found]
        return rows

    def kept(self) -> list[Keeping]:
        """The nearest call of each family, and the largest growths and widest brackets of all; no matrix twice."""
        found = self._base.execute(
            "select family, why, score, number, place from kept where fingerprint = ? order by score desc",
            (self._fingerprint,),
        )
        every = [Keeping(*one) for one in found]
        chosen = [[k for k in every if k.why == why][:most] for why, most in MOST.items()]
        return list({(k.number, k.place): k for part in chosen[::-1] for k in part}.values())[::-1]

    def close(self) -> None:
        self._base.close()


def fingerprint(*given: object) -> str:
    """Of the sources that an outcome depends on, and of what was asked for."""
    digest = hashlib.sha256(json.dumps([torch.__version__, *map(str, given)]).encode())
    paths = [p for p in LIBRARY.rglob("*.py") if not OTHERS & set(p.relative_to(LIBRARY).parts)]
    for path in sorted(paths) + sorted(Path(__file__).parent.glob("truth*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def save(path: Path, rows: Sequence[Row]) -> None:
    """The summary as CSV, with the share that is open at last."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*FIELDS, "share"])
    writer.writerows([*row[:4], *row.tally, f"{row.tally.last / max(row.tally.matrices, 1):.4g}"] for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(text.getvalue().encode())


def load(path: Path) -> list[Row]:
    """The same, read again."""
    with path.open(newline="") as file:
        return [
            Row(row["family"], row["path"], row["r"], int(row["bits"]), Tally(*(int(row[n]) for n in Tally._fields)))
            for row in csv.DictReader(file)
        ]


def totals(rows: Sequence[Row], by: str) -> dict[str, Tally]:
    """Sums by one of the fields of a row, in the order of their first row."""
    sums: dict[str, Tally] = {}
    for row in rows:
        key = str(getattr(row, by))
        sums[key] = Tally(*(a + b for a, b in zip(sums.get(key, Tally()), row.tally, strict=True)))
    return sums


class Case(NamedTuple):
    """A matrix that was kept."""

    name: str
    matrix: Tensor
    tolerance: Tolerance
    rank: tuple[int, int]
    """What it may be; twice the same number if it is known."""


def keep(path: Path, cases: Sequence[tuple[str, Specification, int]]) -> None:
    """Write matrices into one file of NumPy's, each in an array of its own, and what is known of them as JSON.

    cases: for each its name, the batch and its place there. Half precision is written as FP32, which holds it.
    """
    arrays, known = {}, []
    for i, (name, specification, place) in enumerate(cases):
        matrices, tolerance = matrices_of(specification)
        matrix: Tensor = matrices[place]
        low, high = (int(x) for x in truth_of(matrix[None], tolerance))
        wide = matrix if matrix.dtype.itemsize >= 4 else matrix.float()
        arrays[str(i)] = wide.numpy()
        known.append({"name": name, "dtype": str(matrix.dtype).removeprefix("torch."), "value": tolerance.value,
                      "relative_to": tolerance.relative_to, "rank": [low, high]})  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        np.savez_compressed(file, cases=np.array(json.dumps(known)), **arrays)


def kept(path: Path) -> list[Case]:
    """What `keep` has written."""
    with np.load(path) as file:
        return [
            Case(
                known["name"],
                torch.from_numpy(file[str(i)]).to(getattr(torch, known["dtype"])),
                Tolerance(known["value"], known["relative_to"]),
                tuple(known["rank"]),
            )
            for i, known in enumerate(json.loads(str(file["cases"])))
        ]


def written(path: Path) -> int:
    """How many outcomes a ledger has, of any run; 0 while it is being made."""
    base = sqlite3.connect(path)
    try:
        return int(base.execute("select count(*) from outcomes").fetchone()[0])
    except sqlite3.OperationalError:
        return 0
    finally:
        base.close()
