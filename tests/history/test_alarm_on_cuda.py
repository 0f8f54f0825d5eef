"""The alarm on a CUDA device, which it must not touch; a CPU stands in for it."""

from __future__ import annotations

import pytest
import torch
from full_disk import full_disk
from made_history import make, record, steps_in

from fastrank.history import HistoryWarning, history, ring


class Event:
    """Of a copy to the host that is complete when the test says so."""

    arrived = True

    def query(self):
        return Event.arrived

    synchronize = staticmethod(lambda: None)


@pytest.fixture
def on_cuda(tmp_path, monkeypatch):
    """A history that believes its rows are on a CUDA device, whose copies arrive when `Event.arrived` is set."""
    rows = make(tmp_path, rows_per_part=1000)
    rows._device = torch.device("cuda")
    monkeypatch.setattr(Event, "arrived", False)
    monkeypatch.setattr(ring, "mark", lambda device: Event())
    monkeypatch.setattr(history, "capturing", lambda device: False)
    return rows


def test_the_alarm_leaves_the_device_alone(on_cuda, tmp_path, monkeypatch):
    """It writes what is on the host. The next row sends the others, and the first one after their arrival has them
    written."""
    record(on_cuda, 1, 2)
    with monkeypatch.context() as patch:
        for name in ("drain", "collect", "_send"):
            patch.setattr(on_cuda._ring, name, lambda *_: pytest.fail("the device was touched"))
        on_cuda._on_alarm()
    assert steps_in(tmp_path) == []
    record(on_cuda, 3, 4)
    assert steps_in(tmp_path) == []
    with monkeypatch.context() as patch:
        patch.setattr(history, "capturing", lambda device: True)
        patch.setattr(ring, "capturing", lambda device: True)
        patch.setattr(on_cuda._ring, "collect", lambda *_: pytest.fail("an event was asked in a capture"))
        patch.setattr(on_cuda._ring, "_write", lambda *_, counted: None)
        Event.arrived = True
        record(on_cuda, 6)
    record(on_cuda, 5)
    assert steps_in(tmp_path) == [1, 2, 3]
    assert len(on_cuda._pending.blocks) == 1, "one block was sent, not one at every row"
    on_cuda._on_alarm()
    on_cuda.last()
    with monkeypatch.context() as patch:
        patch.setattr(on_cuda._ring, "drain", lambda *_: pytest.fail("the device was touched"))
        on_cuda._on_alarm()
    assert steps_in(tmp_path) == [1, 2, 3, 4, 5]


def test_a_replay_is_as_good_as_a_row(on_cuda, tmp_path):
    on_cuda._ring._longest = 1
    record(on_cuda, 1)
    on_cuda._on_alarm()
    Event.arrived = True
    on_cuda._ring._write(torch.tensor(2), torch.full((2, 1), 2.0), 0)
    on_cuda.replayed(1)
    assert steps_in(tmp_path) == [1, 2]


def test_a_full_disk_is_not_tried_at_every_row(on_cuda, tmp_path):
    record(on_cuda, *range(1, 200))
    on_cuda._on_alarm()
    Event.arrived = True
    with full_disk():
        with pytest.warns(HistoryWarning, match="kept in memory"):
            record(on_cuda, 200)
        record(on_cuda, 201)
    on_cuda.close()
    assert steps_in(tmp_path) == list(range(1, 202))
