"""MLflow: an experiment for the sweep, a run for each trial. No run is ever the "active" one of the process."""

import logging
import os
from collections.abc import Callable, Mapping
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from time import time

from mlflow import get_tracking_uri
from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from ..trial import Trial
from .tracker import HEAT_MAP, Outcome, Sweep, settings

TRIAL, SWEEP, STATUS = "fastrank.trial", "fastrank.sweep", "fastrank.status"  # tags
PROBE = "loss/train"  # a metric that every epoch has


class MLflow:
    """A tracker that writes where MLflow would by itself: to ``MLFLOW_TRACKING_URI``, or its default.

    Raises ModuleNotFoundError where that is a database and a package that MLflow needs for one is not installed.
    """

    def __init__(self, sweep: Sweep, say: Callable[[str], None]) -> None:
        if get_tracking_uri().startswith(("sqlite", "postgresql", "mysql", "mssql")):
            for package in ("sqlalchemy", "alembic"):
                if find_spec(package) is None:
                    raise ModuleNotFoundError(name=package)
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # it would tear the live table
        self._sweep, self._say = sweep, say
        self._runs: dict[str, str] = {}  # by trial, the id of its open run
        self._epochs: dict[str, set[int]] = {}  # by trial, those that its run has already

    def epoch(self, trial: Trial, epoch: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve, unless the run has this epoch: MLflow would keep both points."""
        run = self._run(trial)
        if epoch not in self._epochs[trial.id]:
            self._log(run, epoch, values)
            self._epochs[trial.id].add(epoch)

    def end(self, trial: Trial, outcome: Outcome) -> None:
        """Log the last numbers, the status as a tag and the heat map as an artifact, and end the run."""
        run = self._run(trial)
        epoch = max(self._epochs[trial.id], default=0) if outcome.epoch is None else outcome.epoch
        self._log(run, epoch, outcome.values)
        self._client.set_tag(run, STATUS, outcome.status)
        if outcome.heat_map is not None:
            with TemporaryDirectory(prefix="fastrank-") as scratch:
                image = Path(scratch, f"{HEAT_MAP.replace('/', '_')}.png")
                image.write_bytes(outcome.heat_map)
                self._client.log_artifact(run, str(image))
        self._client.set_terminated(run, "FAILED" if outcome.status == "failed" else "FINISHED")
        del self._runs[trial.id], self._epochs[trial.id]

    def close(self) -> None:
        """Mark open runs as killed, until a later session goes on with them."""
        for run in self._runs.values():
            self._client.set_terminated(run, "KILLED")

    @cached_property
    def _client(self) -> MlflowClient:
        return MlflowClient()

    @cached_property
    def _experiment(self) -> str:
        known = self._client.get_experiment_by_name(self._sweep.name)
        found: str = known.experiment_id if known else self._client.create_experiment(self._sweep.name)
        self._say(f"MLflow: experiment {self._sweep.name}")
        return found

    def _log(self, run: str, epoch: int, values: Mapping[str, float]) -> None:
        now = int(1000 * time())
        self._client.log_batch(run, metrics=[Metric(name, value, now, epoch) for name, value in values.items()])

    def _run(self, trial: Trial) -> str:
        """The trial's run: the open one, one of an earlier session, or a new one."""
        if trial.id in self._runs:
            return self._runs[trial.id]
        where = f"tags.`{TRIAL}` = '{trial.id}' and tags.`{SWEEP}` = '{self._sweep.key}'"
        earlier = self._client.search_runs([self._experiment], where, max_results=1)
        if earlier:
            run: str = earlier[0].info.run_id
            self._client.update_run(run, status="RUNNING")
            self._epochs[trial.id] = {metric.step for metric in self._client.get_metric_history(run, PROBE)}
        else:
            tags = {TRIAL: trial.id, SWEEP: self._sweep.key}
            run = self._client.create_run(self._experiment, tags=tags, run_name=trial.id).info.run_id
            params = [Param(name, str(value)) for name, value in settings(trial).items()]
            self._client.log_batch(run, params=params)
            self._epochs[trial.id] = set()
        self._runs[trial.id] = run
        return run
