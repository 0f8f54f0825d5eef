"""What a sweep would do, and how far it has come: reading only."""

from pathlib import Path

from fastrank.experiments.config import load_config
from fastrank.experiments.layout import Layout
from fastrank.experiments.ledger import Ledger, Status
from fastrank.experiments.summary import print_tables
from fastrank.experiments.sweep import check_config, driver_of
from rich.console import Console


def print_plan(config_file: Path, folder: Path) -> None:
    """Print the trials of a configuration, their steps, and what is left of them to do in ``folder``.

    Raises ConfigError or LedgerError where a run would.
    """
    config = load_config(config_file)
    check_config(config, folder)
    trials = config.trials()
    over = set()
    if Layout(folder).ledger.exists():
        over = {record.id for record in Ledger.open(folder).trials() if record.status.is_result}
    console = Console(highlight=False, soft_wrap=True)
    for trial in trials:
        console.print(
            f"{trial.id}  batch size {trial.batch_size:3}, lr {trial.lr:g}, weight decay {trial.weight_decay:g}, "
            f"momentum {trial.momentum:g}, seed {trial.seed}: {trial.steps:,} steps"
            + (", has a result" if trial.id in over else "")
        )
    left = [trial for trial in trials if trial.id not in over]
    console.print(f"{len(trials)} trials, {sum(trial.steps for trial in trials):,} steps in all; ", end="")
    console.print(f"{len(left)} trials, {sum(trial.steps for trial in left):,} steps to do")


def print_status(folder: Path) -> None:
    """Print the trials of ``folder`` as its ledger has them. Raises LedgerError."""
    records = Ledger.open(folder).trials()
    console = Console()
    print_tables(console, records)
    counts = [(status, sum(record.status is status for record in records)) for status in Status]
    console.print(", ".join(f"{count} {status}" for status, count in counts if count))
    driver = driver_of(folder)
    if driver:
        console.print(f"A sweep is at work here (pid {driver}).", highlight=False)
    elif any(record.status is Status.RUNNING for record in records):
        console.print("The sweep was killed at work: the command that started it resumes it.")
