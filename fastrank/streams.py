"""OwnStream: a CUDA stream beside the training's, for work that follows a step and reads no weights any more."""

from __future__ import annotations

import weakref
from contextlib import AbstractContextManager, nullcontext

import torch

from .device import capturing


class OwnStream:
    """Launches run on it beside what the training launches next, the forward pass of the next step.

        stream.fork()               launches on it run after all that has been launched on the training's stream
        with stream.current():      launches go to it, until `join`
            ...
        stream.join()               what the training launches from now on runs after them

    Whatever these launches read or write has to be left alone until `join`. Hence it is memory that lasts, and never a
    weight, because anybody may write into a weight. On a CPU, while a CUDA graph is captured, and ever after that,
    there is no own stream: the launches of a graph have to return to the training's stream before its capture ends, and
    nobody calls `join` before a replay.

    Args:
        device: where the work is.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._own: torch.cuda.Stream | None = None
        self._training: torch.cuda.Stream | None = None  # on which `fork` was called; None after `join`
        self._owing = False  # whether a `join` was called in a capture, in which nothing can be waited for
        self._allowed = device.type == "cuda"

    def fork(self) -> None:
        """Begin: `current` gives the own stream until `join`."""
        self._allowed = self._allowed and not capturing(self._device)
        if self._allowed:
            if self._own is None:
                self._own = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
                # Memory that its launches write may be given to others when this object goes.
                weakref.finalize(self, _wait, self._device, self._own).atexit = False
            self._training = torch.cuda.current_stream(self._device)
            self.follow()

    def follow(self) -> None:
        """After a `fork`: have the own stream wait once more, for what has been launched meanwhile, maybe by another
        thread that read what is on the device."""
        if self._training is not None:
            assert self._own is not None
            self._own.wait_stream(self._training)

    def current(self) -> AbstractContextManager[object]:
        """Make the own stream the current one after a `fork`; else change nothing."""
        return nullcontext() if self._training is None else torch.cuda.stream(self._own)

    def join(self) -> None:
        """End: the training's stream waits for what runs on the own one. The host waits for nothing."""
        if capturing(self._device):
            self._allowed, self._owing = False, self._owing or self._training is not None
        elif self._training is not None or self._owing:
            self.wait()
            self._owing = False
        self._training = None

    def wait(self) -> None:
        """Have the current stream, of any thread, wait for what runs on the own one, before it reads what that
        writes."""
        if self._own is not None:
            _wait(self._device, self._own)


def _wait(device: torch.device, stream: torch.cuda.Stream) -> None:
    if not capturing(device):
        torch.cuda.current_stream(device).wait_stream(stream)
