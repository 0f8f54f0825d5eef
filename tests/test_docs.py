"""The site's pages: their code runs, what they promise of the reference is there, and no page is left out of it."""

from __future__ import annotations

import doctest
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PUBLIC = runpy.run_path(str(ROOT / "tests" / "test_public_names.py"))["PUBLIC"]
DOCS = ROOT / "docs"
PAGES = {str(page.relative_to(DOCS)): page.read_text() for page in sorted(DOCS.rglob("*.md"))}
REFERENCE = {name: text for name, text in PAGES.items() if name.startswith("reference/")}
PYTHON = re.compile(r"^```python\n(.*?)^```", re.M | re.S)
RUN = {name: blocks for name, text in PAGES.items() if (blocks := PYTHON.findall(text))}
ELSEWHERE = {"fastrank.linalg", "fastrank.schedules", "fastrank.sinks", "fastrank.alerts", "fastrank.products"}
"""Modules among the public names of another: they have pages of their own."""
ALIASES = {
    "fastrank.alerts.AlertWarning": "fastrank.AlertWarning",
    "fastrank.products.difference": "fastrank.difference",
}
SCRIPTS = {"fastrank.lightning.RankCallback", "fastrank.transformers.RankCallback"}
"""Their examples are whole scripts, which tests/trainers run."""


@pytest.mark.parametrize("page", RUN)
@pytest.mark.filterwarnings("ignore::fastrank.AlertWarning")
# PyTorch's compiler imports something that PyTorch itself deprecates.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch, capsys):
    """One block after the other, as a reader would."""
    monkeypatch.chdir(tmp_path)
    known: dict[str, object] = {}
    for code in RUN[page]:
        exec(compile(code, page, "exec"), known)


@pytest.mark.parametrize("page", [name for name, text in REFERENCE.items() if ">>>" in text])
@pytest.mark.filterwarnings("ignore::fastrank.AlertWarning")
def test_the_examples_of_the_reference_say_what_they_print(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    test = doctest.DocTestParser().get_doctest(REFERENCE[page], {}, page, page, 0)
    runner = doctest.DocTestRunner()
    runner.run(test)
    assert runner.tries
    assert runner.failures == 0


def entries():
    """Each entry of the reference, with what stands below it up to the next one."""
    found = {}
    for text in REFERENCE.values():
        parts = re.split(r"^::: ([\w.]+)$", text, flags=re.M)
        found |= dict(zip(parts[1::2], parts[2::2], strict=True))
    return found


def test_the_reference_has_every_public_name_with_an_example():
    names = {f"{module}.{name}" for module, own in PUBLIC.items() for name in own} - {"fastrank.__version__"}
    found = entries()
    assert {ALIASES.get(name, name) for name in names - ELSEWHERE} <= set(found)
    without = {name for name, below in found.items() if ">>>" not in below and "  members: false" not in below}
    assert without == SCRIPTS


def test_the_reference_has_every_command():
    from fastrank.experiments.cli import app

    for command in app.registered_commands:
        assert f"`fastrank {command.name or command.callback.__name__} " in PAGES["reference/commands.md"] or (
            f"`fastrank {command.name or command.callback.__name__}`" in PAGES["reference/commands.md"]
        )


def test_the_site_has_every_page_once():
    listed = re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text())
    assert sorted(listed) == sorted(PAGES)


def test_pictures_are_small_and_used():
    pictures = {path.name: path.stat().st_size for path in (DOCS / "pictures").iterdir()}
    assert all(size <= 200_000 for size in pictures.values()), pictures
    assert all(any(f"pictures/{name})" in text for text in PAGES.values()) for name in pictures)


def test_no_page_fetches_anything():
    """A browser loads nothing from elsewhere: fonts, scripts and pictures are the site's own."""
    settings = (ROOT / "mkdocs.yml").read_text()
    assert "font: false" in settings
    assert "http" not in re.sub(r"#.*", "", settings)
    for name, text in PAGES.items():
        assert not re.search(r"!\[[^\]]*\]\(http|<(script|img|link|iframe)", text), name
