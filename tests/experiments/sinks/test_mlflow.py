"""What MLflow has in its database."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fastrank.experiments.sinks.sink import SinkError, open_sinks
from fastrank.experiments.sinks.tracker import read_sweep, settings

MISSING = [package for package in ("mlflow", "sqlalchemy", "alembic") if find_spec(package) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")


@pytest.fixture(autouse=True)
def _database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    monkeypatch.chdir(tmp_path)  # artifacts of a local database go to ./mlruns


@pytest.mark.filterwarnings("ignore:The ..noload.. loader:DeprecationWarning")  # of SQLAlchemy, used by MLflow
def test_two_trials_one_of_them_in_two_sessions(trained: Any, session: Callable[..., None]) -> None:
    first, second = (trained.told[trial.id] for trial in trained.trials)
    ids = [trial.id for trial in trained.trials]
    session("mlflow", {ids[0]: first[:2], ids[1]: second})

    from mlflow.tracking import MlflowClient

    from fastrank.experiments.sinks.mlflow import MLflow

    client = MlflowClient()
    experiment = client.get_experiment_by_name("small").experiment_id
    states = {run.info.run_name: run.info.status for run in client.search_runs([experiment])}
    assert states == {ids[0]: "KILLED", ids[1]: "FINISHED"}

    tracker = MLflow(read_sweep(trained.folder), print)
    tracker.epoch(trained.trials[0], 2, {"loss/train": first[1].train_loss})  # the second epoch once more
    assert {run.info.status for run in client.search_runs([experiment])} == {"RUNNING", "FINISHED"}
    tracker.close()

    session("mlflow", {ids[0]: first[1:]})
    runs = client.search_runs([experiment])
    assert {run.info.run_name for run in runs} == set(ids)
    assert len(runs) == 2
    for run in runs:
        name = run.info.run_id
        trial = next(trial for trial in trained.trials if trial.id == run.info.run_name)
        *epochs, finished = trained.told[trial.id]
        assert run.info.status == "FINISHED"
        assert run.data.tags["fastrank.status"] == "done"
        assert run.data.params == {key: str(value) for key, value in settings(trial).items()}
        history = sorted((point.step, point.value) for point in client.get_metric_history(name, "rank/average"))
        assert history == [(event.epoch, event.average_rank) for event in epochs]
        assert run.data.metrics["accuracy/train"] == finished.result["train_accuracy"]
        assert run.data.metrics["seconds"] == finished.seconds
        assert [file.path for file in client.list_artifacts(name)] == ["rank_by_matrix.png"]
        assert Path(client.download_artifacts(name, "rank_by_matrix.png")).read_bytes().startswith(b"\x89PNG")


def test_what_mlflow_reads_a_database_with_is_named_where_it_lacks(
    trained: Any, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastrank.sinks import mlflow

    monkeypatch.setattr(mlflow, "find_spec", lambda name: None if name == "alembic" else find_spec(name))
    with (
        pytest.raises(SinkError, match=r"--log mlflow: needs alembic, .*: pip install 'fastrank\[mlflow\]'"),
        open_sinks(["mlflow"], trained.folder, console),
    ):
        pass
