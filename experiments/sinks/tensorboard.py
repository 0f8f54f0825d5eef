"""TensorBoard: a folder of event files for each trial, in ``tensorboard/`` of the sweep's folder."""

import shlex
import struct
from collections.abc import Callable, Mapping

from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard.summary import hparams, text

from fastrank import sinks

from ..trial import Trial
from .tracker import HEAT_MAP, Outcome, Sweep, settings


class TensorBoard:
    """A tracker that writes event files. Each is open only while it is written: a stack may have hundreds of trials."""

    def __init__(self, sweep: Sweep, say: Callable[[str], None]) -> None:
        self._folder = sweep.folder / "tensorboard"
        self._boards: dict[str, sinks.TensorBoard] = {}
        self._epochs: dict[str, int] = {}
        say(f"To watch the sweep: tensorboard --logdir {shlex.quote(str(self._folder))}")

    def epoch(self, trial: Trial, epoch: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        self._board(trial, since=epoch).log(epoch, values)
        self._epochs[trial.id] = epoch

    def end(self, trial: Trial, outcome: Outcome) -> None:
        """Write the last points, the status as a text, and the heat map."""
        epoch = self._epochs.get(trial.id) if outcome.epoch is None else outcome.epoch
        board = self._board(trial, since=None if epoch is None else epoch + 1)
        summaries = [text("status", outcome.status)]  # type: ignore[no-untyped-call]
        if outcome.heat_map is not None:
            summaries.append(_image(outcome.heat_map))
        if outcome.status != "failed":  # it may yet be tried again, and an end can be written only once
            summaries.append(_table_row(trial)[1])
        if outcome.values:
            board.log(epoch or 0, outcome.values)
        board.write(epoch or 0, summaries)

    def close(self) -> None:
        """Nothing is open."""

    def _board(self, trial: Trial, since: int | None) -> sinks.TensorBoard:
        """Where this session writes of the trial, from epoch ``since`` on; None where nobody knows what came before."""
        if trial.id not in self._boards:
            self._boards[trial.id] = sinks.TensorBoard(self._folder / trial.id)
            self._boards[trial.id].write(0, [_table_row(trial)[0]], since=since)
        return self._boards[trial.id]


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
