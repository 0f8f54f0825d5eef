"""The README's code blocks are executed, one after the other, as a reader would."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README.read_text(), flags=re.MULTILINE | re.DOTALL)
PAGES = ["README.md", "CONTRIBUTING.md", "experiments/README.md", "bench/README.md", "bench/gpu.md", "SECURITY.md"]
PYTHON = [code for language, code in BLOCKS if language == "python"]


@pytest.mark.parametrize("code", PYTHON, ids=[f"block{i}" for i in range(len(PYTHON))])
def test_python_block_runs(code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


def test_there_are_python_blocks():
    assert len(PYTHON) >= 2


def test_commands_exist():
    """Every `make` target and every file a shell block names is there; every fastrank command is one."""
    from fastrank.experiments.cli import app

    makefile = (README.parent / "Makefile").read_text()
    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    lines = [line for language, code in BLOCKS if language == "sh" for line in code.splitlines() if line.strip()]
    assert lines
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[:1] == ["make"]:
            assert re.search(rf"^{words[1]}:", makefile, flags=re.MULTILINE), line
        if words[:1] == ["fastrank"]:
            assert words[1] in commands, line
        for word in words:
            if word.endswith(".toml"):
                assert (README.parent / word).exists(), line


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_exist(page):
    text = (README.parent / page).read_text()
    for target in re.findall(r"\]\(([^)#]+)", text):
        if not target.startswith("http"):
            assert (README.parent / page).parent.joinpath(target).exists(), target
    for path in re.findall(r"`((?:fastrank|kernels|experiments|bench|tests)/[\w./-]+)`", text):
        assert (README.parent / path).exists(), path
