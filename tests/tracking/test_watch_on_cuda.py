"""Watching rows on a CUDA device, which arrive when they arrive; a CPU stands in for it."""

from __future__ import annotations

import pytest
import torch

from fastrank.alerts import below
from fastrank.history import History, Layout, history, ring
from fastrank.tracking.watch import TOGETHER, Watch

COLUMNS = ("rank_lower", "rank_upper", "stable_rank", "spectral_norm", "frobenius_norm", "status")
LAYOUT = Layout(("w",), COLUMNS, False)
CUDA = torch.device("cuda")


class Event:
    """Of a copy to the host that is complete when the test says so."""

    arrived = False

    def query(self):
        return Event.arrived

    def synchronize(self):
        pytest.fail("the host has waited")


@pytest.fixture
def rows(monkeypatch):
    """A history that believes its rows are on a CUDA device."""
    rows = History(LAYOUT, torch.device("cpu"), None, 1000)
    rows._device = CUDA
    monkeypatch.setattr(Event, "arrived", False)
    monkeypatch.setattr(ring, "mark", lambda device: Event())
    monkeypatch.setattr(history, "capturing", lambda device: False)
    monkeypatch.setattr(rows._ring, "drain", lambda *_: pytest.fail("the host has waited"))
    rows.watch(True)
    return rows


def run(rows, watch, steps, rank=8):
    for step in steps:
        rows.append(step, torch.tensor([[rank, rank, 2.0, 1.0, 1.0, 0.0]]), None, ((8, 8),))
        watch.look(rows, step, recorded=True)


def test_rows_are_logged_when_they_have_arrived(rows):
    told = []
    watch = Watch(LAYOUT, [lambda *point: told.append(point)], 10, False, [], on_host=False, looked=0)
    run(rows, watch, range(1, 26))
    Event.arrived = True
    run(rows, watch, range(26, 28))
    watch.close(rows)
    assert [step for step, _ in told] == [1, 10, 20]
    assert told[0][1]["rank/mean"] == 1


def test_few_blocks_are_sent(rows, monkeypatch):
    """One for each row that is logged, not one for each row."""
    sent = []
    send = rows._ring._send
    monkeypatch.setattr(rows._ring, "_send", lambda: (sent.append(1), send()))
    Event.arrived = True
    watch = Watch(LAYOUT, [lambda *point: None], 10, False, [], on_host=False, looked=0)
    run(rows, watch, range(1, 101))
    watch.close(rows)
    assert len(sent) <= 11


def test_alerts_see_every_row_in_blocks(rows):
    seen = []
    Event.arrived = True
    watch = Watch(LAYOUT, [], 1, False, [below(0.5, seen.append)], on_host=False, looked=0)
    run(rows, watch, range(1, 11))
    run(rows, watch, range(11, 12), rank=2)
    run(rows, watch, range(12, TOGETHER + 1))
    assert seen == []
    run(rows, watch, range(TOGETHER + 1, TOGETHER + 3))
    assert [alert.step for alert in seen] == [11]
