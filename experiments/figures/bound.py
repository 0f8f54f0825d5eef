"""The paper's bound of the rank, for every cell of a sweep: where it bites, and how far above full rank it is."""

import numpy as np
import pandas as pd
from fastrank.experiments.axes import AXES
from fastrank.experiments.results import Results
from fastrank.experiments.theory import TheoryError, rank_bound

COLUMNS = [*AXES, "least", "most", "average", "full_rank", "full_most"]


def bounds(results: Results, trials: pd.DataFrame, suffix: str = "") -> pd.DataFrame:
    """The bound N B log(2/eps) / (lr wd), eps the tolerance with this column suffix, for every cell of `trials`.

    Args:
        results: the sweep.
        trials: rows of `results.table`, with a digest each.
        suffix: column suffix of the tolerance.

    Returns:
        A row for every cell that the theory covers (plain SGD; the number of patches N that enter each matrix is
        known; lr wd at most 1): the settings, the `least` and the `most` of the matrices' bounds (infinite without
        weight decay), `average`, the mean over the matrices of the bound or the full rank, whichever is less, and
        `full_rank` and `full_most`, the mean and the largest of the full ranks. No row for a tolerance that is not
        relative to the Frobenius norm.
    """
    tolerance = results.tolerances[results.suffixes.index(suffix)]
    rows: list[list[float]] = []
    if tolerance.relative_to != "frobenius":
        return pd.DataFrame(rows, columns=COLUMNS, dtype=float)
    for name, cell in trials.drop_duplicates(list(AXES)).iterrows():
        patches, matrices = results.result(str(name)).get("patches"), results.digests[str(name)].matrices
        if not patches or cell["momentum"] or not set(matrices["name"]) <= set(patches):
            continue
        size, lr, decay = int(cell["batch_size"]), float(cell["lr"]), float(cell["weight_decay"])
        try:
            known = np.array([rank_bound(size, patches[m], lr, decay, tolerance.value) for m in matrices["name"]])
        except TheoryError:
            continue
        full = matrices[["rows", "cols"]].min(axis=1).to_numpy()
        rows.append(
            [*cell[list(AXES)], known.min(), known.max(), np.minimum(known, full).mean(), full.mean(), full.max()]
        )
    return pd.DataFrame(rows, columns=COLUMNS, dtype=float)


def biting(known: pd.DataFrame) -> pd.DataFrame:
    """The rows of `bounds` in which the bound of a matrix is less than its full rank."""
    return known[known["average"] < known["full_rank"]]


def sentence(known: pd.DataFrame) -> str:
    """What the bound says, and where it says nothing; empty where it is not known."""
    finite = known[np.isfinite(known["most"])]
    if finite.empty:
        return ""
    bites, idle = biting(finite), finite.drop(biting(finite).index)
    name = "The theory's bound N B log(2/ε) / (lr wd), with the initial learning rate and ε = tolerance,"
    said = [name]
    if len(bites):
        said.append(
            f"is dash-dotted where it is below full rank ({len(bites)} of {len(finite)} cells with weight decay)"
        )
        if len(idle):
            said.append("; elsewhere it")
    if len(idle):
        said.append(
            f"is {_between(idle['least'].min(), idle['most'].max())}, above the full rank of every matrix (at most "
            f"{idle['full_most'].max():.0f}){'' if len(bites) else ' everywhere'}, and says nothing"
            f"{'' if len(bites) else ' here'}"
        )
    return " ".join(said).replace(" ;", ";") + "."


def _between(low: float, high: float) -> str:
    return f"{low:.1e}" if low == high else f"between {low:.1e} and {high:.1e}"
