"""Singular values of every tracked matrix of one trial, at its first and last step, with the rank's thresholds."""

import fastrank
from fastrank.plotting.figures import spectra_caption, spectra_figure, spectrum_values

from ..histories import spectra
from ..results import Results
from .drawing import Drawing, NothingToDraw


def draw(results: Results, trial: str) -> Drawing:
    """The figure for the trial with this id.

    Raises:
        NothingToDraw: its history has no singular values, or cannot be read.
    """
    try:
        ends = spectra(results.history(trial))
    except (fastrank.HistoryError, OSError) as error:
        raise NothingToDraw(f"the history of trial {trial} could not be read ({error})") from error
    if ends.empty:
        raise NothingToDraw(f"no singular values were recorded for trial {trial}")
    data = spectrum_values(ends)
    caption = f"{results.describe(trial)}: {spectra_caption(data['name'].nunique(), ends['name'].nunique())}"
    return Drawing(caption, spectra_figure(data, results.tolerances), data)
