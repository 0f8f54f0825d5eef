"""Relay: what stands between a training loop and a sink, so that the sink never disturbs the loop."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from ..callers import users_stacklevel
from .background import Background

NOTHING_LOST = "Nothing is lost: the history has every row"


@runtime_checkable
class Sink(Protocol):
    """Keeps points of curves, or sends them to where people look at them.

    A sink may also have `title`, what people call it, and `attach()`: `Relay` calls that before the first point, in the
    thread of the loop, so that the sink can find the run which the loop's thread has open. It has to be quick.
    """

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point at `step` to the curve of each name in `values`."""

    def close(self) -> None:
        """Nothing more comes."""


class SinkWarning(UserWarning):
    """A sink has failed or does not answer. It is left out, and training goes on."""


class Relay:
    """Tells a sink all points, in order, in a thread of its own. After the sink's first error there is one warning, and
    the sink is left out.

    Args:
        sink: any object with `log(step, values)` and `close()`. Nobody else may use it meanwhile.
        title: what people call it (default: its `title`, or the name of its class).

    The warning of an error comes from the next `log`, or from `close`: in the thread of the loop.
    """

    def __init__(self, sink: Sink, title: str | None = None) -> None:
        self._sink = sink
        named = title or str(getattr(sink, "title", type(sink).__name__))
        self._background = Background(named, sink.close, self._warn, NOTHING_LOST)
        self._attach = getattr(sink, "attach", None)
        # A loop that ends without `close`, again and again in a notebook, shall not leave a thread behind each time.
        weakref.finalize(self, self._background.leave).atexit = False

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Have the sink told; returns at once. An empty `values` is no point."""
        if values:
            if self._attach is not None:
                attach, self._attach = self._attach, None
                try:
                    attach()
                except Exception as error:
                    self._background.call(_fail, error)
            self._background.call(self._sink.log, int(step), dict(values))

    def close(self) -> None:
        """Wait until the sink has been told everything and is closed, or for a minute without any progress."""
        self._background.close()

    @staticmethod
    def _warn(message: str) -> None:
        warnings.warn(message, SinkWarning, stacklevel=users_stacklevel())


def _fail(error: Exception) -> None:
    raise error
