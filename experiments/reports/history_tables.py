"""The table of a history's matrices: where ranks began, were lowest and are, and how often each status was met."""

from html import escape
from typing import Any

import pandas as pd

from fastrank.plotting.figures import Source, columns, rank_columns, ranks

from .report_tables import NONE

STATUS = "status_"  # what the columns of counts begin with


def matrices(source: Source) -> pd.DataFrame:
    """A row a matrix, in their order, read part by part.

    Returns:
        `name, rows, cols, full, first, lowest, lowest_step, last`, `last@...` for further tolerances; `stable_first,
        stable_last` and `status_OK, ...` (how many rows have each status) where these are recorded. Ranks are the
        middle of their bounds, and NaN where the matrix was not finite; `lowest` is over the rows that have a rank.
    """
    suffixes = source.suffixes
    more = [column for column in ("stable_rank", "status") if column in source.columns]
    firsts, lowests, lasts, counts = [], [], [], []
    for part in source.tables([*columns(suffixes), *more]):
        frame = part.drop_columns([key for suffix in suffixes for key in rank_columns(suffix)]).to_pandas()
        frame["name"] = frame["name"].astype(str)
        for suffix in suffixes:
            frame[f"rank@{suffix}"] = ranks(part, suffix)
        by_name, known = frame.groupby("name", sort=False), frame.dropna(subset="rank@")
        firsts.append(by_name.head(1))
        lasts.append(by_name.tail(1))
        lowests.append(known.loc[known.groupby("name", sort=False)["rank@"].idxmin()])
        if "status" in more:
            counts.append(pd.crosstab(frame["name"], frame["status"].astype(str)))
    first, last = pd.concat(firsts).groupby("name", sort=False).head(1), pd.concat(lasts).groupby("name").tail(1)
    first, last = first.set_index("name"), last.set_index("name")
    lowest = pd.concat(lowests).sort_values("rank@", kind="stable").groupby("name").head(1).set_index("name")
    table = first[["rows", "cols"]].assign(
        full=first[["rows", "cols"]].min(axis=1),
        first=first["rank@"],
        lowest=lowest["rank@"],
        lowest_step=lowest["step"].astype("Int64"),
        last=last["rank@"],
        **{f"last@{suffix}": last[f"rank@{suffix}"] for suffix in suffixes[1:]},
    )
    if "stable_rank" in more:
        table = table.assign(stable_first=first["stable_rank"], stable_last=last["stable_rank"])
    if counts:
        met = pd.concat(counts).groupby(level=0).sum().astype(int).add_prefix(STATUS)
        table = table.join(met)
    found: pd.DataFrame = table.reset_index()
    return found


def statuses(table: pd.DataFrame) -> str:
    """How many rows of a history have each status, in words."""
    found = {
        column.removeprefix(STATUS): int(table[column].sum()) for column in map(str, table) if column.startswith(STATUS)
    }
    return ", ".join(f"{status} {count:,}" for status, count in found.items() if count) or "not recorded"


def histories_table(table: pd.DataFrame) -> str:
    """What `matrices` returned, as HTML."""
    titles = {"first": "first rank", "lowest": "lowest", "lowest_step": "at step", "last": "last rank"}
    titles |= {column: column.replace("last@", "last @") for column in map(str, table) if column.startswith("last@")}
    titles |= {"full": "full rank"}
    titles |= {"stable_first": "first stable rank", "stable_last": "last stable rank"}
    titles |= {column: column.removeprefix(STATUS) for column in map(str, table) if column.startswith(STATUS)}
    shown = [column for column in titles if column in table]
    head = "".join(f"<th scope=col>{escape(titles[column])}</th>" for column in shown)
    rows = []
    row: Any
    for _, row in table.iterrows():
        size = f"<td>{row['rows']} &times; {row['cols']}</td>"
        numbers = "".join(f"<td>{_number(row[column], column)}</td>" for column in shown)
        rows.append(f"<tr><td><code>{escape(row['name'])}</code></td>{size}{numbers}</tr>")
    return (
        f"<table class=trials><thead><tr><th>matrix</th><th scope=col>rows &times; cols</th>{head}</tr></thead>"
        f"{''.join(rows)}</table>"
    )


def _number(value: Any, column: str) -> str:
    if pd.isna(value):
        return NONE
    return f"{value:.1f}" if column.startswith("stable") else f"{value:,.10g}"
