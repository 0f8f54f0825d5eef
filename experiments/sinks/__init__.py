"""Where a sweep's numbers go besides its own folder, for those who watch their runs elsewhere."""

from .sink import Sink, open_sinks

__all__ = [
    "Sink",
    "open_sinks",
]
