"""What MLflow has in its database, and that which run is active is the loop's business."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from fastrank.sinks import MLflow, Relay, open_sink

MISSING = [package for package in ("mlflow", "sqlalchemy", "alembic") if find_spec(package) is None]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
    pytest.mark.filterwarnings("ignore:The ..noload.. loader:DeprecationWarning"),  # of SQLAlchemy, used by MLflow
]


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    monkeypatch.chdir(tmp_path)
    return MlflowClient()


def points(client: Any, run: str, curve: str) -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in client.get_metric_history(run, curve))


def test_a_run_of_its_own_and_then_the_loops(client: Any) -> None:
    import mlflow

    own: Any = MLflow(experiment="ranks")
    relay = Relay(own)
    for step in (1, 2):
        relay.log(step, {"rank/mean": step / 8, "rank/fc.in_proj_weight[q]": float(step), "rank@0.04/a": 0.0})
    relay.close()
    run = client.get_run(own._run)
    assert (run.info.status, client.get_experiment(run.info.experiment_id).name) == ("FINISHED", "ranks")
    assert set(run.data.metrics) == {"rank/mean", "rank/fc.in_proj_weight.q", "rank_0.04/a"}
    assert points(client, run.info.run_id, "rank/mean") == [(1, 0.125), (2, 0.25)]
    assert mlflow.active_run() is None

    relay = Relay(open_sink("mlflow"))
    with mlflow.start_run() as theirs:  # opened after the relay was made
        relay.log(1, {"rank/mean": 0.5})
        relay.close()
        assert mlflow.active_run().info.run_id == theirs.info.run_id
    with mlflow.start_run(run_id=theirs.info.run_id):  # resumed, a step back
        relay = Relay(open_sink("mlflow"))
        for step in (1, 2):
            relay.log(step, {"rank/mean": 0.5, "rank/new": 0.5})
        relay.close()
    assert points(client, theirs.info.run_id, "rank/mean") == [(1, 0.5), (2, 0.5)]
    assert points(client, theirs.info.run_id, "rank/new") == [(1, 0.5), (2, 0.5)]
