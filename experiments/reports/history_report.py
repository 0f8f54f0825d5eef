"""The report of one tracker's folder: pictures and a table of its matrices, on one page that needs no network."""

from collections.abc import Iterator
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

import fastrank
from fastrank.plotting.figures import (
    Digest,
    Source,
    average_values,
    cells,
    draw_over_steps,
    grey,
    share,
    spectra,
    spectra_caption,
    spectra_figure,
    spectrum_values,
    styled,
)

from ..files import write_atomically
from ..records import Layout, history_parts
from .figures.drawing import Drawing, remove, save
from .history_tables import histories_table, matrices, statuses
from .page import figure, page, tile
from .report import write_report
from .results import ReportError

RANK = "rank of every tracked matrix at the first tolerance, as a share of its full rank min(rows, cols)."


def write_any_report(folder: Path, trial: str | None = None) -> Path:
    """Write the report of a sweep's folder, see `write_report`, or of a tracker's, or of a Parquet file of a history.

    Raises:
        ReportError: `folder` is none of these, or no sweep's and a trial is named; or as `write_report`.
        fastrank.HistoryError: the tracker's history is damaged, or has no row yet.
    """
    if Layout(folder).ledger.exists():
        return write_report(folder, trial)
    if not (folder.is_file() and folder.suffix == ".parquet"):
        try:
            history_parts(folder)
        except fastrank.HistoryError:
            raise ReportError(
                f"{folder}: neither a sweep's folder (it has no {Layout(folder).ledger.name}) nor a tracker's (it "
                "holds no part-00000.parquet); give the folder that 'fastrank sweep --out' or "
                "RankTracker(directory=...) wrote, or the Parquet file of a history"
            ) from None
    if trial is not None:
        raise ReportError(f"--trial {trial}: {folder} is a tracker's, and only a sweep has trials")
    return write_history_report(folder)


def write_history_report(history: Path) -> Path:
    """Draw the pictures of a tracker's folder, or of one Parquet file, and write its report. Training may go on
    meanwhile.

    Args:
        history: the folder of the parts of one history; `figures/`, `matrices.csv` and `report.html` below it are
            replaced. Or a file, `x.parquet`: those in a folder `x` beside it are.

    Returns:
        The path of `report.html`.

    Raises:
        fastrank.HistoryError: a part is damaged, or there is no row yet.
        ReportError: the files cannot be written.
    """
    source, folder = Source(history), history if history.is_dir() else history.with_suffix("")
    known = source.digest(source.suffixes)
    table = matrices(source)
    path = folder / "report.html"
    try:
        with styled():
            pictures = [_written(folder / "figures", *plan) for plan in _plans(source, known)]
        write_atomically(folder / "matrices.csv", table.to_csv(index=False).encode())
        write_atomically(path, _page(history, known, table, pictures).encode())
    except OSError as error:
        raise ReportError(f"{folder}: the report cannot be written: {error}. Check space and permissions") from error
    return path


def _plans(source: Source, known: Digest) -> Iterator[tuple[str, str, Drawing | None]]:
    """File name and title of every picture, and the picture; None where there is nothing to draw."""
    caption = f"Numerical {RANK}{grey(known.nonfinite)}"
    yield "rank_by_matrix", "Rank of every matrix", Drawing(caption, draw_over_steps(known, "heat_map"), cells(known))
    caption = (
        "Mean of these shares over the tracked matrices; shaded: from the lowest to the highest matrix. The matrices "
        "that end lowest and highest are drawn as well. There is no mean where a matrix has no rank."
    )
    yield "average_rank", "Average rank", Drawing(caption, draw_over_steps(known, "average"), average_values(known))
    ends = spectra(source)
    drawing = None
    if not ends.empty:
        data = spectrum_values(ends)
        said = spectra_caption(data["name"].nunique(), ends["name"].nunique(), thresholds=False)
        drawing = Drawing(said[0].upper() + said[1:], spectra_figure(data), data)
    yield "spectrum", "Singular values, first against last step", drawing


def _written(folder: Path, name: str, title: str, drawing: Drawing | None) -> str:
    """Write the files of a picture; returns it as HTML."""
    if drawing is None:
        remove(name, folder)
        return figure(title, "Nothing to draw: no singular values were recorded.", None)
    return figure(title, drawing.caption, save(name, drawing, folder))


def _page(history: Path, known: Digest, table: pd.DataFrame, pictures: list[str]) -> str:
    return page(
        "history.html",
        title=escape(history.resolve().name),
        lead=escape(_lead(history, known)),
        tiles="".join(_tiles(known, table)),
        figures="\n".join(pictures),
        matrices=histories_table(table),
        statuses=escape(statuses(table)),
    )


def _lead(history: Path, known: Digest) -> str:
    count, (first, last) = len(known.matrices), (known.matrix_steps[0, 0], known.matrix_steps[-1, 1])
    written = datetime.fromtimestamp(_last_part(history).stat().st_mtime, UTC)
    return (
        f"Numerical rank of {count} {'matrix' if count == 1 else 'matrices'}, recorded at {known.steps:,} "
        f"{'step' if known.steps == 1 else 'steps'} from step {first:,} to step {last:,}; the last part was written on "
        f"{written:%Y-%m-%d at %H:%M} UTC."
    )


def _last_part(history: Path) -> Path:
    return history_parts(history)[-1] if history.is_dir() else history


def _tiles(known: Digest, table: pd.DataFrame) -> Iterator[str]:
    shares = share(table["last"], table["full"])
    if len(shares) and shares.notna().all():
        yield tile(f"{shares.mean():.0%}", "of full rank at the last step, mean over the matrices")
    if shares.notna().any():
        lowest: Any = table.iloc[int(shares.argmin())]
        of_full = f"{lowest['last']:.4g} <small>of {lowest['full']}</small>"
        yield tile(of_full, f"lowest at the last step: {escape(lowest['name'])}")
    yield tile(f"{10_000 * known.certified // known.rows / 100:g}%", f"of {known.rows:,} measured ranks certified")
    if known.nonfinite:
        yield tile(f"{known.nonfinite:,}", "rows without a rank: of matrices that were not finite, or not there")
