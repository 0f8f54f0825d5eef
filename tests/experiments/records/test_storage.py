"""A sweep whose histories and checkpoints are kept elsewhere than its ledger."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fastrank
from fastrank.experiments.engines.execute import execute
from fastrank.experiments.errors import UsageError
from fastrank.experiments.records.layout import Layout
from fastrank.experiments.records.ledger import Ledger, Status
from fastrank.experiments.records.storage import Place, Storage, StorageError, absolute, check_scheme
from fastrank.experiments.reports.results import read_results
from fastrank.experiments.sweeps.sweep import Options, run_sweep
from fastrank.experiments.training.events import EpochEnd
from fastrank.experiments.training.job import Job, run
from fastrank.experiments.trial import Trial

CONFIG: dict[str, Any] = {
    "name": "stored",
    "epochs": 3,
    "model": {"name": "mlp_bn", "depth": 2, "width": 16},
    "data": {"name": "digits"},
    "grid": {"batch_size": [64, 128], "lr": [0.5], "weight_decay": [0.01], "seed": [0, 1]},
}
SPEC: dict[str, Any] = {
    **{key: CONFIG[key] for key in ("epochs", "model", "data")},
    **{"batch_size": 64, "lr": 0.5, "weight_decay": 0.01, "momentum": 0.0, "seed": 0, "tracking": {}},
}


def test_what_is_stored_elsewhere_is_what_is_stored_here(config_file: Callable[..., Path], tmp_path: Path) -> None:
    """Two stacks and no difference: the histories are there, fetched on demand, and nothing else is left."""
    config, away = config_file(CONFIG), tmp_path / "bucket"
    assert run_sweep(config, tmp_path / "here", Options(workers=1)) == 0
    assert run_sweep(config, tmp_path / "there", Options(workers=1, storage=away.as_uri())) == 0
    trials = [record.id for record in Ledger.open(tmp_path / "there").trials()]
    assert not (tmp_path / "there" / "history").exists()
    assert sorted(path.name for path in (away / "history").iterdir()) == sorted(trials)
    assert list((away / "checkpoints").iterdir()) == []
    results = read_results(tmp_path / "there")
    assert (len(results.digests), results.problems) == (4, [])
    for trial in trials:
        one, two = (fastrank.read_history(Layout(tmp_path / name).history(trial)) for name in ("here", "there"))
        assert one.equals(two)
    assert {record.status for record in Ledger.open(tmp_path / "there").trials()} == {Status.DONE}


def test_half_a_history_is_never_taken_for_a_whole_one(
    config_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fetching is interrupted once; then one history is not there at all."""
    away, folder = tmp_path / "bucket", tmp_path / "run"
    assert run_sweep(config_file(CONFIG), folder, Options(workers=1, storage=away.as_uri())) == 0
    whole = Place.pull

    def interrupted(place: Place, remote: str, local: Path) -> None:
        whole(place, remote, local)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Place, "pull", interrupted)
        with pytest.raises(KeyboardInterrupt):
            read_results(folder)
    lost = next((away / "history").iterdir())
    shutil.rmtree(lost)
    results = read_results(folder)
    assert len(results.digests) == 3
    assert results.problems == [
        f"trial {lost.name}: its history could not be read: {away.as_uri()}: the history of {lost.name} is not there"
    ]

    def unreachable(place: Place, remote: str, local: Path) -> None:
        raise TimeoutError("the network is down")

    monkeypatch.setattr(Place, "pull", unreachable)
    with pytest.raises(StorageError, match="cannot be fetched: the network is down"):
        read_results(folder)


@pytest.mark.parametrize("stacked", [False, True])
def test_another_machine_goes_on_where_one_was_lost(tmp_path: Path, stacked: bool) -> None:
    trials = [Trial.model_validate(SPEC | {"seed": seed}) for seed in range(1 + stacked)]
    job = Job("stack-0" if stacked else trials[0].id, {trial.id: trial.spec for trial in trials})
    url, epochs = (tmp_path / "bucket").as_uri(), []
    for event in execute(run, job, tmp_path, "cpu", url):
        if isinstance(event, EpochEnd) and event.epoch == 2:
            break
    for event in execute(run, job, tmp_path, "cpu", url):
        if isinstance(event, EpochEnd):
            epochs.append(event.epoch)
    assert set(epochs) == {3}
    for trial in trials:
        history = fastrank.read_history(tmp_path / "bucket" / "history" / trial.id)
        assert sorted(set(history["step"].to_pylist())) == list(range(1, trial.steps + 1))
    assert [path.name for path in tmp_path.iterdir()] == ["bucket"]  # nothing in the sweep's own folder


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    for url in ("nosuchscheme://bucket/run", (tmp_path / "file" / "run").as_uri()):
        (tmp_path / "file").touch()
        with pytest.raises(StorageError, match=r"--storage .* cannot be written") as caught:
            Storage(url, Layout(tmp_path))
        assert url in str(caught.value)


