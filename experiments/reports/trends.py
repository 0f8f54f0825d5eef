"""How average rank goes with each setting, as a number for every sweep; and the means behind it."""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import pandas as pd

from .axes import AXES
from .results import Results
from .seed_means import seed_means

SETTINGS = AXES[:3]
DIGITS = 9  # of an average rank, that count as different


def trends(results: Results) -> pd.DataFrame:
    """Spearman's correlation of average rank with every setting that varies, all others held fixed.

    A slice is the cells (means over seeds) that differ in one setting alone. Each slice of two or more values has a
    correlation; a slice whose rank does not change has 0. Cells with a collapsed network are left out: their low rank
    is no success.

    Returns:
        A row for each setting, and for batch size and learning rate one `decayed` (slices with weight decay) and one
        not: `axis, decayed, rho` (mean over the slices), `lowest, highest`, `slices`, `values` (in the longest slice).
    """
    rows = []
    for axis, decayed, slices in _slices(_sound(results)):
        known = [spearman(part[axis], part["rank_mean"]) for part in slices]
        longest = max(len(part) for part in slices)
        rows.append([axis, decayed, np.mean(known), min(known), max(known), len(known), longest])
    return pd.DataFrame(rows, columns=["axis", "decayed", "rho", "lowest", "highest", "slices", "values"])


def means(results: Results) -> pd.DataFrame:
    """Average rank, as a share of full rank, and test accuracy at every value of every setting that varies.

    Every value is averaged over the same other settings: means over the slices that have all values; where none has,
    over those that have the values that together occur most, and the other values are left out. Batch size and
    learning rate: over slices with weight decay, where there are any. Cells with a collapsed network are left out.

    Returns:
        `axis, value, rank_share, test_accuracy, cells` (that the means are over).
    """
    parts = []
    for axis, group in pd.DataFrame(list(_slices(_sound(results))), columns=["axis", "decayed", "slices"]).groupby(
        "axis", sort=False
    ):
        slices = group.sort_values("decayed", ascending=False)["slices"].iloc[0]
        data = pd.concat(_alike(str(axis), slices)).assign(
            rank_share=lambda cell: cell["rank_mean"] / cell["full_rank"]
        )
        by_value = data.groupby(axis, sort=True).agg(
            rank_share=("rank_share", "mean"), test_accuracy=("test_accuracy_mean", "mean"), cells=("rank_mean", "size")
        )
        parts.append(by_value.rename_axis("value").reset_index().assign(axis=axis))
    columns = ["axis", "value", "rank_share", "test_accuracy", "cells"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def _alike(axis: str, slices: list[pd.DataFrame]) -> list[pd.DataFrame]:
    """The slices that have all values of `axis`; where none has, those of the values that most cells have together."""
    by_values: dict[tuple[float, ...], list[pd.DataFrame]] = defaultdict(list)
    for part in slices:
        by_values[tuple(part[axis])].append(part)
    every = tuple(sorted(pd.concat(slices)[axis].unique()))
    return by_values.get(every) or max(by_values.values(), key=lambda parts: sum(map(len, parts)))


def spearman(x: "pd.Series[float]", y: "pd.Series[float]") -> float:
    """Spearman's rank correlation of distinct `x` with `y`, ties by their mean rank; 0 where `y` is constant."""
    first, second = x.rank(), y.round(DIGITS).rank()
    if second.nunique() < 2:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def _sound(results: Results) -> pd.DataFrame:
    table = seed_means(results)
    return table[table["collapsed"] == 0]


def _slices(sound: pd.DataFrame) -> Iterator[tuple[str, bool, list[pd.DataFrame]]]:
    """For every setting, with and (but for weight decay itself) without weight decay: the slices along it."""
    for axis in SETTINGS:
        others = [other for other in AXES if other != axis]
        slices = [part for _, part in sound.groupby(others, sort=True) if len(part) > 1]
        for decayed in (True, False):
            chosen = [p for p in slices if axis == "weight_decay" or (p["weight_decay"].iloc[0] > 0) == decayed]
            if chosen and (decayed or axis != "weight_decay"):
                yield axis, decayed, chosen
