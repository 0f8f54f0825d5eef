"""The tables of docs/performance.md, and the one of the README, from the committed results.

python bench/tables.py           print them
python bench/tables.py --write   put them into these two files, between their marks
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import results
from results import Row, number, time_ms

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
PAGE, README = ROOT / "docs" / "performance.md", ROOT / "README.md"
START, END = "<!-- performance: written by bench/tables.py -->", "<!-- /performance -->"

FOLDED = '<details markdown="1">'
"""What is folded on a page; the word makes the site read the tables in it as Markdown, as GitHub does anyway."""
PROVIDERS = ("fastrank.RankTracker", "fastrank.RankTracker every 10", "torch.linalg.svdvals hook")
"""Columns of the README's table."""
FP64 = "All times of fastrank are by FP64 products: INT8 slices, for cards with little FP64, have not been measured."
"""Said as long as it is true."""
STEPS = {"training": "", "graph": ", in a CUDA graph"}
"""Operations that are whole training steps -> what is said of them."""
TABLES = {
    "rank": ("Certified rank of every matrix", "fastrank.rank_bounds", "torch.linalg.svdvals"),
    "step": ("Optimizer step, SGD with momentum", "fastrank.SGD", "torch SGD fused"),
    "norm": ("Spectral norm of every matrix", "fastrank.spectral_norm", "torch.linalg.matrix_norm"),
    "spectrum": ("All singular values of every matrix", "fastrank.svdvals", "torch.linalg.svdvals"),
    "lowrank": ("First 16 singular triplets of every matrix", "fastrank.svd_lowrank", "torch.svd_lowrank"),
}
"""Operation -> title, the provider that stands for this project, and what a PyTorch user has at hand."""


def measured(folder: Path) -> list[tuple[Path, list[Row]]]:
    """The files of results that have rows, GPUs first."""
    files = [(path, rows) for path in sorted(folder.glob("*.csv")) if (rows := results.load(path))]
    return sorted(files, key=lambda file: not file[1][0]["cuda"])


def summary(folder: Path = RESULTS) -> str:
    """The README's table: what the rank of every matrix adds to a training step, and the ranks of ResNet-18 once. All
    GPUs are in it, and one CPU."""
    files = measured(folder)
    gpus = [rows for _, rows in files if rows[0]["cuda"]]
    body: list[tuple[str, ...]] = []
    for rows in gpus + [rows for _, rows in files if not rows[0]["cuda"]][:1]:
        of = {(row["operation"], row["workload"], row["provider"]): row for row in rows}
        for operation, workload, provider in sorted(of):
            if operation in STEPS and provider == PROVIDERS[0] and of[operation, workload, provider]["ratio"]:
                ratios = (of.get((operation, workload, name), {}).get("ratio") for name in PROVIDERS)
                cells = (f"{float(ratio):.2f}" if ratio else "not timed" for ratio in ratios)
                made = f"{workload}{STEPS[operation]}{results.path(of[operation, workload, provider])}"
                body.append((f"{made}, times an untracked step", rows[0]["device"], *cells))
        ours, stock = (of.get(("rank", "resnet18-cifar", name)) for name in TABLES["rank"][1:])
        times = [row and time_ms(row) for row in (ours, stock)]
        if times[0]:
            cells = ["not timed" if time is None else milliseconds(time) for time in times]
            made = f"resnet18-cifar{results.path(ours) if ours else ''}, all matrices once"
            body.append((made, rows[0]["device"], cells[0], "", cells[1]))
    return (
        listed(("rank of every matrix", "device", "fastrank", "every tenth step", "`torch.linalg.svdvals`"), body)
        + "\n"
    )


def section(folder: Path = RESULTS) -> str:
    """Everything between the marks of the page: GPUs first, and all devices folded but the first."""
    files = measured(folder)
    parts = [device(path, rows) for path, rows in files]
    parts[1:] = [
        f"{FOLDED}<summary>{rows[0]['device']}</summary>\n\n{part}\n\n</details>"
        for (_, rows), part in zip(files[1:], parts[1:], strict=True)
    ]
    if not any(row["cuda"] for _, rows in files for row in rows):
        parts.append("No CUDA device has been measured yet: there are no times for one.")
    if not any(results.path(row) for _, rows in files for row in rows):
        parts.append(f"{FP64} [Rooflines of cards]({link(RESULTS / 'cards.md')}).")
    return "\n\n".join(parts) + "\n"


