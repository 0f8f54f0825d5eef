"""Attacks by files that `fastrank.analyze` reads. Each ends in an error of this library that names the file, quickly,
and nothing in the file is run."""

from __future__ import annotations

import json
import pickle
import sys
import time

import pytest
import torch
from attack_files import FILES, NAMES, Evil, saved

import fastrank
from fastrank.experiments import cli


@pytest.mark.parametrize("name", FILES)
def test_a_malformed_checkpoint_is_refused(tmp_path, name):
    """What it tries is in `attack_files`."""
    path = tmp_path / name
    path.write_bytes(FILES[name][0])
    started = time.process_time()
    with pytest.raises(fastrank.AnalyzeError) as caught:
        fastrank.analyze(path)
    assert str(path) in str(caught.value)
    assert time.process_time() - started < 5
    assert len(FILES[name][0]) < 700_000


@pytest.mark.parametrize("zipped", [True, False, None])
def test_a_pickle_that_runs_code_is_not_unpickled(tmp_path, zipped):
    """The oldest attack by checkpoints: the pickle calls a function, here one that makes a folder."""
    harm = tmp_path / "harm"
    evil = {"w": Evil(harm)}
    content = pickle.dumps(evil) if zipped is None else saved(evil, _use_new_zipfile_serialization=zipped)
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(fastrank.AnalyzeError, match=r"x\.pt: holds more than tensors .* could run any code"):
        fastrank.analyze(tmp_path / "x.pt")
    assert not harm.exists()
    pickle.loads(pickle.dumps(evil))
    assert harm.exists(), "it does what it is made for"


def test_a_part_that_is_a_link_of_the_hub_is_read(tmp_path):
    """No attack: the hub's cache keeps its files in another folder, and links to them."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "blobs" / "0123").write_bytes(saved({"a": torch.eye(3)}))
    (tmp_path / "snapshot" / "x.bin").symlink_to("../blobs/0123")
    index = tmp_path / "snapshot" / "x.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "x.bin"}}))
    assert fastrank.analyze(index)["rank_lower"].tolist() == [3]


def test_a_matrix_that_repeats_its_memory_costs_no_other(tmp_path):
    """One number that says it is 10^12: it is left out, and the others are measured."""
    torch.save({"w": torch.ones(1).expand(10**6, 10**6), "v": torch.eye(3)}, tmp_path / "x.pt")
    found = fastrank.analyze(tmp_path / "x.pt")
    assert found["name"].tolist() == ["v"]
    assert found.attrs["left_out"] == ["w (of 4000000000000 bytes, which repeat 4)"]
    torch.save({"w": torch.ones(1).expand(100, 50)}, tmp_path / "x.pt")
    assert fastrank.analyze(tmp_path / "x.pt")["rank_lower"].tolist() == [1], "a small one is"


@pytest.mark.parametrize("form", [[], ["--csv"], ["--json"], ["--key", "\x1b[2J"]])
def test_names_do_nothing_to_a_terminal(tmp_path, form, monkeypatch, capsys):
    """Escape codes in names could clear the screen, or show other ranks than those that were counted."""
    (tmp_path / "x.pt").write_bytes(saved({name: i * torch.eye(3) for i, name in enumerate(NAMES)}))
    monkeypatch.setattr(sys, "argv", ["fastrank", "analyze", str(tmp_path / "x.pt"), *form])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert "\x1b" not in said.err
    assert form == ["--csv"] or "\x1b" not in said.out  # CSV is data, for a program
    assert bool(ended.value.code) == ("--key" in form)


@pytest.mark.parametrize("name", ["laughs.pt", "outside.index.json", "long_header.safetensors"])
def test_the_command_line_says_it_in_a_line(tmp_path, name, monkeypatch, capsys):
    (tmp_path / name).write_bytes(FILES[name][0])
    monkeypatch.setattr(sys, "argv", ["fastrank", "analyze", str(tmp_path / name)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert (ended.value.code, said.out, said.err.count("\n")) == (1, "", 1)
    assert said.err.startswith(f"fastrank: {tmp_path / name}: ")
