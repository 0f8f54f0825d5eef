"""The report: one HTML file with everything a reader needs, which opens without a network."""

from collections.abc import Iterator
from html import escape
from pathlib import Path

from ..files import write_atomically
from ..records import Status
from . import report_tables as tables
from .axes import WORDS, enumeration, said
from .figures.draw import Picture, draw_figures
from .page import figure, page, problems, tile
from .report_tables import rank, share
from .results import ReportError, Results, read_results
from .seed_means import generalisation

TAU = {
    "frobenius": "&tau; = {value:g} &middot; &Vert;W&Vert;<sub>F</sub>",
    "spectral": "&tau; = {value:g} &middot; &sigma;<sub>1</sub>",
    "absolute": "&tau; = {value:g}",
}


def write_report(folder: Path, trial: str | None = None) -> Path:
    """Draw all figures of a sweep and write its report. The same ledger and histories give the same bytes.

    Args:
        folder: the sweep's folder; `figures/`, `generalisation.csv` and `report.html` below it are replaced.
        trial: the trial that the heat map and the spectra show: its id, or as much of it as tells it apart.
            Default: the done trial of lowest average rank, collapsed ones aside.

    Returns:
        The path of `report.html`.

    Raises:
        LedgerError: the ledger is missing, damaged or of another version.
        ReportError: there is no trial at all; `trial` is not a done trial; or the files cannot be written.
    """
    results = read_results(folder)
    chosen = results.choose(trial)
    path = folder / "report.html"
    try:
        pictures = draw_figures(results, chosen)
        write_atomically(folder / "generalisation.csv", generalisation(results).to_csv(index=False).encode())
        write_atomically(path, _page(results, pictures).encode())
    except OSError as error:
        raise ReportError(f"{folder}: the report cannot be written: {error}. Check space and permissions") from error
    return path


def _page(results: Results, pictures: list[Picture]) -> str:
    return page(
        "report.html",
        title=escape(results.meta["config"]["name"]),
        lead=escape(_lead(results)),
        tiles="".join(_tiles(results)),
        problems=problems(results.problems),
        pivot_note=_pivot_note(results),
        pivots=tables.pivots(results),
        figures="\n".join(figure(picture.title, picture.caption, picture.image) for picture in pictures),
        generalisation=tables.generalisation(results),
        generalisation_note=_generalisation_note(results),
        trials=tables.trials(results),
        trials_note=_trials_note(results),
        failures=tables.failures(results),
        config=tables.config(results.meta["config"]),
        tolerances=_tolerances(results),
        collapsed=escape(results.chance),
        provenance=tables.pairs(_provenance(results)),
    )


def _lead(results: Results) -> str:
    model, data = results.trials[0].spec["model"], results.meta["data"]
    sizes = ", ".join(f"{key} {value}" for key, value in model.items() if key != "name" and value is not None)
    varying = enumeration([WORDS[axis] for axis in results.varying])
    verb = "varies" if len(results.varying) == 1 else "vary"
    return (
        f"Rank of the weight matrices of {model['name']}{f' ({sizes})' if sizes else ''} trained on {data['name']} "
        f"by stochastic gradient descent, {len(results.trials)} trials"
        + (f" in which {varying} {verb}." if varying else ".")
    )


def _tiles(results: Results) -> Iterator[str]:
    done = results.done
    yield tile(f"{len(done)} <small>of {len(results.table)}</small>", "trials done")
    sound = done[~done["collapsed"]].dropna(subset="average_rank")
    if len(sound):
        best = sound.sort_values("average_rank", kind="stable").iloc[0]
        axes = [axis for axis in WORDS if axis in results.varying or axis in results.shown]
        yield tile(
            f"{rank(best['average_rank'])} <small>of {rank(best['full_rank'])}</small>",
            f"lowest average rank, at test accuracy {share(best['test_accuracy'])} ({said(best, *axes)})",
        )
    free = sound[sound["weight_decay"] == 0]
    if 0 < len(free) < len(sound):
        least = free.sort_values("average_rank", kind="stable").iloc[0]
        yield tile(
            f"{rank(least['average_rank'])} <small>of {rank(least['full_rank'])}</small>",
            f"lowest average rank without weight decay, at test accuracy {share(least['test_accuracy'])}",
        )
    rows, certified, _ = _row_counts(results)
    if rows:
        yield tile(_floor(certified, rows), f"of {rows:,} measured ranks certified")


def _floor(part: int, whole: int) -> str:
    """A share that says 100% only of all."""
    return f"{10_000 * part // whole / 100:g}%"


def _row_counts(results: Results) -> tuple[int, int, int]:
    known = results.digests.values()
    return sum(d.rows for d in known), sum(d.certified for d in known), sum(d.nonfinite for d in known)


def _pivot_note(results: Results) -> str:
    full = ", ".join(f"{value:.4g}" for value in sorted(results.table["full_rank"].dropna().unique())) or "unknown"
    return (
        f"Large: numerical rank at {results.threshold()} after the last step, mean "
        f"over the tracked matrices; full rank is {full}, and the bar shows the share of it. Small: test accuracy, "
        "and the lowest to the highest rank where there are several seeds."
    )


def _generalisation_note(results: Results) -> str:
    seeds = results.table["seed"].nunique()
    return (
        "After the last step. Gap: training minus test accuracy, in points of per cent. "
        + ("Means over the seeds that are done, &plusmn; their standard deviation. " if seeds > 1 else "")
        + "All of it, with the lowest and the highest seed, is in <code>generalisation.csv</code>."
    )


def _trials_note(results: Results) -> str:
    said = [results.left_out()]
    if results.table["collapsed"].any():
        said.append(f"Collapsed: test accuracy below {results.chance}. Its low rank is no success.")
    if (results.table["open"] > 0).any():
        said.append("Where a rank is not certified, averages take the middle of its bounds.")
    return escape(" ".join(filter(None, said)))


def _tolerances(results: Results) -> str:
    lines = [TAU[tolerance.relative_to].format(value=tolerance.value) for tolerance in results.tolerances]
    more = " (the first is the one shown where only one is)" if len(lines) > 1 else ""
    return "; ".join(lines) + more


def _provenance(results: Results) -> Iterator[tuple[str, str]]:
    meta, trials = results.meta, results.trials
    rows, certified, nonfinite = _row_counts(results)
    yield "commit", f"<code>{escape(str(meta['commit']))}</code>"
    yield "versions", escape(", ".join(f"{name} {version}" for name, version in meta["versions"].items()))
    yield "data", tables.config_value(meta["data"])
    yield "seeds", escape(", ".join(map(str, sorted({trial.spec["seed"] for trial in trials}))))
    yield "tolerances", _tolerances(results)
    yield "sweep created", escape(str(meta["created"]))
    yield "last trial finished", escape(max((trial.finished or "" for trial in trials), default="") or "none yet")
    # Their names are in the ledger: a report is for others to read.
    yield "machines", str(len({trial.host for trial in trials if trial.host}) or "none yet")
    devices = sorted({str(trial.result["device"]) for trial in trials if trial.result and "device" in trial.result})
    yield "devices", escape(", ".join(devices) or "not recorded")
    counts = results.table["status"].value_counts()
    yield "trials", ", ".join(f"{counts[status]} {status}" for status in Status if status in counts)
    yield "history rows", f"{rows:,}, of which {certified:,} certified and {nonfinite:,} not finite"
