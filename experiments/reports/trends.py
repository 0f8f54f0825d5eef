"""How average rank depends on each setting of a sweep: one correlation for each, and the means behind it."""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import pandas as pd

from .axes import AXES
from .results import Results
from .seed_means import seed_means

SETTINGS = AXES[:3]
DIGITS = 9  # after the point, to which average ranks are rounded: ranks that agree in them are ties


def trends(results: Results) -> pd.DataFrame:
    """Spearman's correlation of average rank with every one of `SETTINGS` that varies, all others held fixed.

    A slice is a set of cells (means over seeds) that differ in one setting alone. Each slice of two or more values has
    a correlation, which is 0 where the rank does not change. Cells with a collapsed network are left out: their low
    rank is no success.

    Returns:
        A row for each setting; for batch size and learning rate one of the slices with weight decay (`decayed`) and one
        of those without: `axis, decayed`, `rho, lowest, highest` (mean and extremes of the correlation over the
        slices), `slices` (their number) and `values` (in the longest slice).
    """
    rows = []
    for axis, decayed, slices in _slices(_sound(results)):
        known = [spearman(part[axis], part["rank_mean"]) for part in slices]
        longest = max(len(part) for part in slices)
        rows.append([axis, decayed, np.mean(known), min(known), max(known), len(known), longest])
    return pd.DataFrame(rows, columns=["axis", "decayed", "rho", "lowest", "highest", "slices", "values"])


def means(results: Results) -> pd.DataFrame:
    """Average rank, as a share of full rank, and test accuracy at every value of every one of `SETTINGS` that varies.

    The means of a setting's values can be compared, because they are over the same other settings: over the slices (see
    `trends`) that have all values. Where no slice has them all, the slices with one and the same set of values are
    taken that have most cells together, and the other values are left out. For batch size and learning rate they are
    slices with weight decay, where there are any. Cells with a collapsed network are left out.

    Returns:
        `axis, value, rank_share, test_accuracy` and `cells` (how many the means are over).
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
    """The slices that have all values of `axis`; where none has, those of one set of values that have most cells."""
    by_values: dict[tuple[float, ...], list[pd.DataFrame]] = defaultdict(list)
    for part in slices:
        by_values[tuple(part[axis])].append(part)
    every = tuple(sorted(pd.concat(slices)[axis].unique()))
    return by_values.get(every) or max(by_values.values(), key=lambda parts: sum(map(len, parts)))


def spearman(x: "pd.Series[float]", y: "pd.Series[float]") -> float:
    """Spearman's rank correlation of distinct `x` with `y`, whose ties get their mean rank; 0 for constant `y`."""
    first, second = x.rank(), y.round(DIGITS).rank()
    if second.nunique() < 2:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def _sound(results: Results) -> pd.DataFrame:
    table = seed_means(results)
    return table[table["collapsed"] == 0]


def _slices(sound: pd.DataFrame) -> Iterator[tuple[str, bool, list[pd.DataFrame]]]:
    """For every setting the slices along it, those with weight decay and those without apart (but not along itself)."""
    for axis in SETTINGS:
        others = [other for other in AXES if other != axis]
        slices = [part for _, part in sound.groupby(others, sort=True) if len(part) > 1]
        for decayed in (True, False):
            chosen = [p for p in slices if axis == "weight_decay" or (p["weight_decay"].iloc[0] > 0) == decayed]
            if chosen and (decayed or axis != "weight_decay"):
                yield axis, decayed, chosen
