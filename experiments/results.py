"""What a sweep's folder holds, read once for all figures and the report."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from fastrank.experiments.data import DATASETS
from fastrank.experiments.digest import BINS, Digest, digest
from fastrank.experiments.errors import UserError
from fastrank.experiments.layout import Layout
from fastrank.experiments.ledger import Ledger, Status, TrialRecord

import fastrank

FACETS = ("lr", "momentum")  # settings that get panels of their own where they vary
POINTS = 12_000  # that all curves of a figure have together
MEASURED = ("steps", "average_rank", "full_rank", "train_accuracy", "test_accuracy")


class ReportError(UserError):
    """A report was asked for something that its sweep does not have."""


@dataclass(frozen=True)
class Results:
    """A sweep as figures and report see it.

    Attributes:
        folder: the sweep's folder.
        meta: the ledger's `config`, `commit`, `versions` and `created`.
        trials: the ledger's records, in the order of the grid.
        table: a row a trial, indexed by its id: the columns of `summary.csv`, then `average_rank@...` for further
            tolerances, `facet` (learning rate and momentum, where they vary), `pull`
            (lr * weight_decay / batch_size) and `collapsed` (test accuracy below twice chance).
        tolerances: of the numerical rank; the first is the one that figures show where they show one.
        digests: by trial, for every done trial whose history could be read.
        problems: what is wrong with single histories, in words.
    """

    folder: Path
    meta: dict[str, Any]
    trials: list[TrialRecord]
    table: pd.DataFrame
    tolerances: list[fastrank.Tolerance]
    digests: dict[str, Digest] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def suffixes(self) -> list[str]:
        """Column suffix of every tolerance; "" for the first."""
        return ["", *(tolerance.suffix for tolerance in self.tolerances[1:])]

    @property
    def done(self) -> pd.DataFrame:
        """The rows of `table` that are done."""
        return self.table[self.table["status"] == Status.DONE]

    def history(self, trial: str) -> pa.Table:
        """The whole history of one trial.

        Raises:
            fastrank.HistoryError, OSError: it is missing or damaged.
        """
        return fastrank.read_history(Layout(self.folder).history(trial))

    def choose(self, trial: str | None) -> str | None:
        """The id that `trial` (an id or the start of one) means; None means the done trial of lowest rank.

        Collapsed trials are passed over as long as there are others. None when nothing is done.

        Raises:
            ReportError: no done trial, or more than one, has an id that begins with `trial`.
        """
        done = self.done
        if trial is not None:
            matches = [known for known in done.index if known.startswith(trial)]
            if len(matches) != 1:
                raise ReportError(
                    f"trial: {trial!r} is the start of {len(matches)} ids of done trials in {self.folder}; "
                    f"give exactly one of {', '.join(done.index) or '(none is done)'}"
                )
            return str(matches[0])
        done = done[done["average_rank"].notna() & done.index.isin(list(self.digests))]
        if done.empty:
            return None
        return str(done.sort_values(["collapsed", "average_rank"], kind="stable").index[0])

    def threshold(self, suffix: str = "") -> str:
        """The tolerance with this column suffix, in words."""
        tolerance = self.tolerances[self.suffixes.index(suffix)]
        return f"tolerance {tolerance.value:g} ({tolerance.relative_to})"

    def describe(self, trial: str) -> str:
        """A trial's id, settings and test accuracy, in words."""
        row = self.table.loc[trial]
        return (
            f"Trial {trial} (batch size {row['batch_size']}, weight decay {row['weight_decay']:g}, lr {row['lr']:g}, "
            f"seed {row['seed']}; test accuracy {row['test_accuracy']:.1%})"
        )

    def left_out(self) -> str:
        """A sentence on the trials that no figure shows; empty when all are done."""
        counts = self.table["status"].value_counts(sort=False)
        parts = [f"{counts[status]} {status}" for status in Status if status != Status.DONE and status in counts]
        return f"Left out: {', '.join(parts)} (of {len(self.table)} trials)." if parts else ""


def read_results(folder: Path) -> Results:
    """Read the ledger and every done trial's history below `folder`.

    Raises:
        LedgerError: the ledger is missing, damaged or of another version.
        ReportError: the ledger holds no trial.
    """
    ledger = Ledger.open(folder)
    trials = ledger.trials()
    if not trials:
        raise ReportError(f"{folder}: the ledger holds no trial; run the sweep first")
    tolerances = [fastrank.Tolerance(**entry) for entry in trials[0].spec["tracking"]["tolerances"]]
    results = Results(folder, ledger.meta, trials, _table(trials), tolerances)
    done = [trial for trial in trials if trial.status is Status.DONE]
    for trial in done:
        _add_digest(results, trial, bins=max(60, min(BINS, POINTS // len(done))))
    for suffix in results.suffixes[1:]:
        results.table[f"average_rank@{suffix}"] = pd.Series(
            {name: known.last[suffix] for name, known in results.digests.items()}, dtype=np.float64
        )
    return results


def _add_digest(results: Results, trial: TrialRecord, bins: int) -> None:
    try:
        history = results.history(trial.id)
    except (fastrank.HistoryError, OSError) as error:
        results.problems.append(f"trial {trial.id}: its history could not be read ({error})")
        return
    if history.num_rows == 0:
        results.problems.append(f"trial {trial.id}: its history is empty")
        return
    results.digests[trial.id] = known = digest(history, results.suffixes, bins)
    expected = (trial.result or {}).get("steps", 0) // trial.spec["tracking"]["every"]
    if known.steps < expected:
        results.problems.append(f"trial {trial.id}: its history holds {known.steps} of {expected} steps")


def _table(trials: list[TrialRecord]) -> pd.DataFrame:
    varying = [key for key in FACETS if len({trial.spec[key] for trial in trials}) > 1]
    table = pd.DataFrame([_row(trial, varying) for trial in trials]).set_index("trial")
    return table.astype(dict.fromkeys([*MEASURED, "seconds"], np.float64))


def _row(trial: TrialRecord, varying: list[str]) -> dict[str, Any]:
    spec, measured = trial.spec, trial.result or {}
    model, data = spec["model"]["name"], spec["data"]["name"]
    accuracy = measured.get("test_accuracy")
    return {
        "trial": trial.id,
        "model": model,
        "data": data,
        **{key: spec[key] for key in ("batch_size", "lr", "weight_decay", "momentum", "seed", "epochs")},
        **{key: measured.get(key) for key in MEASURED},
        "seconds": trial.seconds,
        "status": str(trial.status),
        "facet": ", ".join(f"{key} {spec[key]:g}" for key in varying),
        "pull": spec["lr"] * spec["weight_decay"] / spec["batch_size"],
        "collapsed": accuracy is not None and accuracy < 2 / DATASETS[data].classes,
    }
