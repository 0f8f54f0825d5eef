"""What a sweep's folder has, read once for all figures and the report."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import fastrank
from fastrank.plotting.figures import BINS, Digest, columns, digest

from ..errors import UserError
from ..records import Layout, Ledger, Status, Storage, TrialRecord, history_parts
from . import histories
from .axes import AXES, said

POINTS = 12_000  # that all curves of a figure have together
READERS = 2  # threads: decoding and summing release the interpreter lock about half of the time
MEASURED = ("steps", "average_rank", "full_rank", "train_accuracy", "test_accuracy")


class ReportError(UserError):
    """A report was asked for something that its sweep does not have."""


@dataclass(frozen=True)
class Results:
    """A sweep as figures and report see it.

    Attributes:
        folder: the sweep's folder.
        meta: the ledger's `config`, `data`, `commit`, `versions` and `created`.
        trials: the ledger's records, in the order of the grid.
        table: a row a trial, indexed by its id: the columns of `summary.csv`, then `average_rank@...` for further
            tolerances, `open` (how many rows of its history have a rank that is not certified), `facet` (the settings
            that vary besides the two of `shown`, in words), `pull` (lr * weight_decay / batch_size, how hard SGD and
            weight decay pull towards low rank) and `collapsed` (done, at a test accuracy below `collapse`).
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
    def chance(self) -> str:
        """In words: the test accuracy below which a network counts as collapsed."""
        classes = int(self.meta["data"]["classes"])
        return f"{'twice chance, ' if classes > 2 else ''}{100 * collapse(classes):.3g}%"

    @property
    def done(self) -> pd.DataFrame:
        """The rows of `table` that are done."""
        return self.table[self.table["status"] == Status.DONE]

    @property
    def varying(self) -> list[str]:
        """The axes (seeds aside) that take more than one value."""
        return _varying(self.trials)

    @property
    def shown(self) -> tuple[str, str]:
        """The two axes that most figures show: the first two that vary, made up with others where fewer do."""
        return _shown(self.varying)

    @property
    def facets(self) -> list[str]:
        """All values of the column `facet`, sorted by the settings in them and not as texts."""
        rest = [axis for axis in self.varying if axis not in self.shown]
        return list(dict.fromkeys(self.table.sort_values(rest)["facet"] if rest else self.table["facet"]))

    def spec(self, trial: str) -> dict[str, Any]:
        """The specification of the trial with this id."""
        return next(record.spec for record in self.trials if record.id == trial)

    def result(self, trial: str) -> dict[str, Any]:
        """The result of the trial with this id; empty while it has none."""
        return next(record.result or {} for record in self.trials if record.id == trial)

    def history(self, trial: str) -> Path:
        """The folder of one trial's history."""
        return Layout(self.folder).history(trial)

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

    def tolerance(self, suffix: str = "") -> fastrank.Tolerance:
        """The tolerance with this column suffix."""
        return self.tolerances[self.suffixes.index(suffix)]

    def threshold(self, suffix: str = "") -> str:
        """The tolerance with this column suffix, in words."""
        tolerance = self.tolerance(suffix)
        return f"tolerance {tolerance.value:g} ({tolerance.relative_to})"

    def describe(self, trial: str) -> str:
        """A trial's id, settings and test accuracy, in words."""
        row: Any = self.table.loc[trial]
        settings = said(row, *(axis for axis in AXES if axis != "momentum" or row[axis] or axis in self.varying))
        return f"Trial {trial} ({settings}, seed {row['seed']}; test accuracy {row['test_accuracy']:.1%})"

    def left_out(self) -> str:
        """A sentence on the trials that no figure shows; empty when all are done."""
        counts = self.table["status"].value_counts(sort=False)
        parts = [f"{counts[status]} {status}" for status in Status if status != Status.DONE and status in counts]
        return f"Left out: {', '.join(parts)} (of {len(self.table)} trials)." if parts else ""


