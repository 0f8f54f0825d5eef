"""Several sweeps on one page: what they are, their ranks and accuracies on the same axes, and trends as numbers."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import count
from pathlib import Path

import pandas as pd

from fastrank.plotting.figures import styled

from ..files import write_atomically
from .axes import AXES, WORDS, number
from .figures import comparison
from .figures.drawing import NothingToDraw, svg
from .page import figure, page
from .report_tables import NONE, rank, share
from .results import ReportError, Results, read_results
from .trends import SETTINGS, means, trends

TITLE = "Average rank and test accuracy against each setting"
EXPECTED = {"batch_size": "rises: 1", "lr": "falls: &minus;1", "weight_decay": "falls: &minus;1"}


def write_comparison(folders: Sequence[Path], out: Path) -> Path:
    """Write one page that compares sweeps. It needs no other file and no network; the same ledgers give the same bytes.

    Only ledgers are read, no histories.

    Args:
        folders: of the sweeps, two or more, in the order in which they are shown.
        out: the page's path; replaced if there.

    Returns:
        `out`.

    Raises:
        LedgerError: a ledger is missing, damaged or of another version.
        ReportError: fewer than two folders, or one twice; a ledger without trials; or `out` cannot be written.
    """
    places = [folder.resolve() for folder in folders]
    twice = [str(folder) for folder, place in zip(folders, places, strict=True) if places.count(place) > 1]
    if len(places) < 2 or twice:
        given = f"{twice[0]} is given twice" if twice else f"{len(places)} given"
        raise ReportError(f"compare: give the folders of two sweeps or more, each once ({given})")
    sweeps = _named([read_results(folder, digests=False) for folder in folders])
    known = {name: means(results) for name, results in sweeps.items()}
    content = page(
        "compare.html",
        count=str(len(sweeps)),
        sweeps=_sweeps(sweeps),
        figure=_figure(known),
        trends=_trends(sweeps),
        means=_means(known),
        caution=escape(_caution(sweeps)),
    )
    try:
        write_atomically(out, content.encode())
    except OSError as error:
        raise ReportError(f"{out}: the comparison cannot be written: {error}. Check space and permissions") from error
    return out


def _named(sweeps: list[Results]) -> dict[str, Results]:
    """Each sweep under its configuration's name; with its folder's name, and a number, where that is not enough."""
    named: dict[str, Results] = {}
    counts = Counter(str(results.meta["config"]["name"]) for results in sweeps)
    for results in sweeps:
        name = str(results.meta["config"]["name"])
        if counts[name] > 1:
            name = f"{name} ({results.folder.resolve().name})"
        free = (f"{name} #{number}" if number > 1 else name for number in count(1))
        named[next(name for name in free if name not in named)] = results
    return named


def _figure(known: Mapping[str, pd.DataFrame]) -> str:
    caption = (
        "One colour and marker a sweep. Average numerical rank after the last step as a share of full rank, and test "
        "accuracy; means over the other settings, the same ones at every value, and over seeds. For batch size and "
        "learning rate: over settings with weight decay, where a sweep has any. Collapsed networks are left out."
    )
    with styled():
        try:
            return figure(TITLE, caption, svg(comparison.draw(known).figure))
        except NothingToDraw as reason:
            return figure(TITLE, f"Nothing to draw: {reason}.", None)


def _sweeps(sweeps: Mapping[str, Results]) -> str:
    titles = ("sweep", "model", "data", "trials done", "varying", "tolerance", "lowest rank", "test acc.")
    head = "".join(f"<th scope=col>{title}</th>" for title in (*titles, "commit", "created"))
    rows = "".join(f"<tr>{''.join(_cells_of(name, results))}</tr>" for name, results in sweeps.items())
    return f"<table class=wide><thead><tr>{head}</tr></thead>{rows}</table>"


def _cells_of(name: str, results: Results) -> Iterator[str]:
    model = results.trials[0].spec["model"]
    options = ", ".join(f"{key} {value}" for key, value in model.items() if key != "name" and value is not None)
    varying = "; ".join(
        f"{WORDS[axis]} {', '.join(number(value) for value in sorted(results.table[axis].unique()))}"
        for axis in AXES
        if axis in results.varying
    )
    seeds = results.table["seed"].nunique()
    sound = results.done[~results.done["collapsed"]].dropna(subset="average_rank").sort_values("average_rank")
    best = sound.iloc[0] if len(sound) else None
    yield f"<th scope=row>{escape(name)}</th>"
    yield f"<td>{escape(str(model['name']))}<small>{escape(options)}</small></td>"
    yield f"<td>{escape(str(results.meta['data']['name']))}</td>"
    yield f"<td>{len(results.done)} of {len(results.table)}</td>"
    yield f"<td>{escape(varying) or NONE}<small>{f'{seeds} seeds' if seeds > 1 else ''}</small></td>"
    yield f"<td>{escape(results.threshold().removeprefix('tolerance '))}</td>"
    yield f"<td>{NONE if best is None else f'{rank(best.average_rank)} of {rank(best.full_rank)}'}</td>"
    yield f"<td>{NONE if best is None else share(best.test_accuracy)}</td>"
    yield f"<td><code>{escape(str(results.meta['commit'])[:12])}</code></td>"
    yield f"<td>{escape(str(results.meta['created'])[:10])}</td>"


def _trends(sweeps: Mapping[str, Results]) -> str:
    head = "".join(f"<th scope=col>{WORDS[axis]}<small>theory: {EXPECTED[axis]}</small></th>" for axis in SETTINGS)
    rows = []
    for name, results in sweeps.items():
        known = trends(results)
        cells = "".join(_trend(known[known["axis"] == axis]) for axis in SETTINGS)
        rows.append(f"<tr><th scope=row>{escape(name)}</th>{cells}</tr>")
    body = "".join(rows)
    return f"<table class=wide><thead><tr><th>sweep</th>{head}</tr></thead>{body}</table>"


def _trend(known: pd.DataFrame) -> str:
    if known.empty:
        return f"<td>{NONE}</td>"
    lines = []
    for row in known.sort_values("decayed", ascending=False).to_dict("records"):
        extent = f", {_signed(row['lowest'])} to {_signed(row['highest'])}" if row["slices"] > 1 else ""
        slices = f"{row['slices']} slice{'s' if row['slices'] > 1 else ''} of {row['values']} values{extent}"
        rho = _signed(row["rho"])
        first = f"<b>{rho}</b>" if row["decayed"] else f"<small>without weight decay: {rho}</small>"
        lines.append(f"{first}<small>{slices}</small>")
    return f"<td>{''.join(lines)}</td>"


def _signed(rho: float) -> str:
    return f"{rho:+.2f}".replace("-", "&minus;") if round(rho, 2) else "0.00"


def _means(known: Mapping[str, pd.DataFrame]) -> str:
    titles = ("sweep", "setting", "value", "rank, share of full", "test acc.", "cells")
    head = "".join(f"<th scope=col>{title}</th>" for title in titles)
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{WORDS[row['axis']]}</td><td>{number(row['value'])}</td>"
        f"<td>{share(row['rank_share'])}</td><td>{share(row['test_accuracy'])}</td><td>{row['cells']}</td></tr>"
        for name, table in known.items()
        for row in table.to_dict("records")
    )
    return f"<table class=trials><thead><tr>{head}</tr></thead>{rows}</table>"


def _caution(sweeps: Mapping[str, Results]) -> str:
    """What makes the sweeps hard to compare, in words."""
    lines = []
    if len({results.threshold() for results in sweeps.values()}) > 1:
        lines.append("The sweeps count ranks at different tolerances, which cannot be compared with each other.")
    unfinished = [name for name, results in sweeps.items() if len(results.done) < len(results.table)]
    if unfinished:
        lines.append(f"Not all trials are done in: {', '.join(unfinished)}.")
    sunk = [name for name, results in sweeps.items() if results.table["collapsed"].any()]
    if sunk:
        lines.append(f"Collapsed networks are left out in: {', '.join(sunk)}.")
    return " ".join(lines)
