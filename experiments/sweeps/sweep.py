"""A sweep from its configuration to its summary: one driver at a time, which may be stopped at any time."""

import fcntl
import os
import shlex
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from ..data import load_split
from ..engines import Engine, LocalEngine
from ..errors import UserError
from ..files import write_atomically
from ..provenance import commit, versions
from ..records import Layout, Ledger, Status, Storage, TrialRecord, absolute
from ..sinks import open_sinks
from ..terminal import open_console
from ..training import Job
from .config import ConfigError, SweepConfig, differences, load_config
from .devices import kind, slots
from .driver import Driver
from .options import DEFAULT, STACK_LIMIT, Options, check_options
from .progress import Board, display_for
from .stacks import jobs, kind_of
from .summary import print_tables, write_summary

INTERRUPTED = 130


def check_config(config: SweepConfig, folder: Path) -> None:
    """Raise ConfigError where ``folder`` holds a sweep of another configuration; it says what the differences are.

    Raises DataError where the data set is damaged, or cannot be split as asked for: before any trial is begun.
    """
    load_split(config.data.name, **config.data.part)
    if Layout(folder).ledger.exists():
        meta = Ledger.open(folder).meta
        changed = differences(meta["config"], config.canonical)
        digests = meta["data"]["digest"], config.data.info.digest
        if digests[0] != digests[1]:
            changed.append(f"the images of {config.data.name!r}: digest {digests[0][:12]} -> {digests[1][:12]}")
        if changed:
            raise ConfigError(
                [
                    f"{folder}: holds a sweep of another configuration; choose another --out, or restore:",
                    *(f"  {line}" for line in changed),
                ]
            )


def run_sweep(config_file: Path, folder: Path, options: Options = DEFAULT) -> int:
    """Run the trials of a configuration that ``folder`` has no result of yet.

    Args:
        config_file: the configuration, TOML.
        folder: where everything goes; made if missing.
        options: how it is run.

    Returns the exit status: 0 when all trials have a result, 1 when some failed, 130 when interrupted.
    Raises UsageError for options that cannot be, before anything is made; ConfigError (also when the folder holds
    another configuration), LedgerError, UserError (another driver is at work there; a cluster that is not there) or
    OSError.
    """
    check_options(options)
    config = load_config(config_file)
    folder.mkdir(parents=True, exist_ok=True)
    console = open_console()
    with _exclusive(Layout(folder)):
        check_config(config, folder)
        ledger = _ledger(config, config_file, folder, absolute(options.storage))
        ledger.release()  # trials that a driver which was killed had running
        ledger.reopen_failed()
        records = ledger.trials()
        if all(record.status.is_result for record in records):
            console.print(f"All {len(records)} trials are done: nothing to run.")
            interrupted = False
        else:
            interrupted = _drive(ledger, folder, options, console)
        records = ledger.trials()
        write_summary(Layout(folder).summary, records)
    return _conclude(console, records, config_file, folder, interrupted)


def _drive(ledger: Ledger, folder: Path, options: Options, console: Console) -> bool:
    """Run the pending trials; True if it was stopped before the end."""
    records = ledger.trials()
    board = Board(records)
    storage = Storage(ledger.meta["storage"], Layout(folder))
    with ExitStack() as stack:
        engine = _engine(records, storage, options)
        stack.callback(engine.stop)
        sinks = stack.enter_context(open_sinks(options.sinks, folder, console))
        display = stack.enter_context(display_for(board, console))
        stop = stack.enter_context(_stop_on_signal())
        driver = Driver(ledger, storage, engine, board, display, stop, sinks)
        return driver.run(options.stack or STACK_LIMIT[engine.device])


def _engine(records: Sequence[TrialRecord], storage: Storage, options: Options) -> Engine:
    folder, url = storage.layout.folder, storage.url
    if options.engine == "ray":
        from ..engines.ray import RayEngine

        return RayEngine(folder, options.device, options.workers, options.function, url)
    device = kind(options.device)
    return LocalEngine(folder, slots(device, options.workers, widest(records, options)), options.function, url)


def widest(records: Sequence[TrialRecord], options: Options) -> list[Job]:
    """The largest job of every kind (see `kind_of`). The job that takes most memory is among these."""
    limit = options.stack or STACK_LIMIT[kind(options.device)]
    by_size = sorted(jobs(records, limit, 1), key=lambda job: len(job.specs))
    return list({kind_of(job): job for job in by_size}.values())


def _ledger(config: SweepConfig, config_file: Path, folder: Path, storage: str | None) -> Ledger:
    if Layout(folder).ledger.exists():
        ledger = Ledger.open(folder)
        if storage not in (None, ledger.meta["storage"]):
            raise UserError(f"{folder}: this sweep is stored at {ledger.meta['storage'] or folder}, not at {storage}")
        return ledger
    Storage(storage, Layout(folder))  # a place that cannot be written to is refused while another can still be named
    write_atomically(Layout(folder).config, config_file.read_bytes())
    meta = {"config": config.canonical, "data": known_data(config), "storage": storage}
    meta |= {"commit": commit(), "versions": versions()}
    return Ledger.create(folder, meta, {trial.id: trial.spec for trial in config.trials()})


def known_data(config: SweepConfig) -> dict[str, Any]:
    """What the ledger keeps of the data set, so that another one under the same name is noticed."""
    info, (train, test) = config.data.info, config.data.sizes()
    # A path means nothing elsewhere.
    source = Path(info.source).name if Path(info.source).is_absolute() else info.source
    found = {"name": info.name, "source": source, "digest": info.digest, "classes": len(info.classes)}
    return {**found, "train": train, "test": test}


def _conclude(console: Console, records: list[TrialRecord], config_file: Path, folder: Path, interrupted: bool) -> int:
    print_tables(console, records)
    if interrupted:
        left = sum(not record.status.is_result for record in records)
        console.print(
            f"Interrupted with {left} of {len(records)} trials to go. Resume with: "
            + shlex.join(["fastrank", "sweep", str(config_file), "--out", str(folder)]),
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


def driver_of(folder: Path) -> int | None:
    """Process id of the driver that is at work in ``folder``, if there is one."""
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
    """Hold the folder's lock. The system releases it when this process ends, however that happens."""
    with layout.lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"{layout.folder}: another sweep is at work here (pid {file.read().strip() or 'unknown'}); "
                "wait for it or stop it first"
            ) from None
        try:
            file.truncate(0)
            os.write(file.fileno(), str(os.getpid()).encode())  # now, and not once more when the file is closed
        except OSError as error:
            error.filename = str(layout.lock)
            raise
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