NAMES = ["my rüns", "run #1", "100%", "100%20", "a::b", "[x]*?", "a&b;c", "日本"]


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_may_have_any_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative to the user's folder, absolute, and after `file://`: always the folder of this name, and no other."""
    monkeypatch.chdir(tmp_path)
    local = tmp_path / "local"
    local.mkdir()
    (local / "part-00000.parquet").write_bytes(b"one")
    urls = {absolute(name), absolute(str(tmp_path / name)), absolute(f"file://{tmp_path / name}")}
    assert len(urls) == 1
    place = Place(str(urls.pop()))
    monkeypatch.chdir(local)  # a worker stands elsewhere
    place.push(local, place.history("t"))
    place.push_file(local / "part-00000.parquet", place.checkpoint("t"))
    assert (tmp_path / name / "history" / "t" / "part-00000.parquet").read_bytes() == b"one"
    assert (tmp_path / name / "checkpoints" / "t.pt").exists()
    place.pull(place.history("t"), tmp_path / "back")
    assert (tmp_path / "back" / "part-00000.parquet").read_bytes() == b"one"
    place.remove(place.history("t"))
    place.remove(place.checkpoint("t"))
    assert [path for path in (tmp_path / name).rglob("*") if path.is_file()] == []
    assert {path.name for path in tmp_path.iterdir()} == {name, "local", "back"}


def test_a_sweep_in_a_folder_of_an_odd_name_stored_in_another(config_file: Callable[..., Path], tmp_path: Path) -> None:
    out, away = tmp_path / "out #1 ü", tmp_path / "100% my rüns"
    small = CONFIG | {"grid": CONFIG["grid"] | {"batch_size": [128], "seed": [0]}, "epochs": 1}
    assert run_sweep(config_file(small), out, Options(workers=1, storage=str(away))) == 0
    assert sorted(path.name for path in away.iterdir()) == ["checkpoints", "history"]
    assert len(read_results(out).digests) == 1
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {out.name, away.name}


def test_a_place_that_cannot_be_used_is_not_written_into_the_ledger(
    config_file: Callable[..., Path], tmp_path: Path
) -> None:
    """Otherwise the next try, with another place, would be that of another sweep."""
    (tmp_path / "file").touch()
    config, out = config_file(CONFIG), tmp_path / "out"
    with pytest.raises(StorageError, match="cannot be written"):
        run_sweep(config, out, Options(storage=str(tmp_path / "file" / "run")))
    assert not Layout(out).ledger.exists()


def test_schemes_are_known_before_anything_is_opened(tmp_path: Path) -> None:
    for url in (None, str(tmp_path), "a::b", "memory://x", "simplecache::memory://x", "file:///no/such/folder"):
        check_scheme(url)
    for url in ("nosuch://x", "simplecache::nosuch://x", "nosuch::memory://x"):
        with pytest.raises(UsageError, match=f"--storage {url}: cannot be used: .*nosuch"):
            check_scheme(url)


def test_only_what_is_new_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, local, copied = Place((tmp_path / "away").as_uri()), tmp_path / "local", []
    local.mkdir()
    push_file = Place.push_file
    monkeypatch.setattr(Place, "push_file", lambda self, a, b: (copied.append(a.name), push_file(self, a, b)))
    (local / "part-00000.parquet").write_bytes(b"one")
    place.push(local, place.history("t"))
    (local / "part-00001.parquet").write_bytes(b"two")
    place.push(local, place.history("t"))
    assert copied == ["part-00000.parquet", "part-00001.parquet"]
    (local / "part-00001.parquet").unlink()  # a resumed trial has dropped it
    place.push(local, place.history("t"))
    place.pull(place.history("t"), tmp_path / "back")
    assert [path.name for path in (tmp_path / "back").iterdir()] == ["part-00000.parquet"]
