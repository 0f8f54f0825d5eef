"""Two analyses side by side: the matrices that are in both, by their names, with what was measured of each."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

__all__ = ["AGAINST", "joined"]

AGAINST = "_against"
"""How the columns end that are of the other checkpoint."""
SAME = ["name", "rows", "cols", "layer_type"]
"""Columns that are those of both."""


def joined(found: pd.DataFrame, other: pd.DataFrame, checkpoint: Path, against: Path) -> pd.DataFrame:
    """The rows of ``found`` whose matrices are in ``other`` too, with the columns of both; and of what is known beside
    the rows that of ``found``, with notes of what the two do not have in common.

    A matrix is the same if its name and its shape are. Types of layers of ``other`` are under
    ``attrs["layer_types_against"]``.
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
        "layer_types_against": other.attrs["layer_types"],
    }
    return both


def _alone(names: Iterable[str], common: set[str], checkpoint: Path) -> Iterable[str]:
    return (f"only in {checkpoint}, or of another shape there: {name}" for name in names if name not in common)
