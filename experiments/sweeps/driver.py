"""The driver of a sweep: it hands jobs to an engine, keeps the ledger, and goes on when workers or nodes die."""

import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from ..engines import Engine
from ..records import MAX_ATTEMPTS, Ledger, Status, Storage
from ..sinks import Sink
from ..training import Crashed, EpochEnd, Event, Finished, Job, Warned
from .progress import Board, Display
from .stacks import halves, jobs, jobs_over
from .summary import write_summary

# A job whose workers are killed from outside this many times, with no epoch finished in between, is itself blamed.
MAX_KILLS = 5
_TICK = 0.2  # seconds within which a signal is heeded


@dataclass
class Driver:
    """The loop that runs a sweep in one session. Nothing else writes the ledger meanwhile."""

    ledger: Ledger
    storage: Storage
    engine: Engine
    board: Board
    display: Display
    stop: threading.Event
    sinks: Sequence[Sink] = ()
    queue: list[Job] = field(default_factory=list)
    running: dict[str, set[str]] = field(default_factory=dict)  # by job, its trials without a result
    kills: Counter[str] = field(default_factory=Counter)  # by job, since its last epoch
    said: set[str] = field(default_factory=set)  # what the user has been told

    @cached_property
    def data(self) -> str | None:
        """Digest of the data set that the sweep is about."""
        digest: str | None = self.ledger.meta["data"].get("digest")
        return digest

    def run(self, stack_limit: int) -> bool:
        """Run all pending trials; True if it was stopped before the end."""
        records = self.ledger.trials()
        self._tidy(jobs_over(records))  # an earlier driver may have been killed before it could
        self.queue = jobs(records, stack_limit, self.engine.slots)
        self._sort()
        try:
            while self.queue or self.running:
                if self.stop.is_set():
                    return True
                while self.queue and self.engine.has_room():
                    self._start(self.queue.pop(0))
                for job, event in self.engine.listen(_TICK):
                    self._heed(job, event)
        finally:
            self.engine.stop()
            self.ledger.release()
        return False

    def _sort(self) -> None:
        """Put long jobs first, so that at the end no slot waits long for another."""
        steps = {name: row.trial.steps for name, row in self.board.rows.items()}
        self.queue.sort(key=lambda job: sum(steps[trial] for trial in job.specs), reverse=True)

    def _start(self, job: Job) -> None:
        self.ledger.start(job.specs, job.name if job.is_stack else None)
        # A stack is resumed whole; of its trials, those that have a result keep it.
        left = {trial for trial in job.specs if not self.board.rows[trial].status.is_result}
        self.running[job.name] = left
        for trial in left:
            self.board.rows[trial].status = Status.RUNNING
        self.engine.start(replace(job, data=self.data))

    def _heed(self, job: Job, event: Event) -> None:
        match event:
            case EpochEnd():
                self.kills[job.name] = 0
                row = self.board.rows[event.trial]
                row.epoch, row.average_rank, row.test_accuracy = event.epoch, event.average_rank, event.test_accuracy
                self._changed(event.trial, event)
            case Warned():
                self._say(event.text)
            case Finished():
                self._finish(job, event)
            case Crashed():
                self._crash(job, event)

    def _finish(self, job: Job, event: Finished) -> None:
        left = self.running[job.name]
        if event.trial not in left:  # it had its result before the stack was resumed
            return
        self.ledger.finish(event.trial, event.status, event.result, event.seconds)
        row = self.board.rows[event.trial]
        row.status, row.average_rank = event.status, event.result["average_rank"]
        row.test_accuracy = event.result["test_accuracy"]
        left.remove(event.trial)
        if not left:
            del self.running[job.name]
            self.engine.release(job)
            self._tidy([job])
        self._changed(event.trial, event)

    def _crash(self, job: Job, event: Crashed) -> None:
        """Decide how the trials of a job that crashed go on.

        A job that was killed from outside goes on from its checkpoint, which counts as no attempt. A stack that fails
        again, is killed again and again or runs out of memory is split into two halves, which start from zero. Any
        other job is tried once more from its checkpoint, and then has failed.
        """
        left = self.running.pop(job.name)
        last = event.error.strip().splitlines()[-1]
        what = f"trial {job.name}" if len(job.specs) == 1 else f"{job.name}, {len(job.specs)} trials,"
        self.kills[job.name] += event.killed
        attempts = {record.id: record.attempts for record in self.ledger.trials()}
        tired = any(attempts[trial] >= MAX_ATTEMPTS for trial in left)
        if event.killed and self.kills[job.name] < MAX_KILLS and not event.out_of_memory:
            self.ledger.postpone(left)
            self.queue.append(job)
            self._say(f"{what} goes on elsewhere: {last}")
        elif len(job.specs) > 1 and not event.indivisible and (tired or event.killed or event.out_of_memory):
            self.ledger.unstack(left)
            self._forget(job, history=True)
            self.queue += halves({trial: job.specs[trial] for trial in job.specs if trial in left})
            self._say(f"{what} is split in two and starts over: {last}")
        else:  # a failed trial keeps its checkpoint: when the user asks again, it goes on from there
            self.ledger.crash(left, event.error)
            if not tired:
                self.queue.append(job)
                self._say(f"{what} crashed and is tried once more: {last}")
        self._sort()
        self._write_summary()
        status = {record.id: record.status for record in self.ledger.trials()}
        for trial in left:
            self.board.rows[trial].status = status[trial]
            self._changed(trial, event)

    def _tidy(self, jobs_over: Iterable[Job]) -> None:
        """For jobs whose results are in the ledger: write the summary, and remove what was kept for resuming them."""
        for job in jobs_over:
            self._forget(job, history=job.is_stack)
        self._write_summary()

    def _forget(self, job: Job, *, history: bool) -> None:
        try:
            self.storage.forget(job.name, history=history)
        except Exception as error:  # of whatever kind a storage has; it can be made good later, and the others go on
            self._say(f"what {job.name} kept for resuming cannot be removed: {error}")

    def _write_summary(self) -> None:
        try:
            write_summary(self.storage.layout.summary, self.ledger.trials())
        except OSError as error:
            self._say(f"{error.filename}: {error.strerror}")

    def _changed(self, trial: str, event: Event) -> None:
        row = self.board.rows[trial]
        self.display.changed(row)
        for sink in self.sinks:
            sink.record(row.trial, event)

    def _say(self, text: str) -> None:
        if text not in self.said:  # a full disk would say the same after every epoch
            self.said.add(text)
            self.display.log(text)
