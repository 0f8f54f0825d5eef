"""What Weights & Biases keeps on disk when it is offline, and that it then asks nobody."""

import json
import socket
import struct
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fastrank.experiments.sinks.sink import SinkError, open_sinks
from fastrank.experiments.sinks.tracker import read_sweep, settings

pytestmark = pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
BLOCK, HEADER = 32768, 7  # bytes; of a block of its log, and of the head of file and record


@pytest.fixture(autouse=True)
def _nobodys_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import wandb

    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "WANDB_CONFIG_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    wandb.teardown()  # it reads the environment once
    yield
    wandb.teardown()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Where a request would go."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{listening.getsockname()[1]}")
        yield listening


def records(file: Path) -> Iterator[Any]:
    """The records of a run's log: blocks of records, which may be parts of a longer one."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, whole = file.read_bytes(), HEADER, b""
    while at + HEADER <= len(content):
        if (left := BLOCK - at % BLOCK) < HEADER:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + HEADER])
        at += HEADER + length
        whole += content[at - length : at]
        if kind in (1, 4):  # all of a record, or its last part
            yield Record.FromString(whole)
            whole = b""


def test_two_trials_at_a_time(
    trained: Any,
    session: Callable[..., None],
    printed: Callable[[], str],
    server: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    repeated = {name: [*events[:2], events[1], *events[2:]] for name, events in trained.told.items()}
    session("wandb", repeated)
    assert wandb.run is None
    with pytest.raises(BlockingIOError):
        server.accept()
    assert "Weights & Biases: group small, offline, to be sent by 'wandb sync'" in printed()

    key = read_sweep(trained.folder).key
    for trial in trained.trials:
        (file,) = trained.folder.glob(f"wandb/offline-run-*/run-{trial.id}-{key}.wandb")
        assert len(list(file.parent.glob("files/media/images/**/*.png"))) == 1
        found = list(records(file))
        run = next(record.run for record in found if record.HasField("run"))
        assert (run.run_id, run.display_name) == (f"{trial.id}-{key}", trial.id)
        assert (run.project, run.run_group) == ("theirs", "small")
        config = {item.key: json.loads(item.value_json) for item in run.config.update}
        assert {name: config[name] for name in settings(trial)} == settings(trial)
        rows = [{item.key or item.nested_key[0]: item.value_json for item in r.history.item} for r in found]
        points = [(int(row["_step"]), json.loads(row["loss/train"])) for row in rows if "loss/train" in row]
        assert points == [(event.epoch, event.train_loss) for event in trained.told[trial.id][:-1]]
        assert [int(row["_step"]) for row in rows if "rank/by_matrix" in row] == [3]
        summary = {
            item.key or item.nested_key[0]: json.loads(item.value_json) for r in found for item in r.summary.update
        }
        finished = trained.told[trial.id][-1]
        assert (summary["status"], summary["seconds"]) == ("done", finished.seconds)
        assert summary["accuracy/train"] == finished.result["train_accuracy"]
        assert [record.exit.exit_code for record in found if record.HasField("exit")] == [0]


def test_without_a_key_nobody_is_asked_for_one(trained: Any, console: Console, server: socket.socket) -> None:
    with (
        pytest.raises(SinkError, match="--log wandb: there is no API key: run 'wandb login' once, or set"),
        open_sinks(["wandb"], trained.folder, console),
    ):
        pass
    with pytest.raises(BlockingIOError):
        server.accept()


def test_a_key_is_not_tried_before_there_is_anything_to_send(
    trained: Any, console: Console, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    with open_sinks(["wandb"], trained.folder, console) as found:
        assert len(found) == 1
    with pytest.raises(BlockingIOError):
        server.accept()
