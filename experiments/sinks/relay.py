"""What stands between the driver and a tracker, so that neither a slow network nor an error there disturbs a sweep.

Each tracker is told what happens in a thread of its own, and is left out after its first error.
"""

import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ..records import Layout, Ledger, Status
from ..training import Crashed, EpochEnd, Event, Finished
from ..trial import Trial
from .tracker import Outcome, Tracker, epoch_values, full_rank, outcome, reason

PATIENCE = 60.0  # seconds without any progress that a sweep waits for a tracker at its end
NOTHING_LOST = "Nothing is lost: the ledger has every number"
_SAY_AFTER = 3.0  # seconds of waiting after which the user is told what is waited for


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
        self._events: queue.SimpleQueue[tuple[Trial, Event] | None] = queue.SimpleQueue()
        self._full_rank: float | None = None
        self._drawing = False
        self._plain = False  # whether it has been said that a heat map is missing
        self._told = 0  # how many events the tracker has been told
        # A daemon: a tracker that hangs is given up at the end, and must not keep the process.
        self._thread = threading.Thread(target=self._run, name=title, daemon=True)
        self._thread.start()

    def record(self, trial: Trial, event: Event) -> None:
        """Put the event in the tracker's queue; returns at once."""
        if self._thread.is_alive():
            self._events.put((trial, event))

    def close(self) -> None:
        """Wait until the tracker has been told everything, or for `PATIENCE` seconds without any progress."""
        self._events.put(None)
        told, since, said = self._told, time.monotonic(), False
        while self._thread.is_alive():
            self._thread.join(0.2)
            waited = time.monotonic() - since
            if self._told != told or self._drawing:  # a long history takes its time, which is not the tracker's fault
                told, since = self._told, time.monotonic()
            elif waited > PATIENCE:
                self._say(f"{self._title} does not answer and is given up. {NOTHING_LOST}")
                return
            elif waited > _SAY_AFTER and not said:
                self._say(f"Waiting for {self._title}")
                said = True

    def _run(self) -> None:
        try:
            while (item := self._events.get()) is not None:
                self._tell(*item)
                self._told += 1
            self._tracker.close()
        except Exception as error:
            self._say(f"{self._title} is left out from now on: {reason(error)}. {NOTHING_LOST}")

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
        self._drawing = True
        try:
            from ..reports import draw_heat_map  # imports matplotlib, which takes its time

            return draw_heat_map(self._folder, trial.id)
        except Exception as error:  # numbers are worth more than a picture of them
            if not self._plain:
                self._say(f"{self._title}: no heat map of trial {trial.id}: {reason(error)}")
            self._plain = True
            return None
        finally:
            self._drawing = False

    def _has_failed(self, trial: Trial) -> bool:
        records = Ledger(Layout(self._folder).ledger).trials()
        return any(record.id == trial.id and record.status is Status.FAILED for record in records)
