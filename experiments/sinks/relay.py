"""What stands between the driver and a tracker, so that neither a slow network nor an error there disturbs a sweep.

Each tracker is told what happens in a thread of its own, and is left out after its first error.
"""

from collections.abc import Callable
from pathlib import Path

from fastrank.sinks import Background, reason

from ..records import Layout, Ledger, Status
from ..training import Crashed, EpochEnd, Event, Finished
from ..trial import Trial
from .tracker import Outcome, Tracker, epoch_values, full_rank, outcome

NOTHING_LOST = "Nothing is lost: the ledger has every number"


class Relay:
    """A sink that tells a tracker, in order, what happens. After the tracker's first error it tells the user and ends.

    Args:
        title: what people call the tracker.
        tracker: told everything in one thread of its own, from the first event on.
        folder: the sweep's folder.
        say: shows the user a line.
    """

    def __init__(self, title: str, tracker: Tracker, folder: Path, say: Callable[[str], None]) -> None:
        self._title, self._tracker, self._folder, self._say = title, tracker, folder, say
        self._background = Background(title, tracker.close, say, NOTHING_LOST)
        self._full_rank: float | None = None
        self._plain = False  # whether it has been said that a heat map is missing

    def record(self, trial: Trial, event: Event) -> None:
        """Put the event in the tracker's queue; returns at once."""
        self._background.call(self._tell, trial, event)

    def close(self) -> None:
        """Wait until the tracker has been told everything, or for a minute without any progress."""
        self._background.close()

    def _tell(self, trial: Trial, event: Event) -> None:
        match event:
            case EpochEnd():
                if self._full_rank is None:
                    self._full_rank = full_rank(trial)  # one network, one full rank in the whole sweep
                values = epoch_values(event, self._full_rank)
                if values:
                    self._tracker.epoch(trial, event.epoch, values)
            case Finished():
                self._tracker.end(trial, outcome(trial, event, self._heat_map(trial)))
            case Crashed() if self._has_failed(trial):  # any other is tried again, and its run goes on
                self._tracker.end(trial, Outcome(str(Status.FAILED)))

    def _heat_map(self, trial: Trial) -> bytes | None:
        self._background.busy = True  # a long history takes its time, which is not the tracker's fault
        try:
            from ..reports import draw_heat_map  # imports matplotlib, which takes its time

            return draw_heat_map(self._folder, trial.id)
        except Exception as error:  # numbers are worth more than a picture of them
            if not self._plain:
                self._say(f"{self._title}: no heat map of trial {trial.id}: {reason(error)}")
            self._plain = True
            return None
        finally:
            self._background.busy = False

    def _has_failed(self, trial: Trial) -> bool:
        records = Ledger(Layout(self._folder).ledger).trials()
        return any(record.id == trial.id and record.status is Status.FAILED for record in records)
