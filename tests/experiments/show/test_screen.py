"""The picture fits every terminal, and its cells are the history's."""

import io
from pathlib import Path

import pytest
from planted_history import planted
from rich.console import Console

import fastrank
from fastrank.experiments.show.reader import History, Reader
from fastrank.experiments.show.screen import Screen, picture


def history_of(folder: Path, matrices: int = 3, steps: int = 40) -> History:
    """Matrix 1 falls to nothing in the middle; the last one is not finite in the second half."""

    def rank(step: int, matrix: int) -> int | None:
        late = step > steps // 2
        return None if late and matrix == matrices - 1 else 0 if late and matrix == 1 else 100

    fastrank.write_history(planted(range(1, steps + 1), matrices, rank), folder / "part-00000.parquet")
    return Reader(folder).read()


def test_without_colours_cells_are_shades(tmp_path: Path) -> None:
    lines = picture(history_of(tmp_path), Screen(42, 24, colours=False, unicode=True)).plain.splitlines()
    assert lines[1:6] == [
        "layer.0.weight ████████████████ 100 of 100",
        "layer.1.weight ████████         0 of 100",
        "layer.2.weight ████████········ not finite",
        "          step 1             40",
        "       average ████████········ ",
    ]


def test_without_unicode_they_are_digits(tmp_path: Path) -> None:
    text = picture(history_of(tmp_path), Screen(60, 24, colours=False, unicode=False)).plain
    assert text.isascii()
    assert "999999" in text
    assert "layer.1.weight 9" in text


def test_with_colours_a_cell_is_a_background(tmp_path: Path) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, color_system="truecolor", width=60, height=20, no_color=False)
    screen = Screen.of(console)
    assert (screen.width, screen.height, screen.colours) == (60, 20, True)
    console.print(picture(history_of(tmp_path), screen))
    row = next(line for line in out.getvalue().splitlines() if "layer.1" in line)
    assert "\x1b[48;2;253;231;37m" in row  # full rank
    assert "\x1b[48;2;68;1;84m" in row  # none


@pytest.mark.parametrize("size", [(100, 30), (60, 14), (40, 8), (20, 5), (3, 1)])
@pytest.mark.parametrize("colours", [True, False])
def test_it_fits_and_counts_what_it_leaves_out(tmp_path: Path, size: tuple[int, int], colours: bool) -> None:
    history = history_of(tmp_path, matrices=50)
    lines = picture(history, Screen(*size, colours, unicode=True), "a note").plain.splitlines()
    assert max(map(len, lines)) <= size[0]
    if size[1] >= 14:
        assert len(lines) < size[1]
        shown = sum("layer." in line and "lowest" not in line for line in lines)
        assert f"{50 - shown} of 50 matrices are not shown" in "\n".join(lines)


def test_one_step_is_a_picture(tmp_path: Path) -> None:
    text = picture(history_of(tmp_path, steps=1), Screen(80, 24, colours=False, unicode=True)).plain
    assert "3 matrices, step 1, " in text
    assert "layer.1.weight ████" not in text  # it is 0 of 100
