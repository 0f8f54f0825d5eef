"""The tables of a report, as HTML. Every text that comes from a sweep is escaped here."""

from collections.abc import Callable, Iterable, Mapping
from html import escape
from typing import Any

import pandas as pd

from ..records import Status
from .axes import WORDS, number
from .results import Results
from .seed_means import seed_means

NONE = "&ndash;"


def rank(value: float) -> str:
    """An average rank in a table; a dash for NaN, as in the functions below."""
    return NONE if pd.isna(value) else f"{value:.1f}"


def share(value: float) -> str:
    """An accuracy or another share of one."""
    return NONE if pd.isna(value) else f"{value:.1%}"


def gap(value: float) -> str:
    """A difference of two shares of one, in percentage points."""
    return NONE if pd.isna(value) else f"{100 * value:.1f}".replace("-", "&minus;")


MEASURES = {"train_accuracy": share, "test_accuracy": share, "gap": gap, "rank": rank}


def pivots(results: Results) -> str:
    """A table for every facet: average rank and test accuracy, over the two settings that `results.shown` names."""
    return "\n".join(_pivot(facet, results.table[results.table["facet"] == facet], results) for facet in results.facets)


def _pivot(facet: str, trials: pd.DataFrame, results: Results) -> str:
    across, down = results.shown
    values = sorted(trials[across].unique())
    head = "".join(f"<th scope=col>{WORDS[across]} {number(value)}</th>" for value in values)
    rows = []
    for value in sorted(trials[down].unique()):
        line = trials[trials[down] == value]
        entries = "".join(_pivot_cell(line[line[across] == other]) for other in values)
        rows.append(f"<tr><th scope=row>{WORDS[down]} {number(value)}</th>{entries}</tr>")
    caption = f"<caption>{escape(facet)}</caption>" if facet else ""
    body = "".join(rows)
    return f"<div class=scroll><table class=pivot>{caption}<thead><tr><td></td>{head}</tr></thead>{body}</table></div>"


def _pivot_cell(trials: pd.DataFrame) -> str:
    done = trials[trials["status"] == Status.DONE]
    if done.empty:
        return f"<td><small>{escape(', '.join(sorted(trials['status'].unique()))) or NONE}</small></td>"
    ranks, accuracy = done["average_rank"], done["test_accuracy"].mean()
    seeds = f"<small>{ranks.min():.1f} to {ranks.max():.1f}</small>" if len(done) > 1 else ""
    seeds += f"<small>{len(done)} of {len(trials)} seeds</small>" if len(done) < len(trials) else ""
    mark = " <span class=alert>collapsed</span>" if done["collapsed"].any() else ""
    fill = f"{ranks.mean() / done['full_rank'].mean():.1%}"
    return f'<td style="--fill: {fill}"><b>{rank(ranks.mean())}</b><small>{share(accuracy)}{mark}</small>{seeds}</td>'


def generalisation(results: Results) -> str:
    """One row a cell of the grid: train and test accuracy, the gap between them, average rank; means over the seeds."""
    table = seed_means(results)
    if table.empty:
        return ""
    axes = results.varying or list(results.shown)
    seeds = table["trials"].max() > 1
    head = "".join(
        f"<th scope=col>{name}</th>" for name in [*(WORDS[axis] for axis in axes), *(["seeds"] if seeds else [])]
    )
    rows = []
    for _, cell in table.iterrows():
        settings = "".join(f"<th scope=row>{number(cell[axis])}</th>" for axis in axes)
        count = f"<td>{cell['trials']}</td>" if seeds else ""
        numbers = "".join(_spread(cell, measure, show) for measure, show in MEASURES.items())
        mark = " <span class=alert>collapsed</span>" if cell["collapsed"] else ""
        rows.append(f"<tr>{settings}{count}{numbers}<td>{rank(cell['full_rank'])}{mark}</td></tr>")
    measured = "<th>train acc.</th><th>test acc.</th><th>gap</th><th>average rank</th><th>full rank</th>"
    body = "".join(rows)
    return f"<table class=trials><thead><tr>{head}{measured}</tr></thead>{body}</table>"


