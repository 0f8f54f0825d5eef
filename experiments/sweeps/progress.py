"""What a running sweep shows: a live table on a terminal, plain lines anywhere else."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..records import Status, TrialRecord
from ..trial import Trial
from .summary import COLOURS, number

SECONDS_BETWEEN_LINES = 10.0
LIVE_COLUMNS = (
    *("trial", "batch\nsize", "lr", "weight\ndecay", "seed"),
    *("status", "epoch", "average\nrank", "test\nacc."),
)


@dataclass
class Row:
    """What is shown of one trial."""

    trial: Trial
    status: Status
    epoch: int = 0
    average_rank: float | None = None
    test_accuracy: float | None = None

    @property
    def steps_done(self) -> int:
        """Optimizer steps that need not be done any more."""
        over = self.status.is_result or self.status is Status.FAILED
        return self.trial.steps if over else self.epoch * self.trial.steps_per_epoch


class Board:
    """The state of all trials, and how long the rest will take."""

    def __init__(self, records: Sequence[TrialRecord]) -> None:
        self.rows: dict[str, Row] = {}
        for record in records:
            result = record.result or {}
            row = Row(Trial.model_validate(record.spec), record.status)
            row.average_rank, row.test_accuracy = result.get("average_rank"), result.get("test_accuracy")
            row.epoch = row.trial.epochs if record.status is Status.DONE else 0
            self.rows[record.id] = row
        self.steps = sum(row.trial.steps for row in self.rows.values())
        self._first = self._started = 0.0
        self.restart_clock()

    def restart_clock(self) -> None:
        """Measure speed from now on: what was done before is no measure of this session's speed."""
        self._first, self._started = self.steps_done, time.monotonic()

    @property
    def steps_done(self) -> int:
        """Optimizer steps done, over all trials."""
        return sum(row.steps_done for row in self.rows.values())

    @property
    def trials_over(self) -> int:
        """Trials with a result, or failed for good."""
        return sum(row.status.is_result or row.status is Status.FAILED for row in self.rows.values())

    def seconds_left(self) -> float | None:
        """Seconds to the end, estimated from the speed of this session; None before a hundredth of its steps was done.

        The very first ones wait for imports, and for kernels to be compiled, and tell nothing of the others.
        """
        done = self.steps_done - self._first
        elapsed = time.monotonic() - self._started
        return elapsed / done * (self.steps - self.steps_done) if done > (self.steps - self._first) / 100 else None

    def headline(self) -> str:
        """Progress and time left, in one line."""
        left = self.seconds_left()
        percent = 100 * self.steps_done // max(self.steps, 1)
        return f"{self.trials_over}/{len(self.rows)} trials, {percent} % of the steps" + (
            "" if left is None else f", {int(left) // 60}:{int(left) % 60:02d} left"
        )


class Display(Protocol):
    """Shows a board. Used as a context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def changed(self, row: Row) -> None:
        """A row of the board has changed."""

    def log(self, text: str) -> None:
        """Something for the user to read."""


def display_for(board: Board, console: Console) -> Display:
    """The live table where ``console`` is a terminal, lines where it is a file or a pipe."""
    return LiveDisplay(board, console) if console.is_terminal else LineDisplay(board, console)


class LineDisplay:
    """A line for each trial that ends, and now and then one with the progress."""

    def __init__(self, board: Board, console: Console) -> None:
        self.board, self.console = board, console
        self._last_line = 0.0

    def __enter__(self) -> Self:
        self._last_line = time.monotonic()
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def changed(self, row: Row) -> None:
        trial = row.trial
        if row.status.is_result or row.status is Status.FAILED:
            self.log(
                f"{row.status:8} {trial.id}  batch size {trial.batch_size}, lr {trial.lr:g}, "
                f"weight decay {trial.weight_decay:g}, seed {trial.seed}: "
                f"average rank {number(row.average_rank, 1)}, test accuracy {number(row.test_accuracy, 3)}  "
                f"({self.board.headline()})"
            )
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self.log(self.board.headline())

    def log(self, text: str) -> None:
        self._last_line = time.monotonic()
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


class LiveDisplay:
    """A table that is redrawn in place: a row a trial, and the progress of the whole under it."""

    def __init__(self, board: Board, console: Console) -> None:
        self.board, self.console = board, console
        self._live = Live(get_renderable=self.render, console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def changed(self, row: Row) -> None:
        """Nothing to do: the table is redrawn from the board four times a second."""

    def log(self, text: str) -> None:
        self.console.print(f"[yellow]{escape(text)}[/]", highlight=False)

    def render(self) -> Group:
        """The table as it stands, cut to the height of the terminal."""
        rows = list(self.board.rows.values())
        shown = visible(rows, self.console.height - 6)
        table = Table(box=box.SIMPLE_HEAD)
        for name in LIVE_COLUMNS:
            table.add_column(name, justify="left" if name in ("trial", "status") else "right")
        for row in shown:
            trial = row.trial
            table.add_row(
                trial.id,
                *(f"{value:g}" for value in (trial.batch_size, trial.lr, trial.weight_decay, trial.seed)),
                f"[{COLOURS[row.status]}]{row.status}[/]",
                f"{row.epoch}/{trial.epochs}",
                number(row.average_rank, 1),
                number(row.test_accuracy, 3),
            )
        hidden = f" ({len(rows) - len(shown)} more trials not shown)" if len(shown) < len(rows) else ""
        progress = Table.grid(padding=(0, 1))
        bar = ProgressBar(self.board.steps, self.board.steps_done, width=24)
        progress.add_row(bar, Text(self.board.headline() + hidden))
        return Group(table, progress)


def visible(rows: Sequence[Row], limit: int) -> list[Row]:
    """At most ``limit`` rows, at least one, in their order. Running trials are chosen first, pending ones last."""
    urgency = (Status.RUNNING, Status.FAILED, Status.DIVERGED, Status.DONE, Status.PENDING)
    chosen = sorted(range(len(rows)), key=lambda i: urgency.index(rows[i].status))[: max(limit, 1)]
    return [rows[i] for i in sorted(chosen)]
