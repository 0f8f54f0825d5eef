"""The README's code blocks are executed, as a reader would; what it and other pages name and link to is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README.read_text(), flags=re.MULTILINE | re.DOTALL)
PAGES = ["README.md", "CONTRIBUTING.md", "experiments/README.md", "bench/README.md", "bench/gpu.md", "SECURITY.md"]
PAGES += sorted(str(path.relative_to(README.parent)) for path in README.parent.glob("docs/**/*.md"))
PAGES += ["CODE_OF_CONDUCT.md"]
NESTED = {"bench/gpu.md"}
"""Pages with lists inside of lists."""
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
    commands |= {group.name for group in app.registered_groups}
    texts = [README.read_text(), *(path.read_text() for path in README.parent.glob("docs/**/*.md"))]
    blocks = [block for text in texts for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]
    lines = [line for code in blocks for line in code.splitlines() if line.strip()]
    assert len(lines) > 20
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[:1] == ["make"]:
            named = rf"^{words[1]}:|^\.PHONY:.*\b{words[1]}\b"
            assert re.search(named, makefile, flags=re.MULTILINE), line
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


@pytest.mark.parametrize("page", PAGES)
def test_links_within_a_page_lead_to_its_headings(page):
    text = (README.parent / page).read_text()
    headings = {anchor(title) for title in re.findall(r"^#+ (.*)", text, flags=re.MULTILINE)}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= headings


def anchor(title: str) -> str:
    """As GitHub makes it of a heading: small letters, hyphens for blanks, and no other signs."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES)
def test_no_line_of_a_formula_begins_a_list_or_a_quotation(page):
    assert misread((README.parent / page).read_text(), nested=page in NESTED) == []


@pytest.mark.parametrize("text", ["of depth <= r\n- 1 columns", "- R = T\n  - M_1 L^T", "terms\n> max p", "a\n  + 2 B"])
def test_a_line_that_markdown_misreads_is_found(text):
    assert misread(text) == [text.split("\n")[1]]


def misread(text: str, nested: bool = False) -> list[str]:
    """Lines in the midst of a text for which Markdown begins a list or a quotation, because of their first sign."""
    found: list[str] = []
    for block in re.split(r"\n\s*\n", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)):
        first, *rest = block.strip("\n").split("\n")
        if not first.startswith("    "):  # or it is code
            item = re.match(r"(- |\d+\. )", first)
            begins = r"\s*[+>] |" + (r"\s+- " if not nested else r"$^") if item else r"\s*[-+*>] |\s*1[.)] "
            found += [line for line in rest if re.match(begins, line)]
    return found
