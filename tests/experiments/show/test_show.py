"""`show` ends, follows and says what is wrong."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from planted_history import planted
from rich.console import Console

import fastrank
from fastrank.experiments.show import ShowError, show
from fastrank.experiments.show.reader import Reader
from fastrank.experiments.show.show import follow_lines, follow_live


def write(folder: Path, steps: int) -> None:
    table = planted(range(1, steps + 1), 2, lambda step, i: 100 - step)
    fastrank.write_history(table, folder / "part-00000.parquet")


def console(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=80, height=24, color_system=None)


def script(*acts: Callable[[], object]) -> Callable[[], None]:
    """What happens each time that `show` waits; at the end somebody presses Ctrl-C."""
    coming: Iterator[Callable[[], object]] = iter(acts)

    def wait() -> None:
        act = next(coming, None)
        if act is None:
            raise KeyboardInterrupt
        act()

    return wait


def test_it_is_drawn_again_when_there_are_new_rows_and_left_at_the_end(tmp_path: Path) -> None:
    out = console(terminal=True)
    part = tmp_path / "part-00000.parquet"
    acts = [lambda: write(tmp_path, 3), lambda: None, lambda: write(tmp_path, 7), lambda: part.write_bytes(b"PAR1")]
    with pytest.raises(KeyboardInterrupt):
        follow_live(Reader(tmp_path), out, script(*acts))
    text = out.file.getvalue()  # type: ignore[attr-defined]
    assert "waiting for rows" in text
    assert "steps 1 to 3" in text
    assert text.count("truncated") == 1  # what cannot be read at present is a note under the last picture
    left = " ".join(text.rpartition("\x1b[?1049l")[2].split())  # on the user's own screen
    assert "steps 1 to 7, mean rank 93% of full" in left


def test_it_is_drawn_only_when_something_has_changed(tmp_path: Path) -> None:
    write(tmp_path, 3)
    out = console(terminal=True)
    drawn = []

    def note() -> None:
        drawn.append(len(out.file.getvalue()))  # type: ignore[attr-defined]

    with pytest.raises(KeyboardInterrupt):
        follow_live(Reader(tmp_path), out, script(note, note, lambda: setattr(out, "width", 60), note))
    assert drawn[0] == drawn[1] < drawn[2]


def test_where_there_is_no_terminal_each_change_is_a_line(tmp_path: Path) -> None:
    out = console(terminal=False)
    acts = [lambda: write(tmp_path, 3), lambda: None, lambda: write(tmp_path, 4)]
    with pytest.raises(KeyboardInterrupt):
        follow_lines(Reader(tmp_path), out, script(*acts))
    lines = out.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [line.split(", ")[1] for line in lines] == ["steps 1 to 3", "steps 1 to 4"]


def test_what_cannot_be_shown_is_said(tmp_path: Path, make_sweep: Callable[..., object]) -> None:
    with pytest.raises(ShowError, match="no such file or folder"):
        show(tmp_path / "nowhere")
    with pytest.raises(fastrank.HistoryError, match="holds no part"):
        show(tmp_path)
    sweep = make_sweep()
    with pytest.raises(ShowError, match="is a sweep's folder; show the history of one of its trials"):
        show(sweep.folder)  # type: ignore[attr-defined]


def test_a_sweeps_trial_is_shown(make_sweep: Callable[..., object], capsys: pytest.CaptureFixture[str]) -> None:
    sweep = make_sweep(batch_size=[32], weight_decay=[0.0])
    sweep.finish_all()  # type: ignore[attr-defined]
    show(sweep.folder / "history" / sweep.trials[0].id)  # type: ignore[attr-defined]
    out = capsys.readouterr().out
    assert "layers.2.weight ██" in out
    assert "3 matrices, steps 30 to 528, mean rank 100% of full" in out