def _spread(cell: "pd.Series[Any]", measure: str, show: Callable[[float], str]) -> str:
    """The mean of a measure, with its standard deviation over the seeds where there are several."""
    spread = cell[f"{measure}_std"]
    more = "" if pd.isna(spread) else f" <small>&plusmn; {show(spread)}</small>"
    return f"<td>{show(cell[f'{measure}_mean'])}{more}</td>"


def trials(results: Results) -> str:
    """One row a trial, with everything that was set and measured."""
    extra = {f"average_rank@{suffix}": (f"rank @{suffix}", rank) for suffix in results.suffixes[1:]}
    columns: dict[str, tuple[str, Callable[[Any], str]]] = {
        "batch_size": ("batch size", str),
        "lr": ("lr", _setting),
        "weight_decay": ("weight decay", _setting),
        "momentum": ("momentum", _setting),
        "seed": ("seed", str),
        "epochs": ("epochs", str),
        "steps": ("steps", _count),
        "average_rank": ("average rank", rank),
        **extra,
        "full_rank": ("full rank", rank),
        "train_accuracy": ("train acc.", share),
        "test_accuracy": ("test acc.", share),
        "seconds": ("seconds", _count),
    }
    head = "".join(f"<th scope=col>{escape(title)}</th>" for title, _ in columns.values())
    rows = []
    for name, trial in results.table.iterrows():
        cells = "".join(f"<td>{show(trial[key])}</td>" for key, (_, show) in columns.items())
        rows.append(f"<tr><td><code>{escape(str(name))}</code></td>{cells}<td>{_status(trial)}</td></tr>")
    body = "".join(rows)
    return f"<table class=trials><thead><tr><th>trial</th>{head}<th>status</th></tr></thead>{body}</table>"


def pairs(rows: Iterable[tuple[str, str]]) -> str:
    """A table of names and values; the values are HTML."""
    lines = "".join(f"<tr><th scope=row>{escape(name)}</th><td>{value}</td></tr>" for name, value in rows)
    return f"<table class=plain>{lines}</table>"


def config(settings: Mapping[str, Any]) -> str:
    """The configuration, with a row for every key at its top."""
    return pairs((key, config_value(value)) for key, value in settings.items())


def failures(results: Results) -> str:
    """The error text of every trial that has one."""
    blocks = [
        f"<h3>Trial <code>{escape(trial.id)}</code> {escape(trial.status)}, attempts: {trial.attempts}</h3>"
        f"<pre>{escape(trial.error)}</pre>"
        for trial in results.trials
        if trial.error
    ]
    return "\n".join(blocks)


def _count(value: float) -> str:
    return NONE if pd.isna(value) else f"{value:,.0f}"


def _setting(value: float) -> str:
    return f"{value:g}"


def _status(trial: "pd.Series[Any]") -> str:
    if trial["status"] != Status.DONE:
        return f"<span class=alert>{escape(trial['status'])}</span>"
    marks = ["collapsed"] if trial["collapsed"] else []
    marks += [f"{trial['open']:,.0f} ranks not certified"] if trial["open"] > 0 else []
    return ", ".join([escape(trial["status"]), *(f"<span class=alert>{mark}</span>" for mark in marks)])


def config_value(value: Any) -> str:
    """A value of a configuration: a number, a text, or a list or mapping of them."""
    if isinstance(value, dict):
        return ", ".join(
            f"{escape(str(key))} = {config_value(entry)}" for key, entry in value.items() if entry is not None
        )
    if isinstance(value, list):
        return "[" + ", ".join(f"({config_value(e)})" if isinstance(e, dict) else config_value(e) for e in value) + "]"
    return escape(_setting(value) if isinstance(value, float) else str(value))
