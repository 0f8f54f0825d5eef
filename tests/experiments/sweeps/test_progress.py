"""What a running sweep shows, on a terminal and in a log."""

import io
import time

import pytest
from rich.console import Console

from fastrank.experiments.records.ledger import Status, TrialRecord
from fastrank.experiments.sweeps import progress
from fastrank.experiments.sweeps.config import SweepConfig
from fastrank.experiments.sweeps.progress import Board, LineDisplay, LiveDisplay, Row, display_for, visible
from fastrank.experiments.sweeps.summary import rank_tables, trials_table

RESULT = {"steps": 88, "average_rank": 53.2, "full_rank": 92.8, "train_accuracy": 1.0, "test_accuracy": 0.975}


def records(*statuses: Status, **grid: list[float]) -> list[TrialRecord]:
    axes = {"batch_size": [8, 64], "lr": [0.5], "weight_decay": [0.0, 0.01]} | grid
    config = SweepConfig.model_validate(
        {
            **{"name": "n", "epochs": 4, "model": {"name": "mlp_bn", "depth": 5, "width": 100}},
            **{"data": {"name": "digits"}, "grid": axes},
        }
    )
    trials = config.trials()
    given = [*statuses, *[Status.PENDING] * (len(trials) - len(statuses))]
    return [
        TrialRecord(t.id, t.spec, s, 1, None, "h", None, None, 1.5, None, RESULT if s is Status.DONE else None)
        for t, s in zip(trials, given, strict=True)
    ]


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def lines() -> Console:
    return Console(file=io.StringIO(), width=80)


def terminal(height: int = 30) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=100, height=height, legacy_windows=False)


def test_time_left_is_this_sessions_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    board = Board(records(Status.DONE))  # 4 x 179 of 1,608 steps, done by an earlier session
    assert (board.steps, board.steps_done, board.trials_over) == (1608, 716, 1)
    assert board.seconds_left() is None
    assert board.headline() == "1/4 trials, 44 % of the steps"
    list(board.rows.values())[1].epoch = 2
    now[0] += 10
    assert board.seconds_left() == pytest.approx(10 / 358 * (1608 - 716 - 358))
    assert board.headline() == "1/4 trials, 66 % of the steps, 0:14 left"


@pytest.mark.parametrize(("done", "known"), [(8, False), (9, True)])
def test_time_left_is_not_told_from_the_very_first_steps(
    monkeypatch: pytest.MonkeyPatch, done: int, known: bool
) -> None:
    board = Board(records(Status.DONE))  # 892 steps to do
    monkeypatch.setattr(Board, "steps_done", 716 + done)
    assert (board.seconds_left() is not None) == known


def test_a_log_has_a_line_for_each_end_and_progress_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    board, console = Board(records()), lines()
    row = next(iter(board.rows.values()))
    with display_for(board, console) as display:
        assert isinstance(display, LineDisplay)
        row.status, row.epoch = Status.RUNNING, 1
        display.changed(row)
        assert text_of(console) == ""
        now[0] += progress.SECONDS_BETWEEN_LINES
        display.changed(row)
        display.changed(row)
        assert text_of(console) == "0/4 trials, 11 % of the steps, 1:19 left\n"
        row.status, row.average_rank, row.test_accuracy = Status.DONE, 53.24, 0.975
        display.changed(row)
        display.log("[a warning]")
    end, warning = text_of(console).splitlines()[1:]
    assert end.startswith(f"done     {row.trial.id}  batch size 8, lr 0.5, weight decay 0, seed 0: average rank 53.2")
    assert "test accuracy 0.975" in end
    assert warning == "[a warning]"


def test_a_terminal_has_a_row_for_each_trial_and_the_progress() -> None:
    board, console = Board(records(Status.DONE, Status.RUNNING, Status.FAILED)), terminal()
    with display_for(board, console) as display:
        assert isinstance(display, LiveDisplay)
        display.changed(next(iter(board.rows.values())))
        display.log("[careful]")
    console.print(display.render())
    shown = text_of(console)
    assert "[careful]" in shown
    for row in board.rows.values():
        assert row.trial.id in shown
        assert row.status in shown
    for value in ("4/4", "0/4", "53.2", "0.975", "2/4 trials"):
        assert value in shown


def test_a_low_terminal_shows_what_matters_now() -> None:
    statuses = (Status.DONE, Status.RUNNING, Status.FAILED, Status.PENDING)
    rows = list(Board(records(*statuses)).rows.values())
    assert [row.status for row in visible(rows, 2)] == [Status.RUNNING, Status.FAILED]
    assert [row.status for row in visible(rows, 0)] == [Status.RUNNING]
    assert visible(rows, 10) == rows
    console = terminal(height=8)
    console.print(LiveDisplay(Board(records(*statuses)), console).render())
    assert "2 more trials not shown" in text_of(console)


def test_a_failed_trial_takes_no_more_time() -> None:
    (record, *_) = records(Status.FAILED)
    row: Row = Board([record]).rows[record.id]
    assert row.steps_done == row.trial.steps


def test_tables_fit_a_log_of_eighty_columns_or_so() -> None:
    console = lines()
    done = [Status.DONE] * 8
    console.print(trials_table(records(*done, seed=[0, 1])), *rank_tables(records(*done, seed=[0, 1])))
    shown = text_of(console)
    assert "…" not in shown
    assert "Average rank (full: 92.8) and test accuracy; lr 0.5, momentum 0; mean of 2 seeds" in shown
    assert shown.count("53.2  0.975") == 4
    assert len(rank_tables(records(*done, lr=[0.1, 0.5]))) == 2
    assert rank_tables(records()) == []


def test_the_table_of_ranks_is_over_what_varies() -> None:
    console = lines()
    done = [Status.DONE] * 4
    console.print(*rank_tables(records(*done, batch_size=[8], lr=[0.1, 0.5])))
    console.print(*rank_tables(records(*done, weight_decay=[0.01], lr=[0.1, 0.5])))
    first, second = text_of(console).split("Average rank")[1:]
    assert "momentum 0, batch size 8" in first
    assert [line.split() for line in first.splitlines()[1:3]] == [
        ["weight", "decay", "weight", "decay"],
        ["lr", "0", "0.01"],
    ]
    assert "weight decay 0.01" in second.splitlines()[0]
    assert [line.split() for line in second.splitlines()[1:3]] == [["batch", "lr", "lr"], ["size", "0.1", "0.5"]]


def test_a_table_of_ranks_with_many_columns_loses_none_in_a_log() -> None:
    console = lines()
    console.print(*rank_tables(records(*[Status.DONE] * 10, weight_decay=[0.0, 2e-3, 4e-3, 6e-3, 8e-3])))
    assert [line.split()[0] for line in text_of(console).splitlines() if "53.2" in line] == ["8", "64"]
