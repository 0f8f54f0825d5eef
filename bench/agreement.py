"""Do two runs agree? `python bench/agreement.py A.csv B.csv` compares the times of the rows that both have.

Two rows agree where their stated spreads, from the 20th to the 80th percentile, meet.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import results
from results import Row, key, number


def intervals_meet(a: Row, b: Row) -> bool:
    clock = "device" if a["device_ms"] and b["device_ms"] else "wall"
    low_a, high_a, low_b, high_b = (number(row, f"{clock}_{p}_ms") or 0.0 for row in (a, b) for p in ("p20", "p80"))
    return low_a <= high_b and low_b <= high_a


def compare(first: list[Row], second: list[Row]) -> tuple[int, list[str]]:
    """Number of rows that both runs timed, and the names of those that disagree."""
    known = {key(row): row for row in first if row["wall_ms"]}
    both = [(known[key(row)], row) for row in second if row["wall_ms"] and key(row) in known]
    apart = [
        f"{' | '.join(key(b))}: {a['wall_ms']} ms against {b['wall_ms']} ms"
        for a, b in both
        if not intervals_meet(a, b)
    ]
    return len(both), apart


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs=2, type=Path)
    count, apart = compare(*map(results.load, parser.parse_args().files))
    print(*apart, sep="\n")
    print(f"{count - len(apart)} of {count} rows agree")


if __name__ == "__main__":
    main()