def device(path: Path, rows: Sequence[Row]) -> str:
    """One device's tables and figures."""
    first = rows[0]
    versions = f"torch {first['torch']}" + (f", CUDA {first['cuda']}" if first["cuda"] else "")
    threads = "" if first["cuda"] else f", {max(int(row['threads']) for row in rows)} threads (training: 1)"
    commits = sorted({row["commit"] + ("+" if row["dirty"] == "yes" else "") for row in rows})
    kind = "device times" if first["cuda"] else "wall times"
    where = f"{versions}{threads}; commit {', '.join(commits)}; {kind}, medians. [All rows]({link(path)}), with spread"
    speed, tradeoff, overhead = (picture(path, name) for name in ("speed", "tradeoff", "overhead"))
    rest = [against(rows, name) for name in ("norm", "spectrum", "lowrank")]
    parts = [
        *(f"### {first['device']}", f"{where}, error and share of the roof."),
        *(training(rows), overhead, trials(rows), against(rows, "rank"), speed, against(rows, "step")),
    ]
    if any(rest) or tradeoff:
        summary = f"{FOLDED}<summary>Spectral norms, singular values, low-rank factors</summary>"
        parts += [summary, *rest, tradeoff, "</details>"]
    return "\n\n".join(part for part in parts if part)


def picture(path: Path, name: str) -> str:
    drawn = path.with_name(f"{path.stem}-{name}.png")
    return f"![{drawn.stem}]({link(drawn)})" if drawn.exists() else ""


def link(path: Path) -> str:
    return f"../bench/results/{path.name}"


def training(rows: Iterable[Row]) -> str:
    """Whole training steps against bare ones."""
    found = [row for row in rows if row["operation"] in STEPS and row["ratio"]]
    body = [
        (
            row["workload"] + STEPS[row["operation"]],
            row["provider"] + results.path(row),
            f"{float(row['ratio']):.2f}",
            f"{row['ratio_p20']} to {row['ratio_p80']}",
        )
        for row in sorted(found, key=lambda row: (row["workload"], number(row, "ratio") or 0))
    ]
    return table("Training steps with the rank of every matrix", ("network", "ranks by", "ratio", "spread"), body)


def trials(rows: Iterable[Row]) -> str:
    """Trials of a sweep in stacks, against one at a time."""
    body = [
        (row["workload"], row["provider"], row["note"].partition(" ")[0], f"{1 / float(row['ratio']):.2g}x")
        for row in rows
        if row["operation"] == "trials"
    ]
    return table(
        "Trials of a sweep, ranks at every step", ("network", "trained", "trial-steps a second", "faster"), body
    )


def against(rows: Iterable[Row], operation: str) -> str:
    """Ours against what PyTorch has at hand, and against the best right rival of each workload."""
    title, ours, stock = TABLES[operation]
    timed: dict[str, dict[str, float]] = {}
    paths: dict[str, str] = {}
    wrong: dict[str, list[str]] = {}
    for row in rows:
        if row["operation"] == operation:
            time = time_ms(row)
            if row["provider"] == ours:
                paths[row["workload"]] = results.path(row)
            if time is not None:
                timed.setdefault(row["workload"], {})[row["provider"]] = time
            wrong.setdefault(row["workload"], []).extend([row["provider"]] if row["status"] == "wrong" else [])
    body = []
    for workload, times in timed.items():
        rivals = {name: time for name, time in times.items() if not name.startswith("fastrank")}
        if ours in times:
            best = min(rivals, key=lambda name: rivals[name], default=None)
            mine, refused = times[ours], wrong[workload]
            beside = "wrong" if stock in refused else faster(rivals.get(stock), mine)
            cells = (
                workload,
                milliseconds(mine) + paths[workload],
                beside,
                f"{best}: {faster(rivals[best], mine)}" if best else "not timed",
                str(sum(not name.startswith("fastrank") for name in refused)),
            )
            body.append(cells)
    return table(title, ("workload", ours, stock, "best rival", "rivals wrong"), body)


def faster(rival: float | None, ours: float) -> str:
    """A rival's time, and how many times faster ours is."""
    return "not timed" if rival is None else f"{milliseconds(rival)} ({rival / ours:.2g}x)"


def milliseconds(time: float) -> str:
    return f"{time:.0f} ms" if time >= 100 else f"{time:.3g} ms"


def table(title: str, head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    if not body:
        return ""
    return f"**{title}**\n\n{listed(head, body)}"


def listed(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *body])


def write(file: Path, text: str) -> None:
    """Replace what is between the marks."""
    before, mark, rest = file.read_text().partition(START)
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise SystemExit(f"{file}: has no {START} ... {END}")
    file.write_text(f"{before}{START}\n{text}{END}{after}")


def write_all() -> None:
    write(PAGE, section())
    write(README, summary())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put them into docs/performance.md and README.md")
    if parser.parse_args().write:
        write_all()
    else:
        print(section(), summary(), sep="\n", end="")


if __name__ == "__main__":
    main()
