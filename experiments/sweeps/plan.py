"""What a sweep would do and take (``--plan``), and how far it has come (``fastrank status``); both only read."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from ..errors import UsageError
from ..records import Layout, Ledger, Status, TrialRecord
from ..terminal import open_console
from ..training import Job, JobCost
from ..trial import Trial
from .config import load_config
from .devices import cost_of, kind, slots
from .options import STACK_LIMIT, Options, check_options
from .stacks import jobs, kind_of
from .summary import print_tables
from .sweep import check_config, driver_of, widest

SHOWN = 60  # trials that are listed one by one


def print_plan(config_file: Path, folder: Path, options: Options) -> None:
    """Print the trials of a configuration, their steps, and how long those without a result in ``folder`` will take.

    Every kind of job is run for a second or so, to measure its steps and its memory.

    Raises UsageError, ConfigError, DataError or LedgerError where a run would, CostError where a trial does not fit the
    device, and UsageError for an engine that is elsewhere.
    """
    check_options(options)
    if options.engine != "local":
        raise UsageError(
            f"--plan measures this machine, not what --engine {options.engine} runs on: leave one of them out"
        )
    config = load_config(config_file)
    check_config(config, folder)
    trials = {trial.id: trial for trial in config.trials()}
    known = {record.id: record for record in Ledger.open(folder).trials()} if Layout(folder).ledger.exists() else {}
    records = [known.get(name) or _pending(name, trial) for name, trial in trials.items()]
    console = Console(highlight=False, soft_wrap=True)
    for record in records[:SHOWN]:
        trial = trials[record.id]
        console.print(
            f"{record.id}  batch size {trial.batch_size:3}, lr {trial.lr:g}, weight decay {trial.weight_decay:g}, "
            f"momentum {trial.momentum:g}, seed {trial.seed}: {trial.steps:,} steps"
            + (", has a result" if record.status.is_result else "")
        )
    if len(records) > SHOWN:
        console.print(f"... and {len(records) - SHOWN} more")
    left = [record for record in records if not record.status.is_result]
    console.print(f"{len(records)} trials, {sum(trial.steps for trial in trials.values()):,} steps in all; ", end="")
    console.print(f"{len(left)} trials, {sum(trials[record.id].steps for record in left):,} steps to do")
    if left:
        _estimate(left, trials, options, console)


def _pending(name: str, trial: Trial) -> TrialRecord:
    return TrialRecord(name, trial.spec, Status.PENDING, 0, None, None, None, None, None, None, None)


def _estimate(left: Sequence[TrialRecord], trials: dict[str, Trial], options: Options, console: Console) -> None:
    device = kind(options.device)
    limit = options.stack or STACK_LIMIT[device]
    pending = [replace(record, status=Status.PENDING) for record in left]  # as a driver will find them
    places = slots(device, options.workers, widest(pending, options))
    work = jobs(pending, limit, len(places))
    measured: dict[tuple[tuple[int, bool], int], JobCost] = {}
    seconds = []
    for job in work:
        first = trials[next(iter(job.specs))]
        key = kind_of(job), len(job.specs)
        if key not in measured:
            measured[key] = m = cost_of(job, places[0])
            what = f"{key[1]} trials at a time" if job.is_stack else "one trial at a time"
            console.print(
                f"batch size {first.batch_size:3}, {what}: {1e3 * m.step_seconds:.3g} ms a step, "
                f"{_duration(m.evaluation_seconds)} an evaluation, {_duration(m.spectrum_seconds)} a spectrum, "
                f"{m.memory / 2**20:,.0f} MiB"
            )
        seconds.append(_seconds(job, first, measured[key]))
    wall = max(sum(seconds) / len(places), max(seconds))
    memory = len(places) * max(m.memory for m in measured.values())
    console.print(
        f"{len(work)} jobs on {len(places)} slots ({', '.join(dict.fromkeys(places))}): about {_duration(wall)}, and "
        f"{memory / 2**30:.2g} GiB of memory if all slots hold the largest. Measured one at a time: slots that share "
        "a processor's memory slow each other down"
    )


def _seconds(job: Job, trial: Trial, measured: JobCost) -> float:
    """Seconds of a whole job; what a checkpoint already has of it is not known here, and not taken off.

    They are those of the steps, of an evaluation of the test part each epoch and of the training part at the end, and
    of the spectra.
    """
    train, test = trial.data.sizes()
    evaluations, every = trial.epochs + train / test, trial.tracking.spectrum_every_epochs
    spectra = trial.epochs // every + 1 if every else 0
    return (
        trial.steps * measured.step_seconds
        + evaluations * measured.evaluation_seconds
        + spectra * measured.spectrum_seconds
    )


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{1e3 * seconds:.3g} ms"


def print_status(folder: Path) -> None:
    """Print the trials of ``folder`` as its ledger has them. Raises LedgerError."""
    records = Ledger.open(folder).trials()
    console = open_console()
    print_tables(console, records)
    counts = [(status, sum(record.status is status for record in records)) for status in Status]
    console.print(", ".join(f"{count} {status}" for status, count in counts if count))
    driver = driver_of(folder)
    if driver:
        console.print(f"A sweep is at work here (pid {driver}).", highlight=False)
    elif any(record.status is Status.RUNNING for record in records):
        console.print("The sweep was killed at work: the command that started it resumes it.")
