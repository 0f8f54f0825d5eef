"""The paper's bound of the rank, for every cell of a sweep: where it is below full rank, or how far above it is."""

import numpy as np
import pandas as pd

from fastrank.plotting.figures import FloatArray

from ...theory import TheoryError, memory, rank_bound
from ...trial import Schedule
from .. import histories
from ..axes import AXES
from ..results import Results

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
    tolerance = results.tolerance(suffix)
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
    """The bound of the average rank of a trial at each of `steps`.

    It is a mean over the matrices: of the bound where that holds and is below full rank, of full rank elsewhere. It is
    NaN where no matrix has a bound below its full rank. The bound of a matrix holds at a step if training has taken the
    number of steps that `memory` gives, and the matrix has not lost more than half of its norm in them. The norms are
    those of the history.

    Args:
        results: the sweep.
        trial: one with weight decay, of a cell that `bounds` has a row for.
        suffix: column suffix of the tolerance.
        steps: (n,) steps, counted from 1.

    Raises:
        fastrank.HistoryError, OSError: the history is missing or damaged.
    """
    tolerance = results.tolerance(suffix)
    row, patches = results.table.loc[trial].to_dict(), results.result(trial)["patches"]
    per_epoch, lrs = row["steps"] / row["epochs"], _learning_rates(results, trial)
    ago = memory(steps, lrs, per_epoch, row["weight_decay"], tolerance.value)
    known, bites = [], np.zeros(len(steps), dtype=bool)
    norms = histories.norms(results.history(trial))
    for name, *shape in results.digests[trial].matrices[["name", "rows", "cols"]].itertuples(index=False):
        recorded, norm = norms[name]
        start = steps - ago
        before = np.searchsorted(recorded, start).clip(min(1, len(recorded) - 1), len(recorded) - 1)
        earlier = np.maximum(norm[before], norm[before - 1])  # on either side of that step
        holds = (earlier <= 2 * np.interp(steps, recorded, norm)) & (start >= recorded[0] - 1)
        bound = np.where(holds, row["batch_size"] * patches[name] * ago, np.inf)
        bites |= bound < min(shape)
        known.append(np.minimum(bound, min(shape)))
    return np.where(bites, np.mean(known, axis=0), np.nan)


def sentence(known: pd.DataFrame, biting: int) -> str:
    """A sentence on where the bound is below full rank and where it says nothing; empty where no bound is known.

    Args:
        known: what `bounds` returns.
        biting: how many cells have a bound that is below the average full rank at some step.
    """
    finite = known[np.isfinite(known["most"])]
    if finite.empty:
        return ""
    idle = finite[finite["least"] >= finite["full_most"]]
    brief, everywhere = len(finite) - len(idle) - biting, len(idle) == len(finite)
    said = []
    if biting:
        said.append(
            f"is dash-dotted where it is below full rank (in {biting} of {len(finite)} cells with weight decay): once "
            "training is as old as it asks, unless a matrix has lost half of its norm or the learning rate has fallen"
        )
    if len(idle):
        said.append(
            f"{'is' if everywhere else f'in {len(idle)} it is'} {_between(idle['least'].min(), idle['most'].max())} at "
            f"the highest learning rate, above the full rank of every matrix (at most {idle['full_most'].max():.0f})"
            f"{' everywhere' if everywhere else ''}, and says nothing{' here' if everywhere else ''}"
        )
    if brief:
        said.append(f"in {brief} it would be below full rank, but never holds")
    return f"The theory's bound N B log(2/ε) / (lr wd), ε = tolerance, {'; '.join(said)}."


def _learning_rates(results: Results, trial: str) -> list[float]:
    spec = results.spec(trial)
    schedule = Schedule(**{key: spec[key] for key in Schedule.model_fields})
    return [spec["lr"] * schedule.factor(epoch) for epoch in range(schedule.epochs)]


def _between(low: float, high: float) -> str:
    return f"{low:.1e}" if low == high else f"between {low:.1e} and {high:.1e}"
