"""Tables of what `make truth` has counted.

python bench/truth_report.py SUMMARY.csv [--before OTHER.csv] [--note TEXT]     # writes SUMMARY.md beside it
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from truth_ledger import Row, load, totals
from truth_paths import Tally

from fastrank.files import replacing


def lines(rows: Sequence[Row]) -> list[str]:
    """For a terminal: by family, in the way that the library chooses, and by way."""
    if not rows:
        return []
    chosen = [row for row in rows if row.path == rows[0].path]
    families, paths = totals(chosen, "family"), totals(rows, "path")
    false = {name: tally.wrong for name, tally in totals(rows, "family").items()}
    head = f"{'matrices':>9} {'ambiguous':>10} {'wrong':>6} {'open by the count':>18} {'open at last':>13}"
    found = [f"{'family':18} {head}"]
    found += [_line(name, tally._replace(wrong=false[name])) for name, tally in families.items()]
    found += [f"{'counted by':18} {head}", *(_line(name, tally) for name, tally in paths.items())]
    return found


def _line(name: str, t: Tally) -> str:
    count, last = _share(t.open, t), _share(t.last, t)
    return f"{name:18} {t.matrices:9} {t.ambiguous:10} {t.wrong:6} {count:>18} {last:>13}"


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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("summary", type=Path)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--note", default="")
    given = parser.parse_args()
    print(write(given.summary, given.before, given.note))
