"""MLflow: an experiment for the sweep, a run for each trial. No run is ever the "active" one of the process."""

import logging
import os
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow.entities import Param
from mlflow.tracking import MlflowClient

from fastrank import sinks

from ..trial import Trial
from .tracker import HEAT_MAP, Outcome, Sweep, settings

TRIAL, SWEEP, STATUS = "fastrank.trial", "fastrank.sweep", "fastrank.status"  # tags


class MLflow:
    """A tracker that writes where MLflow would by itself: to ``MLFLOW_TRACKING_URI``, or its default.

    Raises ImportError where that is a database and a package that MLflow needs for one is not installed.
    """

    def __init__(self, sweep: Sweep, say: Callable[[str], None]) -> None:
        sinks.MLflow.check()
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # it would tear the live table
        self._sweep, self._say = sweep, say
        self._runs: dict[str, str] = {}  # by trial, the id of its open run
        self._points: dict[str, sinks.MLflow] = {}  # by trial, what adds points to that
        self._epochs: dict[str, int] = {}  # by trial, its last one

    def epoch(self, trial: Trial, epoch: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve, unless the run has this epoch."""
        self._run(trial)
        self._points[trial.id].log(epoch, values)
        self._epochs[trial.id] = epoch

    def end(self, trial: Trial, outcome: Outcome) -> None:
        """Log the last numbers, the status as a tag and the heat map as an artifact, and end the run."""
        run = self._run(trial)
        epoch = self._epochs.get(trial.id, 0) if outcome.epoch is None else outcome.epoch
        self._points[trial.id].log(epoch, outcome.values)
        self._client.set_tag(run, STATUS, outcome.status)
        if outcome.heat_map is not None:
            with TemporaryDirectory(prefix="fastrank-") as scratch:
                image = Path(scratch, f"{HEAT_MAP.replace('/', '_')}.png")
                image.write_bytes(outcome.heat_map)
                self._client.log_artifact(run, str(image))
        self._client.set_terminated(run, "FAILED" if outcome.status == "failed" else "FINISHED")
        del self._runs[trial.id], self._points[trial.id]

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

    def _run(self, trial: Trial) -> str:
        """The trial's run: the open one, one of an earlier session, or a new one."""
        if trial.id in self._runs:
            return self._runs[trial.id]
        where = f"tags.`{TRIAL}` = '{trial.id}' and tags.`{SWEEP}` = '{self._sweep.key}'"
        earlier = self._client.search_runs([self._experiment], where, max_results=1)
        if earlier:
            run: str = earlier[0].info.run_id
            self._client.update_run(run, status="RUNNING")
        else:
            tags = {TRIAL: trial.id, SWEEP: self._sweep.key}
            run = self._client.create_run(self._experiment, tags=tags, run_name=trial.id).info.run_id
            params = [Param(name, str(value)) for name, value in settings(trial).items()]
            self._client.log_batch(run, params=params)
        self._runs[trial.id], self._points[trial.id] = run, sinks.MLflow(run)
        return run
