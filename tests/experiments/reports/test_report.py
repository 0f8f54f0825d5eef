"""The report is one file with everything in it, the same at every rebuild, and safe against what sweeps contain."""

import re
from base64 import b64decode
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fastrank.experiments.records.ledger import LedgerError
from fastrank.experiments.reports import report
from fastrank.experiments.reports.figures.draw import Picture
from fastrank.experiments.reports.report import write_report
from fastrank.experiments.reports.results import ReportError, collapse
from fastrank.plotting.figures import STYLE

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Collects text and references, and insists that every element is closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "iframe")
        self.references += [value or "" for key, value in attrs if key in ("src", "href", "srcset")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))


@pytest.fixture(scope="module", autouse=True)
def _coarse_pictures() -> Iterator[None]:
    """Fewer dots: what is tested here is not how the pictures look."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STYLE, "savefig.dpi", 40)
        yield


@pytest.fixture
def _without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page alone: drawing takes most of the time. Of the figures it holds which trial they are of."""
    monkeypatch.setattr(report, "draw_figures", lambda results, trial: [Picture("", f"of {trial}", "", None)])


@pytest.fixture(scope="module")
def mixed(make_sweep: Callable[..., Any]) -> Any:
    """One trial done, one collapsed, one failed with a hostile error text, one diverged."""
    sweep = make_sweep()
    done, collapsed, failed, diverged = (sweep.trials[i] for i in (1, 3, 0, 2))
    sweep.finish(done, test_accuracies=[0.9] * 12)
    sweep.finish(collapsed, test_accuracy=0.1)
    sweep.fail(failed, "RuntimeError: </pre><script>alert('no')</script> & $commit")
    sweep.diverge(diverged)
    write_report(sweep.folder)
    return sweep


FIGURES = (
    *("rank_map_weight_decay_batch_size", "rank_by_batch_size", "rank_over_steps", "rank_against_accuracy"),
    *("rank_and_accuracy", "rank_by_matrix", "spectrum", "rank_by_matrix_corners"),
)


def test_report_is_self_contained_and_well_formed(mixed: Any) -> None:
    page = Page(mixed.folder / "report.html")
    assert len(page.references) == len(FIGURES)
    shown = [b64decode(reference.partition(";base64,")[2]) for reference in page.references]
    kinds = {"data:image/svg+xml;base64": "svg", "data:image/png;base64": "png"}
    for name, reference, image in zip(FIGURES, page.references, shown, strict=True):
        files = [mixed.folder / "figures" / f"{name}.{ending}" for ending in ("svg", "png")]
        smaller = min(files, key=lambda file: file.stat().st_size)
        assert kinds[reference.partition(",")[0]] == smaller.suffix[1:]
        assert image == smaller.read_bytes()
    assert not re.search(r"url\(|@import|https?://", (mixed.folder / "report.html").read_text())


def test_every_figure_is_there_as_png_svg_and_csv(mixed: Any) -> None:
    files = {path.name: path.read_bytes() for path in (mixed.folder / "figures").iterdir()}
    assert files.keys() == {f"{name}.{ending}" for name in FIGURES for ending in ("png", "svg", "csv")}
    assert all(content.startswith(b"\x89PNG") for name, content in files.items() if name.endswith("png"))
    assert all(b"<svg" in content for name, content in files.items() if name.endswith("svg"))
    assert all(content.count(b"\n") > 1 for name, content in files.items() if name.endswith("csv"))


@pytest.mark.parametrize(
    "words",
    [
        "number of singular values above the threshold τ",
        "Sylvester's law of inertia",
        "Stable rank",
        "τ = 0.001 · ‖W‖F",
        "commit0123abcd4567",
        "fastrank 0.1.0, torch 2.13.0",
        "seeds0",
        "batch_size = [8, 32], lr = [0.5], weight_decay = [0, 0.01]",
        "2 done, 1 diverged, 1 failed",
        "48.3of 88.0",
        "collapsed",
        "mlp_bn (depth 3, width 100) trained on digits by",
        "4 trials in which batch size and weight decay vary.",
        "Test accuracy below twice chance, 20%.",
        "classes = 10",
        "machines1",
        "devicescpu",
    ],
)
def test_report_says(mixed: Any, words: str) -> None:
    assert words.replace(" ", "") in Page(mixed.folder / "report.html").text.replace(" ", "")


def test_error_texts_are_shown_and_escaped(mixed: Any) -> None:
    text = Page(mixed.folder / "report.html").text
    assert "RuntimeError: </pre><script>alert('no')</script> & $commit" in text
    assert f"Trial {mixed.trials[0].id} failed, attempts: 2" in text


@pytest.mark.usefixtures("_without_figures")
def test_certified_share_counts_rows(make_sweep: Callable[..., Any]) -> None:
    sweep = make_sweep(batch_size=[32], weight_decay=[0.01]).finish_all()
    [trial] = sweep.trials
    columns = sweep.history(trial).to_pydict()
    columns["rank_upper"][0] += 1
    sweep.write_history(trial, sweep.history(trial).from_pydict(columns, schema=sweep.history(trial).schema))
    rows = len(columns["step"])
    text = Page(write_report(sweep.folder)).text
    assert f"{rows} , of which".replace(" ,", ",") in text
    assert f"{rows - 1} certified and 0 not finite" in text
    assert f"{10_000 * (rows - 1) // rows / 100:g}%" in text


