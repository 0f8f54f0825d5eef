"""What ``fastrank factorize`` prints and writes, and what its options may be."""

from __future__ import annotations

import csv
import json
import sys

import pytest
import torch
from torch import nn

import fastrank
from fastrank.experiments.cli import main
from fastrank.experiments.factorize import _rounded_up
from fastrank.testing import make


@pytest.fixture
def checkpoint(tmp_path):
    """A layer that saves, one that does not, and what is in none."""
    model = nn.Sequential(nn.Linear(60, 40), nn.Linear(40, 40))
    with torch.no_grad():
        model[0].weight.copy_(make("low_rank", 40, 60, seed=1).matrix)
        model[1].weight.copy_(torch.eye(40))
    torch.save({"model": {**model.state_dict(), "pos": torch.ones(2, 3)}, "best so far": {"w": torch.eye(2)}}, "x.pt")
    return tmp_path / "x.pt"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(monkeypatch, *arguments):
    """The exit status of ``fastrank factorize arguments...``."""
    monkeypatch.setattr(sys, "argv", ["fastrank", "factorize", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code


NOTES = ["kept: pos (not called weight)", "not looked at: best so far (1 tensor; --key 'best so far')"]


def test_the_table_says_what_is_saved_and_what_is_kept(checkpoint, monkeypatch, capsys):
    assert run(monkeypatch, checkpoint, "--tolerance", "1e-3") == 0
    printed = capsys.readouterr().out
    assert "1 of 2 matrices as factors; parameters: 4,086 before, 2,686 after (65.7%)" in printed
    assert "rank 40 saves nothing" in printed
    assert printed.splitlines()[-3:] == [*NOTES, "nothing is written: --out FILE writes the factors"]


def test_what_is_written_is_loaded(checkpoint, tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, checkpoint, "--error", 1e-3, "--out", "y.safetensors", "--csv") == 0
    out, err = capsys.readouterr()
    assert err.splitlines() == [*NOTES, "written: y.safetensors"]
    first, second = csv.DictReader(out.splitlines())
    assert (first["name"], first["k"], first["stored"], first["kept"]) == ("0.weight", "10", "1000", "")
    assert second["kept"] == f"rank {second['k']} saves nothing"
    assert run(monkeypatch, checkpoint, "--error", 1e-3, "--json", "--out", "z.safetensors", "--exclude", "pos") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["parameters"], found["stored"]) == (4086, 2686)
    assert found["matrices"][0]["relative_error"] == float(first["relative_error"])
    state = torch.load(checkpoint)["model"]
    model = nn.Sequential(nn.Linear(60, 40), nn.Linear(40, 40))
    model.register_buffer("pos", torch.zeros(2, 3))
    loaded = fastrank.load_factorized("y.safetensors", model)
    error = (loaded[0].weight.double() - state["0.weight"].double()).norm()
    assert error <= float(first["error"]) + 1e-5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--tolerance, --error: give one of them"),
        (["--tolerance", "1", "--error", "1"], "--tolerance, --error: give one of them"),
        (["--error", "2"], "--error 2: expected a share of the norm"),
        (["--error", "nan"], "--error nan: expected a share of the norm"),
        (["--tolerance", "inf"], "--tolerance, --relative-to: Tolerance: value must be finite"),
        (["--tolerance", "1", "--relative-to", "me"], "--relative-to: Tolerance: relative_to must be one of"),
        (["--error", "1", "--json", "--csv"], "only one of them can be printed"),
    ],
)
def test_options_that_cannot_be_are_named(options, said, checkpoint, monkeypatch, capsys):
    assert run(monkeypatch, checkpoint, *options) == 2
    assert said in capsys.readouterr().err
    assert [*checkpoint.parent.iterdir()] == [checkpoint]


def test_a_bound_is_never_rounded_down():
    for bound in (0.0, 1.0, 1.001, 9.999e-5, 1.2345e-300, 1.0049999, 0.0123, 5e-324):
        assert bound <= float(_rounded_up(bound)) <= bound * 1.01 + 1e-320
