"""TensorBoard: event files in a folder."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .missing import needs

OWN = re.compile(
    r"events\.out\.tfevents\.\d+\.\d{6}\."
)  # begins the names of files that are written here, and of no others


class TensorBoard:
    """A sink that writes event files. A file is open only while something is written to it.

    Args:
        directory: folder of the event files, made if missing. A later process that gives the same folder continues its
            curves: where they are repeated from some step on, TensorBoard shows the repetition only. Default: a new
            folder in ``runs/``, named after the time, as `SummaryWriter` makes one.

    Raises:
        ImportError: tensorboard is not installed.
        ValueError: the folder has event files of another program. TensorBoard shows two programs' files in one folder
            as one curve, and drops points of the one for the other's sake.
    """

    title = "TensorBoard"

    def __init__(self, directory: str | os.PathLike[str] | None = None) -> None:
        with needs("tensorboard"):
            import torch.utils.tensorboard  # noqa: F401  # and not at the first point
        if directory is None:
            directory = Path("runs", f"{time.strftime('%b%d_%H-%M-%S')}_{socket.gethostname()}-fastrank")
        self.directory = Path(directory).expanduser()
        there = [path.name for path in self.directory.glob("*tfevents*")]
        if not all(map(OWN.match, there)):
            raise ValueError(
                f"TensorBoard: {self.directory} has another program's event files; give a folder of its own, such as "
                f"{self.directory / 'ranks'}, or the SummaryWriter itself"
            )
        self._continued = bool(there)
        self._file: Path | None = None
        self._last: dict[str, int] = {}  # by curve, its last step in this file

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve. Where one goes back, all do: TensorBoard drops the points from there on."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        curves = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        if any(step <= self._last.get(tag, step - 1) for tag in values):
            self._file = None
        self.write(step, [Summary(value=curves)], since=step)
        self._last |= dict.fromkeys(values, step)

    def write(self, step: int, summaries: Iterable[Any], *, since: int | None = None) -> None:
        """Append summaries of any kind, as of `step`.

        Args:
            step: what is shown as their step.
            summaries: TensorBoard's `Summary` messages.
            since: if this begins a file of a folder that has others, the older points from this step on are dropped
                (default None: all stay).
        """
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from torch.utils.tensorboard import RecordWriter

        events = []
        if self._file is None:
            self._file = self._new_file()
            self._last.clear()
            events.append(Event(file_version="brain.Event:2"))
            if self._continued and since is not None:
                events.append(Event(session_log=SessionLog(status=SessionLog.START), step=since))
            self._continued = True
        events += [Event(summary=summary, step=step) for summary in summaries]
        try:
            with self._file.open("ab") as file:
                writer = RecordWriter(file)
                for event in events:
                    event.wall_time = time.time()
                    writer.write(event.SerializeToString())
        except OSError as error:
            error.filename, self._file = str(self._file), None  # after half a record nothing more would be read
            raise

    def close(self) -> None:
        """Nothing is open."""

    def _new_file(self) -> Path:
        """A new file, since an old one may end in a torn record. TensorBoard reads files in order of their names."""
        self.directory.mkdir(parents=True, exist_ok=True)
        return self.directory / f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"


class Writer:
    """A sink that adds points to a `torch.utils.tensorboard.SummaryWriter`, or whatever has its `add_scalar`.

    The writer stays open: whoever has made it closes it. Points that a resumed run repeats are its business too; see
    its `purge_step`.
    """

    title = "TensorBoard"

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step)

    def close(self) -> None:
        """Have what was added written."""
        if hasattr(self._writer, "flush"):
            self._writer.flush()