def test_rebuilding_gives_the_same_bytes(mixed: Any) -> None:
    def content() -> dict[str, bytes]:
        files = [
            mixed.folder / "report.html",
            mixed.folder / "generalisation.csv",
            *(mixed.folder / "figures").iterdir(),
        ]
        return {path.name: path.read_bytes() for path in files}

    before = content()
    assert len(before) == 2 + len(FIGURES) * 3
    write_report(mixed.folder)
    assert content() == before


@pytest.mark.usefixtures("_without_figures")
def test_a_trial_can_be_chosen_by_the_start_of_its_id(make_sweep: Callable[..., Any]) -> None:
    sweep = make_sweep().finish_all()
    chosen = sweep.trials[2].id
    assert f"of {chosen}" in Page(write_report(sweep.folder, chosen[:8])).text
    with pytest.raises(ReportError, match=f"trial: 'zzz' is the start of 0 ids.*{chosen}"):
        write_report(sweep.folder, "zzz")
    with pytest.raises(ReportError, match="trial: '' is the start of 4 ids"):
        write_report(sweep.folder, "")


def test_with_nothing_done_there_is_a_report_that_says_so(make_sweep: Callable[..., Any]) -> None:
    page = Page(write_report(make_sweep().folder))
    assert "Nothing to draw: no done trial has a readable history." in page.text
    assert "0 of 4 trials done".replace(" ", "") in page.text.replace(" ", "")
    assert page.references == []


def test_without_a_ledger_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"trials\.sqlite"):
        write_report(tmp_path)


def test_a_folder_that_cannot_be_written_is_named_and_the_old_report_stays(make_sweep: Callable[..., Any]) -> None:
    sweep = make_sweep(batch_size=[32], weight_decay=[0.01]).finish_all()
    (sweep.folder / "report.html").write_text("old")
    (sweep.folder / "figures").write_text("a file where the folder should be")
    with pytest.raises(ReportError, match=f"{sweep.folder}: the report cannot be written"):
        write_report(sweep.folder)
    assert (sweep.folder / "report.html").read_text() == "old"


def test_results_that_do_not_know_their_classes_are_refused(tmp_path: Path, make_sweep: Callable[..., Any]) -> None:
    sweep = make_sweep()
    ledger = type(sweep.ledger).create(tmp_path, {"config": {}}, {trial.id: trial.spec for trial in sweep.trials})
    with pytest.raises(ReportError, match=f"{ledger.path.parent}: an earlier fastrank wrote this ledger"):
        write_report(tmp_path)


@pytest.mark.usefixtures("_without_figures")
def test_generalisation_is_a_row_a_cell(make_sweep: Callable[..., Any]) -> None:
    sweep = make_sweep(weight_decay=[0.01], lr=[0.1, 0.5], seed=[0, 1, 2])
    for trial in sweep.trials:
        sweep.finish(trial, test_accuracy=0.9 + 0.01 * trial.seed, train_accuracy=0.95)
    text = Page(write_report(sweep.folder)).text.replace(" ", "")
    table = pd.read_csv(sweep.folder / "generalisation.csv")
    assert table[["batch_size", "lr"]].to_numpy().tolist() == [[8, 0.1], [8, 0.5], [32, 0.1], [32, 0.5]]
    for row in table.itertuples():
        cell = [t for t in sweep.trials if (t.batch_size, t.lr) == (row.batch_size, row.lr)]
        ranks = pd.Series([sum(sweep.rank(t, full, t.steps) for full in (64, 100, 100)) / 3 for t in cell])
        assert [row.rank_mean, row.rank_std] == pytest.approx([ranks.mean(), ranks.std()])
        assert row.rank_share == pytest.approx(ranks.mean() / 88)
        assert [row.trials, row.gap_mean, row.gap_std] == pytest.approx([3, 0.04, 0.01])
        assert [row.test_accuracy_min, row.test_accuracy_max] == pytest.approx([0.9, 0.92])
        assert f"{row.batch_size}{row.lr:g}395.0%±0.0%91.0%±1.0%4.0±1.0{ranks.mean():.1f}" in text


@pytest.mark.usefixtures("_without_figures")
def test_tables_are_of_the_first_two_settings_that_vary(make_sweep: Callable[..., Any]) -> None:
    sweep = make_sweep(batch_size=[32], lr=[0.1, 0.5], weight_decay=[0.001, 0.01], momentum=[0.0, 0.9]).finish_all()
    html = write_report(sweep.folder).read_text()
    assert re.findall("<caption>(.*?)</caption>", html) == ["momentum 0", "momentum 0.9"]
    [first, _second] = re.findall("<table class=pivot>(.*?)</table>", html)
    assert re.findall("<th scope=(.*?)</th>", first) == [
        *("col>learning rate 0.1", "col>learning rate 0.5"),
        *("row>weight decay 0.001", "row>weight decay 0.01"),
    ]


@pytest.mark.usefixtures("_without_figures")
def test_networks_without_options_are_named_alone(make_sweep: Callable[..., Any]) -> None:
    sweep = make_sweep(model={"name": "resnet18"}, batch_size=[32], weight_decay=[0.01]).finish_all()
    assert "matrices of resnet18 trained on digits by" in Page(write_report(sweep.folder)).text


@pytest.mark.parametrize(("classes", "threshold"), [(2, 0.75), (3, 2 / 3), (10, 0.2), (100, 0.02)])
def test_collapse_is_below_twice_chance_but_never_all_there_is(classes: int, threshold: float) -> None:
    assert collapse(classes) == pytest.approx(threshold)
