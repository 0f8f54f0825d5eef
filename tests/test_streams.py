"""The tracker's own stream: who waits for whom. A log of PyTorch's calls stands for a CUDA device."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from fastrank import streams
from fastrank.streams import OwnStream


class Device:
    """A device with streams as lists of what runs on them; a wait is written as ("wait", stream, how much of it)."""

    def __init__(self, monkeypatch):
        self.training, self.capturing = Stream("training"), False
        self.now = self.training
        monkeypatch.setattr(streams, "capturing", lambda device: self.capturing)
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("own"))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self.now)
        monkeypatch.setattr(torch.cuda, "stream", self.entered)

    @contextmanager
    def entered(self, stream):
        before, self.now = self.now, stream
        yield
        self.now = before

    def launch(self, what):
        self.now.log.append(what)


class Stream:
    def __init__(self, name):
        self.name, self.log = name, []

    def wait_stream(self, other):
        self.log.append(("wait", other.name, len(other.log)))


@pytest.fixture
def device(monkeypatch):
    return Device(monkeypatch)


@pytest.fixture
def own(device, monkeypatch):
    """It may outlive the device of its test, and then has nobody to tell of its end."""
    monkeypatch.setattr(streams.weakref, "finalize", lambda *_: SimpleNamespace())
    return OwnStream(torch.device("cuda"))


def test_work_runs_after_the_step_and_before_the_next_one(device, own):
    device.launch("step 1")
    own.fork()
    with own.current():
        device.launch("rest of 1")
        stream = device.now
    device.launch("forward 2")
    own.join()
    device.launch("step 2")
    assert stream.log == [("wait", "training", 1), "rest of 1"]
    assert device.training.log == ["step 1", "forward 2", ("wait", "own", 2), "step 2"]


def test_after_a_join_work_is_on_the_trainings_stream_until_the_next_fork(device, own):
    own.fork()
    own.join()
    with own.current():
        assert device.now is device.training
    own.join()
    assert device.training.log == [("wait", "own", 1)]  # once


def test_whoever_reads_waits_and_does_not_end_the_fork(device, own):
    own.fork()
    own.wait()
    with own.current():
        assert device.now is not device.training
        own.follow()  # what the reader has launched
        assert device.now.log == [("wait", "training", 0), ("wait", "training", 1)]
    own.join()
    assert len(device.training.log) == 2
    own.wait()  # there may be another reader, on another stream
    assert len(device.training.log) == 3


def test_nothing_is_forked_in_a_capture_nor_ever_after_it(device, own):
    own.fork()
    own.join()
    device.capturing = True
    own.fork()
    with own.current():
        assert device.now is device.training
    own.wait()
    device.capturing = False
    own.fork()
    with own.current():
        assert device.now is device.training
    assert device.training.log == [("wait", "own", 1)]


def test_a_cpu_has_none(device):
    own = OwnStream(torch.device("cpu"))
    own.fork()
    with own.current():
        assert device.now is device.training
    own.follow()
    own.join()
    own.wait()
    assert device.training.log == []


def test_what_a_capture_cannot_wait_for_is_waited_for_after_it(device, own):
    """And nothing is forked any more, though no one has asked for it in the capture."""
    own.fork()
    device.capturing = True
    own.join()
    device.capturing = False
    assert device.training.log == []
    own.join()
    assert device.training.log == [("wait", "own", 1)]
    own.fork()
    with own.current():
        assert device.now is device.training


def test_when_it_goes_the_next_launches_wait(device):
    """They may be given the memory that its own launches write."""
    own = OwnStream(torch.device("cuda"))
    own.fork()
    del own
    gc.collect()
    assert device.training.log == [("wait", "own", 1)]
