"""Attacks by names: of matrices in a history, of trials in a ledger, of data sets. They are text, and lead nowhere."""

from __future__ import annotations

import sqlite3
import xml.etree.ElementTree as ElementTree
from contextlib import closing
from html import escape
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest
from attack_files import NAMES

import fastrank
from fastrank.experiments.data.folder import file_of
from fastrank.experiments.data.info import DataError
from fastrank.experiments.records import Layout, Ledger, Status
from fastrank.experiments.records.ledger import LedgerError
from fastrank.experiments.reports import write_history_report
from fastrank.plotting.figures import STYLE


def evil_history(folder):
    """Two steps of a matrix for each of the names, as a file from anywhere may have them."""
    steps, count = 2, len(NAMES)
    numbers = {
        key: pa.array(np.full(steps * count, 3, np.int32)) for key in ("rows", "cols", "rank_lower", "rank_upper")
    }
    ones = {key: np.ones(steps * count) for key in ("stable_rank", "spectral_norm", "frobenius_norm")}
    table = {"step": np.repeat(np.arange(1, steps + 1), count), "name": NAMES * steps, **numbers, **ones}
    spectra = {"singular_values": [[1.0, 0.5, 0.1]] * (steps * count), "status": ["OK"] * (steps * count)}
    fastrank.write_history(pa.table({**table, **spectra}), folder / "part-00000.parquet")


class Tags(HTMLParser):
    """The tags of a page, their attributes, and its text."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.text = set(), [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def test_a_report_shows_names_and_runs_nothing(tmp_path, monkeypatch):
    """Markup in a name could run a script in the browser of whoever opens the report; a dollar ended it by an error."""
    monkeypatch.setitem(STYLE, "savefig.dpi", 20)
    evil_history(tmp_path)
    page = Tags()
    page.feed(write_history_report(tmp_path).read_text())
    assert "script" not in page.tags
    assert {key for key, _ in page.attributes if key.startswith("on")} == set()
    assert all(value.startswith(("data:", "#")) for key, value in page.attributes if key in ("src", "href"))
    assert [name for name in NAMES[:4] if name not in page.text] == []
    pictures = list((tmp_path / "figures").glob("*.svg"))
    assert len(pictures) == 3
    for picture in pictures:
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.parse(picture).iter()}
        assert not tags & {"script", "foreignObject", "a"}
    assert {path.parent for path in tmp_path.rglob("*") if path.is_file()} == {tmp_path, tmp_path / "figures"}
    assert escape(NAMES[0]) in fastrank.plotting.summary_html(standing()), "as a notebook shows it"


def standing():
    row = {"rank_lower": 3, "rank_upper": 3, "stable_rank": 1.0, "status": "OK"}
    return fastrank.plotting.Standing([NAMES[0]], [(3, 3)], 1, 2, {NAMES[0]: row}, owner="x")


@pytest.mark.parametrize("column", ["id", "stack"])
@pytest.mark.parametrize("name", ["../../home", "/etc", "..", ".", "", "a/b", "a\0b", ".hidden"])
def test_a_ledger_cannot_name_a_folder_elsewhere(tmp_path, column, name):
    """A trial's checkpoint and history are removed when it starts over: so would all of `../../home`."""
    Ledger.create(tmp_path, {}, {"one": {"lr": 1.0}})
    with closing(sqlite3.connect(Layout(tmp_path).ledger)) as connection, connection:
        connection.execute(f"UPDATE trials SET {column} = ?", (name,))
        connection.execute("UPDATE trials SET spec = '{}'")  # as an earlier fastrank wrote it, without a seal
    with pytest.raises(LedgerError, match=r"trials\.sqlite: the ledger is damaged"):
        Ledger.open(tmp_path).trials()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("spec", "[1]"),
        ("spec", "[" * 100_000),
        ("spec", b"\xff\xfe"),
        ("result", "3"),
        ("result", "{"),
        ("status", "done"),
        ("status", None),
    ],
)
def test_a_ledger_with_other_values_is_damaged(tmp_path, column, value):
    Ledger.create(tmp_path, {}, {"one": {"lr": 1.0}})
    with closing(sqlite3.connect(Layout(tmp_path).ledger)) as connection, connection:
        connection.execute("CREATE TABLE copied AS SELECT * FROM trials")  # without what the schema forbids
        connection.execute("DROP TABLE trials")
        connection.execute("ALTER TABLE copied RENAME TO trials")
        connection.execute(f"UPDATE trials SET {column} = ?", (value,))
    with pytest.raises(LedgerError, match=r"trials\.sqlite: the ledger is damaged"):
        Ledger.open(tmp_path).trials()


def test_a_result_that_somebody_has_changed_by_hand_is_noticed(tmp_path):
    """By chance or by somebody who knows no better: the seal is a checksum, and no signature."""
    Ledger.create(tmp_path, {}, {"one": {"lr": 1.0}})
    ledger = Ledger.open(tmp_path)
    ledger.finish("one", Status.DONE, {"average_rank": 5.5}, 1.0)
    with closing(sqlite3.connect(ledger.path)) as connection, connection:
        (text,) = connection.execute("SELECT result FROM trials").fetchone()
        connection.execute("UPDATE trials SET result = ?", (text.replace("5.5", "4.5"),))
    with pytest.raises(LedgerError, match="the row of one is not as it was written"):
        ledger.trials()


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "..", ".hidden", "", "a\0"])
def test_a_data_set_cannot_name_a_file_elsewhere(tmp_path, name):
    with pytest.raises(DataError, match="cannot be a data set's name"):
        file_of(name, tmp_path)


def test_names_are_data_in_tables(tmp_path):
    """A name that a spreadsheet would take for a formula is written as it is: see SECURITY.md."""
    evil_history(tmp_path)
    found = set(fastrank.read_history(tmp_path)["name"].to_pylist())
    assert found == set(NAMES)
