"""The Ray engine on a real cluster: two nodes on this machine, one of which is killed with its trials half done."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fastrank
from fastrank.experiments.errors import UserError
from fastrank.experiments.records.layout import Layout
from fastrank.experiments.records.ledger import Ledger, Status
from fastrank.experiments.sweeps.sweep import Options, run_sweep
from fastrank.experiments.training.events import Crashed
from fastrank.experiments.training.job import Job

pytest.importorskip("ray", reason="Ray is an extra")

HERE = Path(__file__).parents[1]
CONFIG: dict[str, Any] = {
    "name": "clustered",
    "epochs": 12,
    "model": {"name": "mlp_bn", "depth": 2, "width": 16},
    "data": {"name": "digits"},
    "grid": {"batch_size": [64], "lr": [0.5], "weight_decay": [0.0, 0.01], "seed": [0, 1]},
}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head that runs nothing, to which nodes are added; ``RAY_ADDRESS`` names it."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(HERE))
    soon = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 3}
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": soon}  # a node is missed within seconds
    cluster = Cluster(initialize_head=True, head_node_args=head)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield cluster
    cluster.shutdown()


def results(folder: Path) -> dict[str, dict[str, Any]]:
    return {record.id: record.result or {} for record in Ledger.open(folder).trials()}


def test_a_node_dies_and_its_trial_goes_on_elsewhere(
    cluster: Any, config_file: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    config, out, killed = config_file(CONFIG), tmp_path / "ray", []

    def kill() -> None:
        """Kill a node once its trial has a checkpoint, and remember whose it was."""
        node = nodes[1]
        while not killed:
            for path in out.glob("*.nodes"):
                if node.node_id in path.read_text() and Layout(out).checkpoint(path.stem).exists():
                    killed.append(path.stem)
                    cluster.remove_node(node, allow_graceful=False)
                    return
            time.sleep(0.02)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    assert run_sweep(config, out, Options(engine="ray", stack=1, function="fake_trials:on_a_node")) == 0
    killer.join(timeout=0)
    records = Ledger.open(out).trials()
    assert {(record.status, record.attempts) for record in records} == {(Status.DONE, 1)}
    begun = (out / f"{killed[0]}.nodes").read_text().split()
    assert begun == [nodes[1].node_id, nodes[0].node_id]
    assert f"trial {killed[0]} goes on elsewhere" in " ".join(capsys.readouterr().out.split())

    local = tmp_path / "local"  # the same ledger, the same results, the same histories
    assert run_sweep(config, local, Options(stack=1, workers=2)) == 0
    assert results(out) == results(local)
    for trial in results(local):
        ours, theirs = (fastrank.read_history(Layout(folder).history(trial)) for folder in (out, local))
        assert ours.equals(theirs)
    assert [p for p in (out / "checkpoints").iterdir() if p.suffix != ".tmp"] == []  # but what was half written


def test_a_cluster_that_is_not_there_is_named(
    config_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(UserError, match=r"RAY_ADDRESS=127\.0\.0\.1:9 cannot be reached"):
        run_sweep(config_file(CONFIG), tmp_path / "out", Options(engine="ray"))


def test_ray_client_is_refused(
    config_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://127.0.0.1:10001")
    with pytest.raises(UserError, match="the cluster's own address, host:port"):
        run_sweep(config_file(CONFIG), tmp_path / "out", Options(engine="ray"))


def test_a_node_that_does_not_see_the_folder_says_so(tmp_path: Path) -> None:
    from fastrank.experiments.engines.ray import _run

    (event,) = _run("fake_trials:quick", Job("t", {}), str(tmp_path), "cpu", None)
    assert isinstance(event, Crashed)
    assert f"{tmp_path}: the node" in event.error
    assert "--storage" in event.error
