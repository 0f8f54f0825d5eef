"""The heat map that trackers get of a trial: the report's own, or none, and never at the price of the numbers."""

import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from fastrank.experiments.records.layout import Layout
from fastrank.experiments.reports.figures import heat_maps
from fastrank.experiments.reports.live_heat_map import draw_heat_map
from fastrank.experiments.reports.results import read_results
from fastrank.sinks import background

PNG = b"\x89PNG"
WITH_TENSORBOARD = pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")


def test_it_is_the_reports_own(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    draw = heat_maps.draw
    monkeypatch.setattr(heat_maps, "draw", lambda *arguments: drawn.append(draw(*arguments)) or drawn[-1])
    for trial in trained.trials:
        assert (draw_heat_map(trained.folder, trial.id) or b"").startswith(PNG)
        theirs = draw(read_results(trained.folder), trial.id)
        assert drawn[-1].data.equals(theirs.data)
        assert drawn[-1].caption == theirs.caption


def test_there_is_none_without_a_history_that_can_be_read(trained: Any, tmp_path: Path) -> None:
    trial = trained.trials[0]
    trained.finish(trained.ledger(tmp_path), trial)
    assert draw_heat_map(tmp_path, trial.id) is None
    part = Layout(tmp_path).history(trial.id) / "part-00000.parquet"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"PAR1")
    assert draw_heat_map(tmp_path, trial.id) is None


def test_a_history_that_is_stored_elsewhere_leaves_no_copy(trained: Any, tmp_path: Path) -> None:
    trial = trained.trials[0]
    trained.finish(trained.ledger(tmp_path, storage=f"file://{trained.folder}"), trial)
    assert (draw_heat_map(tmp_path, trial.id) or b"").startswith(PNG)
    assert not Layout(tmp_path).history(trial.id).exists()


@WITH_TENSORBOARD
def test_one_that_cannot_be_drawn_is_said_once_and_the_numbers_are_kept(
    trained: Any,
    session: Callable[..., None],
    printed: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cannot(folder: Path, trial: str) -> bytes:
        raise ValueError("no ink")

    monkeypatch.setattr("fastrank.experiments.reports.draw_heat_map", cannot)
    session("tensorboard", trained.told)
    assert printed().count("no ink") == 1
    assert "TensorBoard: no heat map of trial" in printed()
    assert "left out" not in printed()


@WITH_TENSORBOARD
def test_a_long_history_is_waited_for(
    trained: Any, session: Callable[..., None], printed: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(folder: Path, trial: str) -> None:
        time.sleep(0.8)

    monkeypatch.setattr("fastrank.experiments.reports.draw_heat_map", slow)
    monkeypatch.setattr(background, "PATIENCE", 0.3)
    trial = trained.trials[0].id
    session("tensorboard", {trial: trained.told[trial][-1:]})
    assert "given up" not in printed()
    assert list((trained.folder / "tensorboard" / trial).iterdir())
