"""Two analyses side by side: the matrices that are in both, by their names, with what was measured of each."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from fastrank.analysis import summary

__all__ = ["AGAINST", "joined"]

AGAINST = "_against"
"""How the columns end that are of the other checkpoint."""
SAME = ["name", "rows", "cols", "layer_type"]
"""Columns that are those of both."""
MEASURED = ["rank_lower", "rank_upper", "stable_rank"]
"""Columns that types of layers are summed up by."""


def joined(found: pd.DataFrame, other: pd.DataFrame, checkpoint: Path, against: Path) -> pd.DataFrame:
    """The rows of ``found`` whose matrices are in ``other`` too, with the columns of both; and of what is known beside
    the rows that of ``found``, with notes of what the two do not have in common.

    A matrix is the same if its name and its shape are. Types of layers are summed up anew, over what is in both, so
    that means are of the same matrices: for ``other`` under ``attrs["layer_types_against"]``.
    """
    theirs = other.drop(columns=["layer_type"]).rename(
        columns=lambda name: name if name in SAME else f"{name}{AGAINST}"
    )
    both = found.merge(theirs, on=SAME[:3], how="inner", validate="one_to_one")
    both = both[[*(name for name in both.columns if name != "layer_type"), "layer_type"]]
    common = set(both["name"])
    notes = list(_alone(found["name"], common, checkpoint)) + list(_alone(other["name"], common, against))
    notes += [f"left out of {against}: {text}" for text in other.attrs["left_out"]]
    notes += [f"scaled in {against}: {text}" for text in other.attrs["scaled"]]
    both.attrs = {
        **found.attrs,
        "notes": [*found.attrs["notes"], *other.attrs["notes"], *notes],
        "layer_types": _types(both, ""),
        "layer_types_against": _types(both, AGAINST),
    }
    return both


def _types(both: pd.DataFrame, ending: str) -> list[dict[str, Any]]:
    """The summary of types of layers by the columns that end so."""
    own = both[[*SAME[1:], *(f"{name}{ending}" for name in MEASURED)]]
    plain = own.astype(object).where(own.notna(), None)
    return summary(dict(zip([*SAME[1:], *MEASURED], row, strict=True)) for row in plain.itertuples(index=False))


def _alone(names: Iterable[str], common: set[str], checkpoint: Path) -> Iterable[str]:
    return (f"only in {checkpoint}, or of another shape there: {name}" for name in names if name not in common)
