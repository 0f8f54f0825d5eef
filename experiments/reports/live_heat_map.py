"""The heat map of one trial, as the report draws it, but while the sweep still runs: sinks show it."""

import threading
from pathlib import Path
from tempfile import TemporaryDirectory

import fastrank
from fastrank.plotting.figures import BINS, Digest, columns, digest, styled

from ..records import Layout, Storage, history_parts
from . import histories
from .figures import heat_maps
from .figures.drawing import png
from .results import Results, read_results

_drawing = threading.Lock()  # matplotlib's settings are the whole process's


def draw_heat_map(folder: Path, trial: str) -> bytes | None:
    """Draw the rank of every tracked matrix over the steps of a trial that has a result.

    Args:
        folder: the sweep's folder.
        trial: the trial's id.

    Returns:
        A PNG; None where there is no history, or it cannot be read.

    Raises:
        UserError: the ledger cannot be read, or the sweep's storage.
    """
    results = read_results(folder, digests=False)
    known = _digest(results, trial)
    if known is None:
        return None
    results.digests[trial] = known
    with _drawing, styled():
        return png(heat_maps.draw(results, trial).figure)


def _digest(results: Results, trial: str) -> Digest | None:
    steps = int(results.result(trial).get("steps", 0))
    every = results.spec(trial)["tracking"]["every"]
    try:
        with TemporaryDirectory(prefix="fastrank-") as scratch:
            tables = histories.tables(history_parts(_history(results, trial, Path(scratch))), columns([""]))
            return digest(tables, [""], steps, every=every, bins=BINS)
    except (fastrank.HistoryError, OSError):
        return None


def _history(results: Results, trial: str, scratch: Path) -> Path:
    """The folder of a trial's history: in the sweep's folder, or a copy in `scratch` of what is stored elsewhere."""
    url, own = results.meta.get("storage"), results.history(trial)
    if url is None or own.exists():
        return own
    Storage(url, Layout(scratch)).fetch(trial)
    return Layout(scratch).history(trial)
