"""Averages over the seeds of trials that differ in nothing else, and how far the trained networks generalise."""

import pandas as pd

from .axes import AXES
from .results import Results

MEASURES = {"rank": "average_rank", "train_accuracy": "train_accuracy", "test_accuracy": "test_accuracy", "gap": "gap"}
SPREAD = ("mean", "std", "min", "max")


def seed_means(results: Results, rank: str = "average_rank") -> pd.DataFrame:
    """A row for every cell of the grid (its settings but for the seed) with a done trial, sorted by its settings.

    Args:
        results: the sweep.
        rank: column of `results.table`; trials without it are left out.

    Returns:
        `batch_size, lr, weight_decay, momentum, facet`, `trials` (how many seeds are done), `full_rank`, `collapsed`
        (how many of these are), and `_mean, _std, _min, _max` over the seeds for each of `rank`, `train_accuracy`,
        `test_accuracy` and `gap` (training minus test accuracy); `_std` is NaN for a single seed.
    """
    done = results.done.assign(gap=results.done["train_accuracy"] - results.done["test_accuracy"])
    measures = MEASURES | {"rank": rank}
    named = {f"{name}_{how}": (column, how) for name, column in measures.items() for how in SPREAD}
    groups = done[done[rank].notna()].groupby(list(AXES), sort=True)
    found: pd.DataFrame = groups.agg(
        facet=("facet", "first"),
        trials=("seed", "size"),
        full_rank=("full_rank", "mean"),
        collapsed=("collapsed", "sum"),
        **named,
    ).reset_index()
    return found


def generalisation(results: Results) -> pd.DataFrame:
    """The table that is written to `generalisation.csv`: `seed_means` without `facet`, with the share of full rank."""
    table = seed_means(results).drop(columns="facet")
    table.insert(list(table.columns).index("full_rank"), "rank_share", table["rank_mean"] / table["full_rank"])
    return table
