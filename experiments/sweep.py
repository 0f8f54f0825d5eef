"""The driver of a sweep: hands trials to workers, keeps the ledger, survives whatever dies."""

import fcntl
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fastrank.experiments.config import ConfigError, SweepConfig, differences, load_config
from fastrank.experiments.errors import UserError
from fastrank.experiments.events import Crashed, EpochEnd, Finished, Warned
from fastrank.experiments.layout import Layout, write_atomically
from fastrank.experiments.ledger import Ledger, Status, TrialRecord
from fastrank.experiments.pool import Event, Worker, available_cores, listen
from fastrank.experiments.progress import Board, Display, display_for
from fastrank.experiments.provenance import commit, versions
from fastrank.experiments.summary import print_tables, write_summary
from rich.console import Console

RUN_TRIAL = "fastrank.experiments.train:run_trial"
INTERRUPTED = 130
_TICK = 0.2  # seconds within which a signal is heeded


def check_config(config: SweepConfig, folder: Path) -> None:
    """Raise ConfigError, with each difference, where ``folder`` holds a sweep of another configuration."""
    if Layout(folder).ledger.exists():
        changed = differences(Ledger.open(folder).meta["config"], config.canonical)
        if changed:
            raise ConfigError(
                [
                    f"{folder}: holds a sweep of another configuration; choose another --out, or restore:",
                    *(f"  {line}" for line in changed),
                ]
            )


def run_sweep(config_file: Path, folder: Path, workers: int | None = None, run_trial: str = RUN_TRIAL) -> int:
    """Run the trials of a configuration that ``folder`` has no result of yet.

    Args:
        config_file: the configuration, TOML.
        folder: where everything goes; made if missing.
        workers: processes; None for one a core.
        run_trial: ``module:name`` of what runs a trial, with the signature of `train.run_trial`.

    Returns the exit status: 0 when all trials have a result, 1 when some failed, 130 when interrupted.
    Raises ConfigError (also when the folder holds another configuration), LedgerError, UserError (another
    driver is at work there) or OSError.
    """
    config = load_config(config_file)
    folder.mkdir(parents=True, exist_ok=True)
    console = Console()
    with _exclusive(Layout(folder)):
        check_config(config, folder)
        ledger = _ledger(config, config_file, folder)
        ledger.release()  # trials that a driver which was killed had running
        ledger.reopen_failed()
        records = ledger.trials()
        if all(record.status.is_result for record in records):
            console.print(f"All {len(records)} trials are done: nothing to run.")
            interrupted = False
        else:
            board = Board(records)
            with display_for(board, console) as display, _stop_on_signal() as stop:
                driver = Driver(ledger, Layout(folder), board, display, stop)
                interrupted = driver.run(workers or available_cores(), run_trial)
        records = ledger.trials()
        write_summary(Layout(folder).summary, records)
    return _conclude(console, records, config_file, folder, interrupted)


def _ledger(config: SweepConfig, config_file: Path, folder: Path) -> Ledger:
    if Layout(folder).ledger.exists():
        return Ledger.open(folder)
    write_atomically(Layout(folder).config, config_file.read_bytes())
    meta = {"config": config.canonical, "commit": commit(), "versions": versions()}
    return Ledger.create(folder, meta, {trial.id: trial.spec for trial in config.trials()})


def _conclude(console: Console, records: list[TrialRecord], config_file: Path, folder: Path, interrupted: bool) -> int:
    print_tables(console, records)
    if interrupted:
        left = sum(not record.status.is_result for record in records)
        console.print(
            f"Interrupted with {left} of {len(records)} trials to go. Resume with: "
            f"fastrank sweep {config_file} --out {folder}",
            markup=False,
            soft_wrap=True,
        )
        return INTERRUPTED
    failed = [record for record in records if record.status is Status.FAILED]
    for record in failed:
        console.print(f"Trial {record.id} failed {record.attempts} times:\n{record.error}", markup=False)
    if failed:
        names = ", ".join(record.id for record in failed)
        console.print(f"{len(failed)} of {len(records)} trials failed: {names}.")
        console.print("The same command tries them again.")
    return 1 if failed else 0


