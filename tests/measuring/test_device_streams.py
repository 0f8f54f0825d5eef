"""Values of several devices meet on one of them, in the order that streams have, so that the host need not wait."""

from __future__ import annotations

import torch

from fastrank import Tolerance, testing
from fastrank.measuring import by_device, devices, home_of
from fastrank.measuring.devices import Measurer
from fastrank.streams import OwnStream
from fastrank.weights import Source

HERE, AWAY = torch.device("cpu"), torch.device("cpu", 0)  # equal for PyTorch's work, and different as keys


def test_rows_are_on_the_first_cuda_device_if_there_is_one(monkeypatch):
    """To which values of the others are copied without a wait of the host."""
    first, second = torch.device("cuda", 1), torch.device("cuda", 0)
    matrices = [torch.ones(2, 3) for _ in range(4)]
    sources = [Source(matrix, matrix) for matrix in matrices]
    for places, home, indices in (
        ((HERE, first, second, first), first, {HERE: [0], first: [1, 3], second: [2]}),
        ((HERE,) * 4, HERE, {HERE: [0, 1, 2, 3]}),
    ):
        said = dict(zip(map(id, matrices), places, strict=True))
        monkeypatch.setattr(devices, "place_of", lambda matrix, said=said: said[id(matrix)])
        assert home_of(sources) == home
        assert by_device(sources) == indices


def test_streams_of_all_devices_follow_and_are_joined(monkeypatch):
    """In this order: join, measure, fork, and then a copy that is made while both own streams are current."""
    monkeypatch.setattr(devices, "place_of", lambda matrix: AWAY if matrix.shape[0] == 7 else HERE)
    told = []
    for name in ("fork", "join", "current"):
        stock = getattr(OwnStream, name)

        def tell(self, name=name, stock=stock):
            told.append((name, str(self._device)))
            return stock(self)

        monkeypatch.setattr(OwnStream, name, tell)
    stock = devices.bring
    monkeypatch.setattr(devices, "bring", lambda x, device: (told.append(("bring", str(device))), stock(x, device))[1])
    matrices = [testing.make("identity", 6 + i, 5).matrix for i in range(2)]
    measurer = Measurer([Tolerance()], [], HERE, OwnStream(HERE))
    sources = [Source(matrix, matrix) for matrix in matrices]
    measurer.measure(sources, False)
    told.clear()
    measurer.measure(sources, False)
    assert set(told[:2]) == {("join", "cpu"), ("join", "cpu:0")}
    forked = told.index(("fork", "cpu"))
    assert {call for call in told if call[0] == "fork"} == {("fork", "cpu"), ("fork", "cpu:0")}
    here, there, copied = ("current", "cpu"), ("current", "cpu:0"), ("bring", "cpu")
    assert told[-5:] == [here, here, copied, there, copied]
    assert forked < len(told) - 5
    told.clear()
    measurer.measure(sources, True)
    assert not any(name == "fork" for name, _ in told), "a whole spectrum is computed on the training's own stream"
