"""What TensorBoard reads back from the event files."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from fastrank.sinks import Relay, TensorBoard, open_sink

pytestmark = pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")


def points(folder: Path, tag: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return [(event.step, event.value) for event in EventAccumulator(str(folder)).Reload().Scalars(tag)]


def test_points_are_read_back(tmp_path: Path) -> None:
    sink = TensorBoard(tmp_path / "new" / "folder")
    for step in (1, 2, 5):
        sink.log(step, {"rank/mean": step / 8, "rank/fc.weight[q]": float(step)})
    sink.close()
    assert points(sink.directory, "rank/mean") == [(1, 0.125), (2, 0.25), (5, 0.625)]
    assert points(sink.directory, "rank/fc.weight[q]") == [(1, 1), (2, 2), (5, 5)]


def test_a_resumed_run_has_no_point_twice(tmp_path: Path) -> None:
    for steps in ((1, 2, 3, 4), (3, 4, 5)):  # the second process resumes from a checkpoint of step 2
        relay = Relay(TensorBoard(tmp_path))
        for step in steps:
            relay.log(step, {"rank/mean": 0.5})
        relay.close()
    assert [step for step, _ in points(tmp_path, "rank/mean")] == [1, 2, 3, 4, 5]


def test_a_run_that_goes_back_has_what_came_last(tmp_path: Path) -> None:
    sink = TensorBoard(tmp_path)
    for step, value in ((1, 0.0), (2, 0.0), (3, 0.0), (2, 1.0), (3, 1.0), (4, 1.0)):
        sink.log(step, {"rank/mean": value})
    assert points(tmp_path, "rank/mean") == [(1, 0), (2, 1), (3, 1), (4, 1)]


def test_an_alert_that_comes_late_costs_no_point(tmp_path: Path) -> None:
    sink = TensorBoard(tmp_path)
    sink.log(10, {"rank/mean": 0.5})
    sink.log(7, {"alert/below_0.1/fc": 1.0})
    sink.log(20, {"rank/mean": 0.25})
    assert points(tmp_path, "rank/mean") == [(10, 0.5), (20, 0.25)]
    assert points(tmp_path, "alert/below_0.1/fc") == [(7, 1)]


def test_a_folder_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_scalar("loss", 1.0, 5)
        with pytest.raises(ValueError, match=r"has another program's event files; give a folder of its own, such as"):
            TensorBoard(tmp_path)
        relay = Relay(open_sink(writer))  # the cure
        relay.log(3, {"rank/mean": 0.5})
        relay.close()
    assert (points(tmp_path, "loss"), points(tmp_path, "rank/mean")) == ([(5, 1)], [(3, 0.5)])


def test_a_name_makes_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sink: Any = open_sink("tensorboard")
    assert not Path("runs").exists()  # before there is a point
    sink.log(1, {"rank/mean": 0.5})
    (folder,) = Path("runs").iterdir()
    assert folder.name.endswith("-fastrank")
    assert points(folder, "rank/mean") == [(1, 0.5)]
