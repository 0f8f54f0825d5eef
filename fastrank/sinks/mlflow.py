"""MLflow: points in the loop's run or in one of their own. Which run is active is never changed."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cached_property
from importlib.util import find_spec
from time import time
from typing import Any

from .missing import needs

EXPERIMENT = "fastrank"
AT_ONCE = 1000  # points that MLflow takes in one request


class MLflow:
    """A sink that adds points to the run that the loop has active at the first point, or else to a new run.

    A point that the run has already, of the same curve and step, is left out: MLflow would keep both. In the names of
    curves ``[q]`` is written ``.q``, and what else MLflow does not take as ``_``.

    Args:
        run_id: the run (default: the one that is active, in the thread of the loop, at the first point; or else a new
            one). A run that is given or active is left open at `close`; a new one is ended.
        experiment: name of the experiment of a new run (default: the one that MLflow's environment names, or else
            ``fastrank``). It is made if it does not exist.

    Raises:
        ImportError: mlflow, or what it reads a database with, is not installed.
    """

    title = "MLflow"

    def __init__(self, run_id: str | None = None, *, experiment: str | None = None) -> None:
        self.check()
        self._run, self._experiment = run_id, experiment
        self._opened = False
        self._steps: dict[str, set[int]] = {}  # by curve, the steps that the run has of it

    @staticmethod
    def check() -> None:
        """Raise ImportError where mlflow is not installed, or what it reads a database with where that is its store."""
        with needs("mlflow"):
            from mlflow import get_tracking_uri

            if get_tracking_uri().startswith(("sqlite", "postgresql", "mysql", "mssql")):
                for package in ("sqlalchemy", "alembic"):
                    if find_spec(package) is None:
                        raise ModuleNotFoundError(name=package)

    def attach(self) -> None:
        """Take the run that is active in this thread, if there is one and none was given."""
        import mlflow

        active = mlflow.active_run() if self._run is None else None
        if active is not None:
            self._run = active.info.run_id

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve that has none at this step."""
        from mlflow.entities import Metric

        now, run, points = int(1000 * time()), self._open(), []
        for name, value in values.items():
            curve = re.sub(r"[^\w./ -]", "_", name.replace("[", ".").replace("]", ""))
            known = self._known(run, curve)
            if step not in known:
                points.append(Metric(curve, float(value), now, step))
                known.add(step)
        for start in range(0, len(points), AT_ONCE):
            self._client.log_batch(run, metrics=points[start : start + AT_ONCE])

    def close(self) -> None:
        """End a run that was opened here."""
        if self._opened:
            self._client.set_terminated(self._run, "FINISHED")

    @cached_property
    def _client(self) -> Any:
        from mlflow.tracking import MlflowClient

        return MlflowClient()

    @cached_property
    def _before(self) -> Mapping[str, float]:
        """The curves that the run had when it was opened here."""
        return {} if self._opened else self._client.get_run(self._run).data.metrics

    def _open(self) -> str:
        if self._run is None:
            self.attach()
        if self._run is None:
            name = self._experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME")
            number = os.environ.get("MLFLOW_EXPERIMENT_ID") if name is None else None
            self._run = self._client.create_run(number or self._number_of(name or EXPERIMENT)).info.run_id
            self._opened = True
        return self._run

    def _number_of(self, experiment: str) -> str:
        known = self._client.get_experiment_by_name(experiment)
        found: str = known.experiment_id if known else self._client.create_experiment(experiment)
        return found

    def _known(self, run: str, curve: str) -> set[int]:
        if curve not in self._steps:
            earlier = self._client.get_metric_history(run, curve) if curve in self._before else []
            self._steps[curve] = {point.step for point in earlier}
        return self._steps[curve]
