"""TensorBoard: a folder of event files for each trial, in ``tensorboard/`` of the sweep's folder."""

import shlex
import socket
import struct
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import RecordWriter
from torch.utils.tensorboard.summary import hparams, text

from ..trial import Trial
from .tracker import HEAT_MAP, Outcome, Sweep, settings


class TensorBoard:
    """A tracker that writes event files. Each is open only while it is written: a stack may have hundreds of trials."""

    def __init__(self, sweep: Sweep, say: Callable[[str], None]) -> None:
        self._folder = sweep.folder / "tensorboard"
        self._files: dict[str, Path] = {}
        self._epochs: dict[str, int] = {}
        say(f"To watch the sweep: tensorboard --logdir {shlex.quote(str(self._folder))}")

    def epoch(self, trial: Trial, epoch: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve. A repeated epoch begins a new file, at which TensorBoard drops older points."""
        if epoch <= self._epochs.get(trial.id, 0):
            del self._files[trial.id]
        self._write(trial, epoch, [_scalars(values)], since=epoch)
        self._epochs[trial.id] = epoch

    def end(self, trial: Trial, outcome: Outcome) -> None:
        """Write the last points, the status as a text, and the heat map."""
        epoch = self._epochs.get(trial.id) if outcome.epoch is None else outcome.epoch
        summaries = [_scalars(outcome.values), text("status", outcome.status)]  # type: ignore[no-untyped-call]
        if outcome.heat_map is not None:
            summaries.append(_image(outcome.heat_map))
        if outcome.status != "failed":  # it may yet be tried again, and an end can be written only once
            summaries.append(_table_row(trial)[1])
        self._write(trial, epoch or 0, summaries, since=None if epoch is None else epoch + 1)

    def close(self) -> None:
        """Nothing is open."""

    def _write(self, trial: Trial, epoch: int, summaries: Iterable[Summary], since: int | None) -> None:
        """Append these summaries, as of ``epoch``, to the file that this session has for the trial.

        A new file begins with a mark that the trial was restarted at epoch ``since``: TensorBoard then drops the older
        points from there on. Where ``since`` is None there is no mark, and all older points stay.
        """
        events = []
        if trial.id not in self._files:
            self._files[trial.id] = self._new_file(trial)
            events = [Event(file_version="brain.Event:2")]
            if since is not None:
                events.append(Event(session_log=SessionLog(status=SessionLog.START), step=since))
            events.append(Event(summary=_table_row(trial)[0]))
        events += [Event(summary=summary, step=epoch) for summary in summaries]
        with self._files[trial.id].open("ab") as file:
            writer = RecordWriter(file)
            for event in events:
                event.wall_time = time.time()
                writer.write(event.SerializeToString())

    def _new_file(self, trial: Trial) -> Path:
        """A new file, since an old one may end in a torn record. TensorBoard reads files in order of their names."""
        folder = self._folder / trial.id
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"


def _scalars(values: Mapping[str, float]) -> Summary:
    return Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])


def _image(png: bytes) -> Summary:
    width, height = struct.unpack(">II", png[16:24])  # where every PNG has them
    image = Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png)
    return Summary(value=[Summary.Value(tag=HEAT_MAP, image=image)])


def _table_row(trial: Trial) -> tuple[Summary, Summary]:
    """Two records for TensorBoard's table of trials: one of the trial's settings, and one that the trial is over.

    Which columns the table has is left to TensorBoard, which then finds out which settings differ, and how much.
    """
    _, start, end = hparams(settings(trial), {})  # type: ignore[no-untyped-call]
    return start, end
