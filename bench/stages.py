"""Stages: commands in an order, each with a time limit of its own, so that none of them takes another's time.

A stage that fails, hangs or cannot run does not stop the next. What came of each is written at once: a row of
`stages.csv` when it ends, and its output into `log.txt` as far as there is room. Stages of one group run side by side.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.machinery
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]
MOST_LOG = 2**20
"""Bytes of a stage's output that are kept: its beginning and, above all, its end."""
GRACE = 5.0
"""Seconds that a stage has to end by itself when its time is up."""
COLUMNS = ("command", "stage", "status", "seconds", "limit", "says")


@dataclass(frozen=True)
class Stage:
    """One command.

    Attributes:
        name: as in `stages.csv`.
        command: program and arguments.
        limit: seconds it may take.
        needs: Python packages without which it is skipped by name.
        group: stages of one group that follow each other run side by side; empty: alone, as whatever is timed has to.
    """

    name: str
    command: Sequence[str]
    limit: float
    needs: Sequence[str] = ()
    group: str = ""

    def missing(self, environment: Mapping[str, str]) -> list[str]:
        """What it needs and would not find; it looks in other places than this process does."""
        given = environment.get("PYTHONPATH", "").split(os.pathsep)
        places = [*filter(None, given), *sys.path]
        importlib.invalidate_caches()  # a stage before it may have unpacked packages
        return [name for name in self.needs if importlib.machinery.PathFinder.find_spec(name, places) is None]


@dataclass(frozen=True)
class Outcome:
    """What came of a stage.

    Attributes:
        status: `ok`; `failed`, with its exit status in `says`; `too long`, stopped at its limit; `skipped`.
        says: the last line of its output that is not empty, or why it was skipped.
    """

    stage: Stage
    status: str
    seconds: float
    says: str

    def row(self, command: str) -> dict[str, object]:
        return {
            "command": command,
            "stage": self.stage.name,
            "status": self.status,
            "seconds": round(self.seconds, 1),
            "limit": self.stage.limit,
            "says": self.says,
        }


def perform(stage: Stage, environment: Mapping[str, str]) -> tuple[Outcome, bytes]:
    """Runs a stage to its end or to its limit; what came of it, and its output."""
    if missing := stage.missing(environment):
        return Outcome(stage, "skipped", 0.0, f"needs {', '.join(missing)}"), b""
    started = time.monotonic()
    with tempfile.TemporaryFile() as output:  # not a pipe, which somebody would have to empty
        try:
            # A session of its own: all that it starts can be stopped with it.
            process = subprocess.Popen(
                list(stage.command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,
            )
        except OSError as error:
            return Outcome(stage, "skipped", 0.0, f"{stage.command[0]}: {error.strerror}"), b""
        _begun.add(process)
        try:
            status = "failed" if process.wait(stage.limit) else "ok"
        except subprocess.TimeoutExpired:
            status = "too long"
        finally:
            _end_all(process)
            _begun.discard(process)
        said = _read(output)
    lines = [text.strip() for text in said.decode(errors="replace").splitlines() if text.strip()]
    last = lines[-1] if lines else ""
    if status == "failed":
        last = f"exit status {process.returncode}: {last}"
    return Outcome(stage, status, time.monotonic() - started, last[:300]), said


def stop() -> None:
    """Ends all stages that run, at once."""
    for process in list(_begun):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


_begun: set[subprocess.Popen[bytes]] = set()


def _end_all(process: subprocess.Popen[bytes]) -> None:
    """Whatever a process has started ends with it, by a signal that it can answer first."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
    process.wait()


def _read(output: IO[bytes]) -> bytes:
    size = output.seek(0, os.SEEK_END)
    output.seek(0)
    if size <= MOST_LOG:
        return output.read()
    head = output.read(MOST_LOG // 4)
    output.seek(size - 3 * MOST_LOG // 4)
    return head + f"\n... {size - MOST_LOG} bytes left out ...\n".encode() + output.read()


def run(command: str, stages: Sequence[Stage], folder: Path, environment: Mapping[str, str]) -> list[Outcome]:
    """Runs all stages; `folder` receives `stages.csv` and `log.txt`, to which further commands add."""
    folder.mkdir(parents=True, exist_ok=True)
    outcomes = []
    for _, group in itertools.groupby(enumerate(stages), key=lambda pair: pair[1].group or pair[0]):
        together = [stage for _, stage in group]
        with ThreadPoolExecutor(len(together)) as pool:
            begun = [pool.submit(perform, stage, environment) for stage in together]
            for future in as_completed(begun):
                outcome, output = future.result()
                print(line(outcome), flush=True)
                _keep(folder, command, outcome, output)
                outcomes.append(outcome)
    return outcomes


def line(outcome: Outcome) -> str:
    """A row of the table that is printed."""
    spent = f"{outcome.seconds:6.1f} s of {outcome.stage.limit:4.0f}"
    return f"{outcome.stage.name:20}{outcome.status:10}{spent}  {outcome.says[:120]}"


def _keep(folder: Path, command: str, outcome: Outcome, output: bytes) -> None:
    table = folder / "stages.csv"
    fresh = not table.exists()
    with table.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if fresh:
            writer.writeheader()
        writer.writerow(outcome.row(command))
    told = output.replace(f"{ROOT}/".encode(), b"").replace(f"{folder}/".encode(), b"")  # it is kept and published
    with (folder / "log.txt").open("ab") as log:
        log.write(f"==== {command}: {outcome.stage.name}: {outcome.status} ====\n".encode() + told + b"\n")
