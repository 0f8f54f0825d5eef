"""The README's performance section, from the committed results.

python bench/tables.py           print it
python bench/tables.py --write   put it into README.md, between its marks
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import results
from results import Row, number, time_ms

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
START, END = "<!-- performance: written by bench/tables.py -->", "<!-- /performance -->"

TITLES = {
    "rank": ("Certified rank of every matrix", "fastrank.rank_bounds"),
    "step": ("Optimizer step, SGD with momentum", "fastrank.SGD"),
    "norm": ("Spectral norm of every matrix", "fastrank.spectral_norm"),
    "spectrum": ("All singular values of every matrix", "fastrank.svdvals"),
    "lowrank": ("First 16 singular triplets of every matrix", "fastrank.svd_lowrank"),
}
"""Operation -> title, and the provider that stands for this project."""


def section(folder: Path = RESULTS) -> str:
    """Everything between the marks."""
    files = [(path, rows) for path in sorted(folder.glob("*.csv")) if (rows := results.load(path))]
    parts = [device(path, rows) for path, rows in files]
    if not any(row["cuda"] for _, rows in files for row in rows):
        parts.append("No CUDA device has been measured yet: there are no times for one.")
    return "\n\n".join(parts) + "\n"


def device(path: Path, rows: Sequence[Row]) -> str:
    """One device's tables and figures."""
    first = rows[0]
    versions = f"torch {first['torch']}" + (f", CUDA {first['cuda']}" if first["cuda"] else "")
    commits = sorted({row["commit"] + ("+" if row["dirty"] == "yes" else "") for row in rows})
    threads = "" if first["cuda"] else f", {max(int(row['threads']) for row in rows)} threads"
    lines = [f"### {first['device']}", f"{versions}{threads}; commit {', '.join(commits)}. {clock(first)}"]
    lines += [training(rows), *(against(rows, name) for name in TITLES)]
    pictures = [path.with_name(f"{path.stem}-{name}.png") for name in ("speed", "tradeoff", "overhead")]
    lines += [f"![{p.stem}](bench/results/{p.name})" for p in pictures if p.exists()]
    return "\n\n".join(line for line in lines if line)


def clock(row: Row) -> str:
    kind = "Device times" if row["device_ms"] else "Wall times"
    return f"{kind}, medians; [{'all rows, with spread and error'}](bench/results)."


def training(rows: Iterable[Row]) -> str:
    """Whole training steps against bare ones."""
    found = [row for row in rows if row["operation"] == "training" and row["ratio"]]
    body = [
        (row["workload"], row["provider"], f"{float(row['ratio']):.2f}", f"{row['ratio_p20']} to {row['ratio_p80']}")
        for row in sorted(found, key=lambda row: (row["workload"], number(row, "ratio") or 0))
    ]
    return table("Training steps with the rank of every matrix", ("network", "ranks by", "ratio", "spread"), body)


def against(rows: Iterable[Row], operation: str) -> str:
    """Ours against the best right rival of each workload, and against PyTorch's own."""
    title, ours = TITLES[operation]
    timed: dict[str, dict[str, float]] = {}
    wrong: dict[str, int] = {}
    for row in rows:
        if row["operation"] == operation:
            time = time_ms(row)
            if time is not None:
                timed.setdefault(row["workload"], {})[row["provider"]] = time
            wrong[row["workload"]] = wrong.get(row["workload"], 0) + (row["status"] == "wrong")
    body = []
    for workload, times in timed.items():
        rivals = {name: time for name, time in times.items() if not name.startswith("fastrank")}
        if ours in times and rivals:
            best = min(rivals, key=lambda name: rivals[name])
            ratio = f"{rivals[best] / times[ours]:.2f}"
            body.append(
                (workload, f"{times[ours]:.3g} ms", best, f"{rivals[best]:.3g} ms", ratio, str(wrong[workload]))
            )
    head = ("workload", ours, "best rival", "its time", "times faster", "rivals wrong")
    return table(title, head, body)


def table(title: str, head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    if not body:
        return ""
    lines = [head, ["---"] * len(head), *body]
    return f"**{title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write(readme: Path, text: str) -> None:
    """Replace what is between the marks."""
    before, mark, rest = readme.read_text().partition(START)
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise SystemExit(f"{readme}: has no {START} ... {END}")
    readme.write_text(f"{before}{START}\n{text}{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put it into README.md")
    if parser.parse_args().write:
        write(ROOT / "README.md", section())
    else:
        print(section(), end="")


if __name__ == "__main__":
    main()
