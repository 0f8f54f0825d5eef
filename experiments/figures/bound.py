"""The paper's bound of the rank, for every cell of a sweep: where it bites, and how far above full rank it is."""

import numpy as np
import pandas as pd
from fastrank.experiments.axes import AXES
from fastrank.experiments.digest import FloatArray
from fastrank.experiments.results import Results
from fastrank.experiments.theory import TheoryError, memory, rank_bound
from fastrank.experiments.trial import Schedule

COLUMNS = [*AXES, "least", "most", "full_most"]


def bounds(results: Results, trials: pd.DataFrame, suffix: str = "") -> pd.DataFrame:
    """The bound N B log(2/eps) / (lr wd), eps the tolerance with this column suffix, for every cell of `trials`.

    Args:
        results: the sweep.
        trials: rows of `results.table`, with a digest each.
        suffix: column suffix of the tolerance.

    Returns:
        A row for every cell that the theory covers (plain SGD; the number of patches N that enter each matrix is
        known; lr wd at most 1): the settings, the `least` and the `most` of the matrices' bounds at the highest
        learning rate of the schedule (infinite without weight decay), and `full_most`, the largest of their full
        ranks. No row for a tolerance that is not relative to the Frobenius norm.
    """
    tolerance = results.tolerances[results.suffixes.index(suffix)]
    rows: list[list[float]] = []
    if tolerance.relative_to != "frobenius":
        return pd.DataFrame(rows, columns=COLUMNS, dtype=float)
    for name, cell in trials.drop_duplicates(list(AXES)).iterrows():
        patches, matrices = results.result(str(name)).get("patches"), results.digests[str(name)].matrices
        if not patches or cell["momentum"] or not set(matrices["name"]) <= set(patches):
            continue
        size, lr, decay = int(cell["batch_size"]), max(_learning_rates(results, str(name))), float(cell["weight_decay"])
        try:
            known = [rank_bound(size, patches[m], lr, decay, tolerance.value) for m in matrices["name"]]
        except TheoryError:
            continue
        full = matrices[["rows", "cols"]].min(axis=1)
        rows.append([*cell[list(AXES)], min(known), max(known), full.max()])
    return pd.DataFrame(rows, columns=COLUMNS, dtype=float)


def average(results: Results, trial: str, suffix: str, steps: FloatArray) -> FloatArray:
    """The bound of the average rank at each of `steps` of a trial of one of the cells that `bounds` knows, with decay.

    The mean over the matrices of the bound or the full rank, whichever is less: at the full rank until training has
    gone on for as long as the theory asks, and again once the learning rate has fallen too far.
    """
    tolerance = results.tolerances[results.suffixes.index(suffix)]
    row, patches = results.table.loc[trial].to_dict(), results.result(trial)["patches"]
    per_epoch, lrs = row["steps"] / row["epochs"], _learning_rates(results, trial)
    gradients = row["batch_size"] * memory(steps, lrs, per_epoch, row["weight_decay"], tolerance.value)
    matrices = results.digests[trial].matrices
    full = matrices[["rows", "cols"]].min(axis=1)
    known = [np.minimum(patches[name] * gradients, most) for name, most in zip(matrices["name"], full, strict=True)]
    return np.asarray(np.mean(known, axis=0))


def sentence(known: pd.DataFrame, biting: int) -> str:
    """What the bound says, and where it says nothing; empty where it is not known.

    Args:
        known: what `bounds` gives.
        biting: cells in which it is below the average full rank at some step.
    """
    finite = known[np.isfinite(known["most"])]
    if finite.empty:
        return ""
    idle = finite[finite["least"] >= finite["full_most"]]
    said = "The theory's bound N B log(2/ε) / (lr wd), ε = tolerance, "
    if biting:
        said += (
            f"is dash-dotted where it is below full rank (in {biting} of {len(finite)} cells with weight decay): once "
            "training is as old as it asks, and before the learning rate has fallen too far"
        )
    if len(idle):
        said += "; elsewhere it " if biting else ""
        said += (
            f"is {_between(idle['least'].min(), idle['most'].max())} at the highest learning rate, above the full "
            f"rank of every matrix (at most {idle['full_most'].max():.0f}){'' if biting else ' everywhere'}, and says "
            f"nothing{'' if biting else ' here'}"
        )
    if not biting and idle.empty:
        said += "is nowhere below full rank for long enough to say anything"
    return said + "."


def _learning_rates(results: Results, trial: str) -> list[float]:
    spec = results.spec(trial)
    schedule = Schedule(**{key: spec[key] for key in Schedule.model_fields})
    return [spec["lr"] * schedule.factor(epoch) for epoch in range(schedule.epochs)]


def _between(low: float, high: float) -> str:
    return f"{low:.1e}" if low == high else f"between {low:.1e} and {high:.1e}"
