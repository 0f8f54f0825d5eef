"""Tables of what `make truth` has counted.

python bench/truth_report.py SUMMARY.csv [--before OTHER.csv] [--note TEXT]     # writes SUMMARY.md beside it
python bench/truth_report.py integers.csv --beside [--note TEXT]                # of integers beside FP64
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from truth_ledger import Row, load, totals
from truth_made import FAMILIES
from truth_paths import Tally, beside

from fastrank.files import replacing


def lines(rows: Sequence[Row]) -> list[str]:
    """For a terminal: by family, in the way that the library chooses, and by way."""
    if not rows:
        return []
    chosen = [row for row in rows if row.path == rows[0].path]
    families, paths = totals(chosen, "family"), totals(rows, "path")
    false = {name: tally.wrong for name, tally in totals(rows, "family").items()}
    head = f"{'matrices':>9} {'ambiguous':>10} {'wrong':>6} {'open by the count':>18} {'open at last':>13}"
    found = [f"{'family':30} {head}"]
    found += [_line(name, tally._replace(wrong=false[name])) for name, tally in families.items()]
    found += [f"{'counted by':30} {head}", *(_line(name, tally) for name, tally in paths.items())]
    return found


def _line(name: str, t: Tally) -> str:
    count, last = _share(t.open, t), _share(t.last, t)
    return f"{name:30} {t.matrices:9} {t.ambiguous:10} {t.wrong:6} {count:>18} {last:>13}"


def _share(part: int, t: Tally) -> str:
    return f"{part / max(t.matrices, 1):.2%}"


def write(path: Path, before: Path | None = None, note: str = "") -> Path:
    """The same as Markdown, beside the file of the summary.

    Args:
        before: another summary, whose shares are added.
        note: a line about how it was counted.
    """
    rows, earlier = load(path), load(before) if before else []
    judged, false = (sum(x) for x in zip(*((row.tally.matrices, row.tally.wrong) for row in rows), strict=True))
    matrices = sum(row.tally.matrices for row in rows if row.path == rows[0].path)
    text = ["# Matrices of known rank, counted by `make truth`", ""]
    text += [f"{matrices:,} matrices, most of them by several of the library's ways of counting: {judged:,} bounds, of"]
    text += [f"which {false:,} are false. {note}".rstrip(), ""]
    text += [
        "Open are bounds that differ, so that they prove an interval and no rank: by the count alone, and at last,"
    ]
    text += ["when singular values have decided what they can. Many of these families are made to be open: clusters at"]
    text += [
        "1e-9 to 1e-15 of tau, singular values that equal tau (hadamard, pythagorean, at tau). A matrix is ambiguous"
    ]
    text += ["if neither FP64 singular values nor whole numbers have told its rank; it is larger than 64 then."]
    text += [""]
    for title, by, some in (("family", "family", True), ("counted by", "path", False), ("r", "r", True)):
        chosen, old = (
            totals([row for row in found if not some or row.path == found[0].path], by) for found in (rows, earlier)
        )
        wrong = {name: tally.wrong for name, tally in totals(rows, by).items()}
        names = ["matrices", "ambiguous", "wrong", "open by the count", "open at last"]
        names += ["open by the count before", "open at last before"] if earlier else []
        text += [f"| {title} | " + " | ".join(names) + " |", "| --- |" + " ---: |" * len(names)]
        for name, t in chosen.items():
            was = old.get(name)
            cells = [t.matrices, t.ambiguous, wrong[name], _share(t.open, t), _share(t.last, t)]
            cells += [_share(was.open, was), _share(was.last, was)] if was else []
            text.append(f"| {name} | " + " | ".join(map(str, cells)) + " |")
        text.append("")
    table = path.with_suffix(".md")
    with replacing(table) as file:
        file.write("\n".join(text).encode())
    return table


BESIDE = [
    "# Integers beside FP64, counted by `make truth`",
    "",
    "Gram matrices from INT8 slices, and what their measured error leaves open beside products in FP64: of",
    "the same matrices, and by the same means but for the products. There are ten for the tolerances that these",
    "serve, and thirteen for finer ones (`SERVED` in `fastrank/backend.py`); *forced* are still finer ones, and",
    "all that are absolute, which `FASTRANK_PRODUCTS=integers` alone has counted so. What integers leave open is",
]
"""How the page that `write_beside` writes begins."""


def write_beside(path: Path, note: str = "") -> Path:
    """What integers leave open beside FP64, of the same matrices, as Markdown beside the file of `Ledger.beside`."""
    rows = load(path)
    ways = [way for way in dict.fromkeys(row.path for row in rows) if not way.endswith(": FP64")]
    text = [*BESIDE, f"counted again in FP64, and resolved as ever: hence what is open at last. {note}".rstrip(), ""]
    text += ["| way | matrices | ambiguous | wrong | open by the count | the same in FP64 | open at last | in FP64 |"]
    text += ["| --- |" + " ---: |" * 7]
    by_path = totals(rows, "path")
    for way in ways:
        t, fp64 = by_path[way], by_path[beside(way)[1]]
        shares = [_share(part, t) for part in (t.open, fp64.open, t.last, fp64.last)]
        text.append(f"| {way} | {t.matrices} | {t.ambiguous} | {t.wrong + fp64.wrong} | " + " | ".join(shares) + " |")
    for title, by in (("bits of the dtype", "bits"), ("r", "r"), ("family", "family")):
        columns = [column for way in ways for column in ("matrices", way, "FP64")]
        text += ["", f"Open by the count, by {title}:", "", f"| {title} | " + " | ".join(columns) + " |"]
        text += ["| --- |" + " ---: |" * len(columns)]
        tables = {way: totals([row for row in rows if row.path == way], by) for way in by_path}
        places = {name: i for i, name in enumerate(FAMILIES)}
        for name in sorted(totals(rows, by), key=lambda name: places.get(name, 0)):
            cells = []
            for way in ways:
                t, fp64 = (tables[w].get(name, Tally()) for w in (way, beside(way)[1]))
                cells += [str(t.matrices), *(_share(x.open, t) if t.matrices else "" for x in (t, fp64))]
            text.append(f"| {name} | " + " | ".join(cells) + " |")
    table = path.with_suffix(".md")
    with replacing(table) as file:
        file.write("\n".join([*text, ""]).encode())
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("summary", type=Path)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--beside", action="store_true", help="the summary is that of integers beside FP64")
    parser.add_argument("--note", default="")
    given = parser.parse_args()
    print(write_beside(given.summary, given.note) if given.beside else write(given.summary, given.before, given.note))
