"""What ``fastrank analyze`` prints: a table for people, JSON and CSV for programs, and what its options may be."""

import csv
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

import fastrank
from fastrank.experiments.analyze import Request, parse_split, print_analysis
from fastrank.experiments.cli import main
from fastrank.experiments.errors import UsageError


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Matrices of rank 2, 1 and of none, and a norm beyond FP64's; a count, a sparse one, and weights beside them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # rows are not kept in the user's own folder
    state = {
        "first.weight": torch.full((3, 3), torch.nan),
        "second.weight": torch.eye(3)[:2],
        "huge": torch.full((4, 4), 1e308, dtype=torch.float64),
        "bias": torch.ones(3),
        "steps": torch.zeros(2, 2, dtype=torch.int64),
        "sparse": torch.eye(3).to_sparse(),
    }
    torch.save({"model": state, "best so far": {"w": torch.eye(2)}}, tmp_path / "x.pt")
    return tmp_path / "x.pt"


NOTES = [
    "left out: steps (dtype int64)",
    "left out: sparse (sparse_coo)",
    "left out: 1 vector or scalar",
    "not looked at: best so far (1 tensor; --key 'best so far')",
]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int | str | None:
    """The exit status of ``fastrank analyze arguments...``."""
    monkeypatch.setattr(sys, "argv", ["fastrank", "analyze", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code


def test_what_has_no_rank_is_said_to_have_none(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_analysis(checkpoint, out=tmp_path / "x.csv")
    printed = capsys.readouterr().out
    assert "3 matrices; rank: singular values above 0.001 of the Frobenius norm" in printed
    assert "not finite" in printed
    assert printed.splitlines()[-len(NOTES) :] == NOTES
    rows = list(csv.DictReader((tmp_path / "x.csv").read_text().splitlines()))
    assert [row["rank_lower"] for row in rows] == ["", "2", "1"]
    assert rows[0]["status"] == "NONFINITE"


def test_energy_ranks_are_columns_more(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, checkpoint, "--csv", "--energy", 0.5, "--energy", 1) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["energy_rank"] for row in rows] == ["", "1", "1"]
    assert [row["energy_rank@1"] for row in rows] == ["", "2", "1"]
    assert run(monkeypatch, checkpoint, "--energy", 0.5) == 0
    assert "energy" in capsys.readouterr().out
    assert run(monkeypatch, checkpoint, "--energy", 0) == 2
    assert "--energy 0.0: expected shares above 0 and at most 1" in capsys.readouterr().err


def test_json_stands_alone_with_null_for_what_is_not_known(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    assert run(monkeypatch, checkpoint, "--json", "--tolerance", 0.5, "--relative-to", "spectral") == 0
    printed = capsys.readouterr()
    found: dict[str, Any] = json.loads(printed.out, parse_constant=refuse)
    assert list(found) == ["tolerance", "matrices", "layer_types", "left_out", "scaled", "not_looked_at"]
    assert found["tolerance"] == {"value": 0.5, "relative_to": "spectral"}
    nowhere, second, huge = found["matrices"]
    assert nowhere == {
        **dict.fromkeys(second),
        **{"name": "first.weight", "rows": 3, "cols": 3, "status": "NONFINITE", "layer_type": "other"},
    }
    assert (second["name"], second["rank_lower"], second["stable_rank"]) == ("second.weight", 2, pytest.approx(2))
    assert type(second["rank_lower"]) is int
    assert (huge["rank_upper"], huge["frobenius_norm"]) == (1, None)
    assert list(second) == list(fastrank.analyze({"w": torch.eye(2)}).columns)
    assert found["left_out"] == [note.removeprefix("left out: ") for note in NOTES[:3]]
    assert found["not_looked_at"] == [{"key": "best so far", "holds": "1 tensor"}]
    assert printed.err.splitlines() == NOTES


def test_csv_stands_alone_and_is_what_is_written(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, checkpoint, "--csv", "--out", tmp_path / "x.csv") == 0
    printed = capsys.readouterr()
    assert printed.out == (tmp_path / "x.csv").read_text()
    header, first, *_ = printed.out.splitlines()
    assert header.startswith("name,rows,cols,rank_lower,rank_upper,stable_rank,")
    assert first == "first.weight,3,3,,,,,,NONFINITE,,,,other"
    assert printed.err.splitlines() == NOTES


@pytest.mark.parametrize("form", [[], ["--json"], ["--csv"]])
def test_a_pipe_that_nobody_reads_is_left_quietly(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    form: list[str],
) -> None:
    """As with ``| head``. What was to be written is written."""
    reader, writer = os.pipe()
    os.close(reader)
    stdout = open(writer, "w")  # noqa: PTH123, SIM115 (of a descriptor, and closing it fails, as it has to)
    monkeypatch.setattr(sys, "stdout", stdout)
    assert run(monkeypatch, checkpoint, *form, "--out", tmp_path / "x.csv") == 1
    monkeypatch.undo()
    with suppress(BrokenPipeError):
        stdout.close()
    assert (tmp_path / "x.csv").exists()
    assert capsys.readouterr().err.splitlines() == (NOTES if form else [])


def test_what_cannot_be_analysed_is_said_in_a_line(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(fastrank.AnalyzeError, match="relative_to must be one of"):
        print_analysis(checkpoint, Request(threshold=(1e-3, "nuclear")))
    (tmp_path / "no.pt").write_text("no checkpoint")
    for arguments, status, reason in (
        ([tmp_path / "no.pt"], 1, f"fastrank: {tmp_path / 'no.pt'}: holds more than tensors and plain values"),
        ([checkpoint, "--split", "second*=q,q"], 1, "fastrank: split: 'second*' has a name twice"),
        ([checkpoint, "--key", "optimizer"], 1, f"fastrank: {checkpoint}: has no 'optimizer': there is no"),
        ([checkpoint, "--split", "w"], 2, "fastrank: --split w: expected GLOB=PARTS"),
        ([checkpoint, "--json", "--csv"], 2, "fastrank: --json, --csv: only one of them can be printed"),
    ):
        assert run(monkeypatch, *arguments) == status
        printed = capsys.readouterr()
        assert printed.err.startswith(reason)
        assert (printed.err.count("\n"), printed.out) == (1, "")


def test_rows_are_kept_until_all_are_printed_and_then_removed(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "cache" / "fastrank" / "analyses"
    assert run(monkeypatch, checkpoint, "--csv") == 0
    whole = capsys.readouterr().out
    assert list(folder.iterdir()) == []

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fastrank.experiments.analyze.rows_of", interrupted)
    assert run(monkeypatch, checkpoint, "--csv") == 130
    assert len(list(folder.glob("*.rows"))) == 1
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("fastrank.analysis.measure._rows", lambda *_: pytest.fail("it was measured again"))
    assert run(monkeypatch, checkpoint, "--csv") == 0
    printed = capsys.readouterr()
    assert printed.out == whole
    assert "known from an earlier run: 3 of 3 weights" in printed.err
    assert list(folder.iterdir()) == []


def test_without_the_spectrum_its_columns_are_not_there(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keep = ("--keep", tmp_path / "keep", "--no-spectrum")
    assert run(monkeypatch, checkpoint, *keep, "--csv", "--jobs", 2, "--figure", tmp_path / "x.svg") == 0
    header = capsys.readouterr().out.splitlines()[0]
    assert header.endswith("frobenius_norm,status,layer_type")
    assert (tmp_path / "x.svg").exists()
    assert run(monkeypatch, checkpoint, *keep) == 0
    printed = capsys.readouterr().out
    assert "effective" not in printed
    assert "by type of layer" in printed
    assert run(monkeypatch, checkpoint, *keep, "--energy", 0.5) == 1
    assert "energy: energy ranks need the whole spectrum" in capsys.readouterr().err


def test_two_checkpoints_stand_side_by_side(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = {"second.weight": torch.ones(2, 3), "huge": torch.eye(5), "more": torch.eye(2)}
    torch.save(other, tmp_path / "other.pt")
    assert run(monkeypatch, checkpoint, "--against", tmp_path / "other.pt", "--json", "--energy", 0.5) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    (row,) = found["matrices"]
    assert (row["name"], row["rank_lower"], row["rank_lower_against"]) == ("second.weight", 2, 1)
    assert (row["energy_rank"], row["energy_rank_against"], row["layer_type"]) == (1, 1, "other")
    of_both = [(x["matrices"], x["rank"]) for name in ("layer_types", "layer_types_against") for x in found[name]]
    assert of_both == [(1, 1.0), (1, 0.5)]
    alone = [f"only in {tmp_path / 'other.pt'}, or of another shape there: {name}" for name in ("huge", "more")]
    assert [line for line in printed.err.splitlines() if "other.pt" in line] == alone
    assert run(monkeypatch, checkpoint, "--against", tmp_path / "other.pt", "--out", tmp_path / "x.csv") == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("second"))
    assert line.split() == ["second.weight", "2", "x", "3", "2", "2", "1", "2.0", "1.0", "2.0"]
    assert "stable_rank_against" in (tmp_path / "x.csv").read_text().splitlines()[0]
    assert run(monkeypatch, checkpoint, "--against", checkpoint, "--figure", tmp_path / "x.png") == 2
    assert "a figure is of one checkpoint" in capsys.readouterr().err
    torch.save({"w": torch.eye(2)}, tmp_path / "other.pt")
    assert run(monkeypatch, checkpoint, "--against", tmp_path / "other.pt") == 1
    assert "has no matrix of a name and shape that" in capsys.readouterr().err


def test_a_terminal_sees_a_bar_and_that_an_interruption_loses_nothing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[float] = []

    def interrupted(*_: object, progress: Any, **__: object) -> None:
        for done in (1.0, 2.0):
            progress(done, 4.0)
            told.append(done)
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(fastrank, "analyze", interrupted)
    assert run(monkeypatch, checkpoint, "--keep", tmp_path) == 130
    said = capsys.readouterr().err
    assert told == [1.0, 2.0]
    assert "50%" in said
    assert "left" in said
    assert said.endswith("interrupted: the same command goes on from here\n")


def test_a_split_is_a_glob_with_parts_and_an_axis() -> None:
    assert parse_split("*.c_attn.weight=q,k,v:1") == ("*.c_attn.weight", (["q", "k", "v"], 1))
    assert parse_split("a=b=3") == ("a=b", (3, 0))
    assert parse_split("w=4096,1024,1024:-1") == ("w", ([4096, 1024, 1024], -1))
    for wrong in ("w", "w=", "=3", "w=q", "w=q,3", "w=q,,v", "w=3:x", "w=2.5"):
        with pytest.raises(UsageError, match=rf"^--split {wrong}: expected GLOB=PARTS"):
            parse_split(wrong)


def test_whole_names_are_printed_when_piped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each matrix, and one for each reason, however long: grep and awk find what they look for."""
    name = ".".join(f"a_module_of_a_long_name_{i}" for i in range(20))
    state = {f"{name}.weight": torch.eye(3), f"{name}.counts": torch.ones(2, 2, dtype=torch.int8)}
    torch.save({"model": state, f"{name}.ema": state}, tmp_path / "x.pt")
    print_analysis(tmp_path / "x.pt")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:5] for line in lines if line.startswith(name)] == [[f"{name}.weight", "3", "x", "3", "3"]]
    assert f"left out: {name}.counts (dtype int8)" in lines
    assert f"not looked at: {name}.ema (2 tensors; --key {name}.ema)" in lines
