"""`fastrank.plot`: a picture of a history, wherever it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .figures.source import Given

Kind = Literal["heat_map", "average", "spectra"]


def plot(
    history: Given,
    *,
    names: Sequence[str] | None = None,
    kind: Kind | None = None,
) -> Figure:
    """Draw a history: the rank of every matrix over the steps, their average, and the spectra where they are recorded.

    Args:
        history: a `RankTracker`, what its `to_arrow` or `to_pandas` returned, or a path: of a tracker's folder, where
            training may go on meanwhile, or of a Parquet file that `write_parquet` wrote.
        names: names of the matrices that are drawn (default: all).
        kind: `"heat_map"`: matrices x steps, the colour is the rank as a share of full rank, grey where a matrix has no
            rank, as it was not finite or not there. `"average"`: the mean of these shares, with the matrices that end
            lowest and highest. `"spectra"`: the singular values at the first and the last step at which they were
            recorded; of at most 24 matrices, with the threshold where a `RankTracker` is given. Default None: all of
            these in one figure.

    Returns:
        A `matplotlib.figure.Figure`: a notebook shows it, and `savefig` writes it. `matplotlib.pyplot` does not know
        it: the current figure stays, and nothing has to be closed. Ranks are those at the first tolerance; one that is
        not certified is the middle of its bounds. With more than 120 recorded steps, a column of a heat map is the mean
        over several. The axis of steps is logarithmic where the recorded steps are.

    Raises:
        HistoryError: there is no row yet, a column is missing, or a file is missing or damaged.
        ValueError: an unknown `kind`, or `"spectra"` of a history without singular values. TypeError: `history` is
            nothing of these. ImportError: matplotlib, pandas or pyarrow is missing: `pip install 'fastrank[plot]'`.
    """
    try:
        from .figures import Source, draw_history
    except ModuleNotFoundError as missing:
        raise ImportError(
            f"fastrank.plot needs {missing.name}, which is not installed: pip install 'fastrank[plot]'"
        ) from missing
    return draw_history(Source(history, names), kind)
