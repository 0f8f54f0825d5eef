"""Sweeps side by side: what the page says of each, the means it draws, and trends as numbers."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from fastrank.experiments.records.ledger import LedgerError
from fastrank.experiments.reports.compare import write_comparison
from fastrank.experiments.reports.figures import comparison
from fastrank.experiments.reports.figures.drawing import NothingToDraw
from fastrank.experiments.reports.results import ReportError, Results, read_results
from fastrank.experiments.reports.trends import means, spearman, trends

ROWS = ["axis", "decayed", "rho", "slices", "values"]


@pytest.fixture(scope="module")
def sweeps(make_sweep: Callable[..., Any]) -> list[Any]:
    """Batch size x weight decay of one network with a collapsed trial; learning rate x weight decay of another."""
    one = make_sweep(batch_size=[8, 16, 32], weight_decay=[0.0, 0.005, 0.01], seed=[0, 1])
    for trial in one.trials:
        sunk = trial.batch_size == 8 and trial.weight_decay == 0.01
        one.finish(trial, test_accuracy=0.1 if sunk else 0.9 + trial.batch_size / 1000)
    two = make_sweep(batch_size=[16], lr=[0.05, 0.5], weight_decay=[0.005, 0.01], model={"name": "resnet18"})
    return [one, two.finish_all()]


def read(sweep: Any) -> Results:
    return read_results(sweep.folder, digests=False)


@pytest.fixture(scope="module")
def page(sweeps: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_comparison([sweep.folder for sweep in sweeps], tmp_path_factory.mktemp("page") / "compare.html")


def words(page: Path) -> str:
    return re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", page.read_text()))


@pytest.mark.parametrize(
    "text",
    [
        "mlp_bn depth 3, width 100 digits 18 of 18 batch size 8, 16, 32; weight decay 0, 0.005, 0.01 2 seeds",
        "resnet18 digits 4 of 4 learning rate 0.05, 0.5; weight decay 0.005, 0.01 0.001 (frobenius)",
        "0123abcd4567",
        "+1.00 2 slices of 3 values, +1.00 to +1.00 without weight decay: 0.00 1 slice of 3 values",
        "&minus;1.00 2 slices of 2 values, &minus;1.00 to &minus;1.00",
        "Collapsed networks are left out in: planted (sweep) .",
    ],
)
def test_page_says(page: Path, text: str) -> None:
    assert text.replace(" ", "") in words(page).replace(" ", "")


def test_page_is_one_file_that_needs_no_network(page: Path, sweeps: list[Any]) -> None:
    html = page.read_text()
    assert [path.name for path in page.parent.iterdir()] == ["compare.html"]
    assert re.findall('(?:src|href)="([^,"]*)', html) == ["data:image/svg+xml;base64"]
    assert not re.search(r"url\(|@import|https?://", html)
    before = page.read_bytes()
    assert write_comparison([sweep.folder for sweep in sweeps], page) == page
    assert page.read_bytes() == before


def test_trends_are_over_slices_and_leave_collapsed_networks_out(sweeps: list[Any]) -> None:
    one, two = (trends(read(sweep)) for sweep in sweeps)
    assert one[ROWS].to_numpy().tolist() == [
        ["batch_size", True, pytest.approx(1), 2, 3],  # of weight decay 0.01 the two sizes that have not collapsed
        ["batch_size", False, 0, 1, 3],
        ["weight_decay", True, pytest.approx(-1), 3, 3],
    ]
    assert two[ROWS].to_numpy().tolist() == [
        ["lr", True, pytest.approx(-1), 2, 2],
        ["weight_decay", True, pytest.approx(-1), 2, 2],
    ]


def share(sweep: Any, trial: Any) -> float:
    """The planted average rank, as a share of full rank."""
    return float(np.mean([sweep.rank(trial, full, trial.steps) for full in (64, 100, 100)]) / 88)


def test_means_are_over_the_same_settings_at_every_value(sweeps: list[Any]) -> None:
    table = means(read(sweeps[0]))
    sizes = table[table["axis"] == "batch_size"]
    assert sizes["value"].tolist() == [8, 16, 32]
    for row in sizes.itertuples():  # weight decay 0.01 has collapsed at 8, and 0 is another matter: 0.005 is left
        cell = [t for t in sweeps[0].trials if t.batch_size == row.value and t.weight_decay == 0.005]
        assert [row.rank_share, row.cells] == [pytest.approx(np.mean([share(sweeps[0], t) for t in cell])), 1]
        assert row.test_accuracy == pytest.approx(0.9 + row.value / 1000)
    decays = table[table["axis"] == "weight_decay"]
    assert decays["value"].tolist() == [0, 0.005, 0.01]
    for row in decays.itertuples():
        cell = [t for t in sweeps[0].trials if t.batch_size > 8 and t.weight_decay == row.value]
        assert [row.rank_share, row.cells] == [pytest.approx(np.mean([share(sweeps[0], t) for t in cell])), 2]


def test_a_line_a_sweep_is_drawn_where_it_has_values(sweeps: list[Any]) -> None:
    drawing = comparison.draw({"one": means(read(sweeps[0])), "two": means(read(sweeps[1]))})
    labels = [axes.get_xlabel() for axes in drawing.figure.axes[-3:]]
    assert labels == [f"{name} (log scale)" for name in ("batch size", "learning rate", "weight decay")]
    lines = [[line for line in axes.lines if line.get_label() in ("one", "two")] for axes in drawing.figure.axes[:3]]
    lines = [[line for line in panel if len(line.get_xdata())] for panel in lines]
    assert [[(line.get_label(), len(line.get_xdata())) for line in panel] for panel in lines] == [
        [("one", 3)],
        [("two", 2)],
        [("one", 2), ("one", 1), ("two", 2)],  # zero is not joined to the logarithm
    ]
    assert lines[0][0].get_color() != lines[1][0].get_color()
    assert lines[0][0].get_marker() != lines[1][0].get_marker()


def test_with_nothing_to_compare_the_page_says_so(make_sweep: Callable[..., Any], tmp_path: Path) -> None:
    folders = [make_sweep().folder, make_sweep(batch_size=[8], weight_decay=[0.01]).finish_all().folder]
    text = words(write_comparison(folders, tmp_path / "compare.html"))
    assert "Nothing to draw: no sweep has results at two values" in text
    assert "planted (sweep) #2" in text
    assert "Not all trials are done in: planted (sweep)." in text
    with pytest.raises(NothingToDraw):
        comparison.draw({"empty": means(read_results(folders[0], digests=False))})


def test_other_tolerances_are_pointed_out(make_sweep: Callable[..., Any], tmp_path: Path) -> None:
    folders = [make_sweep(tolerances=(value,)).finish_all().folder for value in (1e-3, 0.04)]
    assert "The sweeps count ranks at different tolerances" in words(write_comparison(folders, tmp_path / "c.html"))


def test_bad_calls_are_told_what_to_do(sweeps: list[Any], tmp_path: Path) -> None:
    one, two = (sweep.folder for sweep in sweeps)
    out = tmp_path / "compare.html"
    with pytest.raises(ReportError, match=r"give the folders of two sweeps or more, each once \(1 given\)"):
        write_comparison([one], out)
    with pytest.raises(ReportError, match=r"each once \(\S+ is given twice\)"):
        write_comparison([one, two, one / ".." / "sweep"], out)
    with pytest.raises(LedgerError, match=r"trials\.sqlite"):
        write_comparison([one, tmp_path], out)
    assert not out.exists()
    (tmp_path / "file").touch()
    with pytest.raises(ReportError, match="the comparison cannot be written"):
        write_comparison([one, two], tmp_path / "file" / "compare.html")


@given(st.lists(st.integers(0, 5), min_size=2, max_size=9))
def test_spearman_is_scipys(values: list[int]) -> None:
    x, y = pd.Series(range(len(values)), dtype=float) ** 2, pd.Series(values, dtype=float)
    expected = spearmanr(x, y).statistic if len(set(values)) > 1 else 0.0
    assert spearman(x, y) == pytest.approx(expected)
    assert spearman(x, y + 1e-12 * x / (1 + x.max())) == pytest.approx(expected)  # rounding is no trend


def test_names_are_shown_as_they_are_and_lose_no_sweep(make_sweep: Callable[..., Any], tmp_path: Path) -> None:
    names = ["n (sweep) #2", "n", "n", r"lr $\frac$", "_a", "_b"]
    folders = [make_sweep(name=name).finish_all().folder for name in names]
    page = write_comparison(folders, tmp_path / "compare.html")
    assert "6 sweeps compared" in words(page)
    known = means(read_results(folders[0], digests=False))
    [legend] = comparison.draw({"a $ b": known, "_c": known}).figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a \\$ b", " _c"]


def test_where_no_slice_has_all_values_the_means_are_still_over_the_same_settings(
    make_sweep: Callable[..., Any],
) -> None:
    sweep = make_sweep(batch_size=[8, 16, 32], weight_decay=[0.005, 0.01])
    for trial in sweep.trials:
        sunk = (trial.batch_size, trial.weight_decay) in {(8, 0.01), (32, 0.005)}
        sweep.finish(trial, test_accuracy=0.1 if sunk else 0.9)
    table = means(read(sweep))
    sizes = table[table["axis"] == "batch_size"]
    assert sizes["value"].tolist() == [8, 16]
    assert sizes["cells"].tolist() == [1, 1]
