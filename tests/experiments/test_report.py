"""The report is one file with everything in it, the same at every rebuild, and safe against what sweeps contain."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fastrank.experiments.ledger import LedgerError
from fastrank.experiments.report import write_report
from fastrank.experiments.results import ReportError

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


@pytest.fixture(scope="module")
def mixed(make_sweep: Callable[..., Any]) -> Any:
    """One trial done, one collapsed, one failed with a hostile error text, one diverged."""
    sweep = make_sweep()
    done, collapsed, failed, diverged = (sweep.trials[i] for i in (1, 3, 0, 2))
    sweep.finish(done)
    sweep.finish(collapsed, test_accuracy=0.1)
    sweep.fail(failed, "RuntimeError: </pre><script>alert('no')</script> & $commit")
    sweep.diverge(diverged)
    write_report(sweep.folder)
    return sweep


def test_report_is_self_contained_and_well_formed(mixed: Any) -> None:
    page = Page(mixed.folder / "report.html")
    assert len(page.references) == 5
    assert all(reference.startswith("data:image/svg+xml;base64,") for reference in page.references)
    assert not re.search(r"url\(|@import|https?://", (mixed.folder / "report.html").read_text())


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
    ],
)
def test_report_says(mixed: Any, words: str) -> None:
    assert words.replace(" ", "") in Page(mixed.folder / "report.html").text.replace(" ", "")


def test_error_texts_are_shown_and_escaped(mixed: Any) -> None:
    text = Page(mixed.folder / "report.html").text
    assert "RuntimeError: </pre><script>alert('no')</script> & $commit" in text
    assert f"Trial {mixed.trials[0].id} failed, attempts: 2" in text


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
        files = [mixed.folder / "report.html", *(mixed.folder / "figures").iterdir()]
        return {path.name: path.read_bytes() for path in files}

    before = content()
    assert len(before) == 1 + 5 * 3
    write_report(mixed.folder)
    assert content() == before


def test_a_trial_can_be_chosen_by_the_start_of_its_id(make_sweep: Callable[..., Any]) -> None:
    sweep = make_sweep().finish_all()
    chosen = sweep.trials[2].id
    assert f"Trial {chosen} (batch size 32, weight decay 0" in Page(write_report(sweep.folder, chosen[:8])).text
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