@dataclass
class Driver:
    """The loop of one session. Alone in writing the ledger."""

    ledger: Ledger
    layout: Layout
    board: Board
    display: Display
    stop: threading.Event

    def run(self, workers: int, run_trial: str) -> bool:
        """Run all pending trials; True if it was stopped before the end.

        Long trials go first, so that at the end no worker waits long for another.
        """
        steps = {name: row.trial.steps for name, row in self.board.rows.items()}
        pending = [record for record in self.ledger.trials() if record.status is Status.PENDING]
        self.queue = sorted(pending, key=lambda record: steps[record.id], reverse=True)
        self.said: set[str] = set()
        crew: list[Worker] = []
        try:
            while self.queue or any(worker.trial for worker in crew):
                if self.stop.is_set():
                    return True
                self._employ(crew, workers, run_trial)
                for worker, event in listen(crew, _TICK):
                    self._heed(worker, event)
                    if worker.dead:
                        worker.stop()
                        crew.remove(worker)
        finally:
            for worker in crew:
                worker.stop()
            self.ledger.release()
        return False

    def _employ(self, crew: list[Worker], workers: int, run_trial: str) -> None:
        """Give every idle worker a trial, and hire where there are more trials than workers."""
        while self.queue:
            worker = next((worker for worker in crew if worker.trial is None), None)
            if worker is None:
                if len(crew) == workers:
                    return
                worker = Worker(run_trial)
                crew.append(worker)
            record = self.queue.pop(0)
            self.ledger.start(record.id)
            self.board.rows[record.id].status = Status.RUNNING
            worker.run(record.id, record.spec, self.layout.folder)

    def _heed(self, worker: Worker, event: Event) -> None:
        if worker.trial is None:  # an idle worker has died: nobody's loss
            return
        row = self.board.rows[worker.trial]
        match event:
            case EpochEnd():
                row.epoch, row.average_rank = event.epoch, event.average_rank
                row.test_accuracy = event.test_accuracy
            case Warned():
                self._say(event.text)
            case Finished():
                self.ledger.finish(worker.trial, event.status, event.result, event.seconds)
                row.status, row.average_rank = event.status, event.result["average_rank"]
                row.test_accuracy = event.result["test_accuracy"]
                self._over(worker)
            case Crashed():
                row.status = self.ledger.crash(worker.trial, event.error)
                if row.status is Status.PENDING:
                    last = event.error.strip().splitlines()[-1]
                    self._say(f"trial {worker.trial} crashed and is tried once more: {last}")
                    self.queue += [record for record in self.ledger.trials() if record.id == worker.trial]
                    worker.trial = None
                else:
                    self._over(worker)
        self.display.changed(row)

    def _over(self, worker: Worker) -> None:
        """The ledger has the outcome: the summary gets its row, and what was kept for resuming may go.

        A failed trial keeps its checkpoint: when the user asks again, it goes on from there.
        """
        assert worker.trial is not None
        try:
            if self.board.rows[worker.trial].status.is_result:
                self.layout.checkpoint(worker.trial).unlink(missing_ok=True)
            write_summary(self.layout.summary, self.ledger.trials())
        except OSError as error:  # both can be made good later; the other trials go on
            self._say(f"{error.filename}: {error.strerror}")
        worker.trial = None

    def _say(self, text: str) -> None:
        if text not in self.said:  # a full disk would say the same after every epoch
            self.said.add(text)
            self.display.log(text)


def driver_of(folder: Path) -> int | None:
    """Process id of the sweep that is at work in ``folder``, if one is."""
    path = Layout(folder).lock
    if not path.exists():
        return None
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(file.read() or 0)
    return None


@contextmanager
def _exclusive(layout: Layout) -> Iterator[None]:
    """Hold the folder's lock. The system lets go of it whatever becomes of this process."""
    with layout.lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"{layout.folder}: another sweep is at work here (pid {file.read().strip() or 'unknown'}); "
                "wait for it or stop it first"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextmanager
def _stop_on_signal() -> Iterator[threading.Event]:
    """Ctrl-C and SIGTERM set the event instead of striking in the middle of a ledger entry."""
    stop = threading.Event()
    earlier = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