def read_results(folder: Path, *, digests: bool = True) -> Results:
    """Read the ledger of a sweep and, with `digests`, the history of every done trial.

    Histories that are stored elsewhere are first copied to `folder`. One that is missing or damaged raises no error:
    `Results.problems` tells of it.

    Raises:
        LedgerError: the ledger is missing, damaged or of another version.
        ReportError: the ledger holds no trial, or does not say how many classes its data have.
        StorageError: the place where the histories are stored cannot be reached.
    """
    ledger = Ledger.open(folder)
    meta, trials = ledger.meta, ledger.trials()
    if not trials:
        raise ReportError(f"{folder}: the ledger holds no trial; run the sweep first")
    if "classes" not in (meta.get("data") or {}):
        raise ReportError(
            f"{folder}: an earlier fastrank wrote this ledger, and it does not say how many classes the data have; "
            "report it with the fastrank that wrote it, or run the sweep again in a new folder"
        )
    tolerances = [fastrank.Tolerance(**entry) for entry in trials[0].spec["tracking"]["tolerances"]]
    results = Results(folder, meta, trials, _table(trials, int(meta["data"]["classes"])), tolerances)
    if digests:
        _add_digests(results, Storage(meta.get("storage"), Layout(folder)))
    return results


def collapse(classes: int) -> float:
    """Test accuracy below which a network counts as collapsed: twice chance; of two classes, 75%."""
    return min(2 / classes, (1 + 1 / classes) / 2)


def _add_digests(results: Results, storage: Storage) -> None:
    done = [trial for trial in results.trials if trial.status is Status.DONE]
    one = partial(_digest, results, storage, bins=max(60, min(BINS, POINTS // max(len(done), 1))))
    with ThreadPoolExecutor(READERS) as readers:
        for trial, known in zip(done, readers.map(one, done), strict=True):
            if isinstance(known, Exception):
                results.problems.append(f"trial {trial.id}: its history could not be read: {known}")
                continue
            results.digests[trial.id] = known
            if known.missing:
                due = int(results.table["steps"][trial.id]) // trial.spec["tracking"]["every"]
                results.problems.append(f"trial {trial.id}: its history lacks {known.missing:,} of {due:,} steps")
            if not known.ended:
                results.problems.append(f"trial {trial.id}: its history does not have the last step")
    results.table["open"] = pd.Series(
        {name: known.rows - known.certified - known.nonfinite for name, known in results.digests.items()},
        dtype=np.float64,
    )
    for suffix in results.suffixes[1:]:
        results.table[f"average_rank@{suffix}"] = pd.Series(
            {name: known.last[suffix] for name, known in results.digests.items()}, dtype=np.float64
        )


def _digest(results: Results, storage: Storage, trial: TrialRecord, bins: int) -> Digest | Exception:
    steps, every = int((trial.result or {}).get("steps", 0)), trial.spec["tracking"]["every"]
    try:
        storage.fetch(trial.id)
        tables = histories.tables(history_parts(results.history(trial.id)), columns(results.suffixes))
        return digest(tables, results.suffixes, steps, every=every, bins=bins)
    except (fastrank.HistoryError, OSError) as error:
        return error


def _varying(trials: list[TrialRecord]) -> list[str]:
    return [axis for axis in AXES if len({trial.spec[axis] for trial in trials}) > 1]


def _shown(varying: list[str]) -> tuple[str, str]:
    order = [*varying, *(axis for axis in ("batch_size", "weight_decay", "lr") if axis not in varying)]
    return order[0], order[1]


def _table(trials: list[TrialRecord], classes: int) -> pd.DataFrame:
    varying = _varying(trials)
    rest = [axis for axis in varying if axis not in _shown(varying)]
    table = pd.DataFrame([_row(trial, rest, classes) for trial in trials]).set_index("trial")
    return table.astype(dict.fromkeys([*MEASURED, "seconds"], np.float64))


def _row(trial: TrialRecord, rest: list[str], classes: int) -> dict[str, Any]:
    spec, measured = trial.spec, trial.result or {}
    accuracy = measured.get("test_accuracy")
    return {
        "trial": trial.id,
        "model": spec["model"]["name"],
        "data": spec["data"]["name"],
        **{key: spec[key] for key in (*AXES, "seed", "epochs")},
        **{key: measured.get(key) for key in MEASURED},
        "seconds": trial.seconds,
        "status": str(trial.status),
        "facet": said(spec, *rest),
        "pull": spec["lr"] * spec["weight_decay"] / spec["batch_size"],
        "collapsed": trial.status is Status.DONE and accuracy is not None and accuracy < collapse(classes),
    }
