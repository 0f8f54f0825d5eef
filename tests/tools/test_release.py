"""What keeps a tree from being released is found before anything is built; pages that services read are well formed."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from release import newest, problems, version

import fastrank

ROOT = Path(__file__).parents[2]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


@pytest.fixture
def tree(tmp_path):
    """A repository that can be released."""
    (tmp_path / "fastrank").mkdir()
    (tmp_path / "fastrank" / "__init__.py").write_text('"""A package."""\n\n__version__ = "1.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## 1.2.0 (2026-03-01)\n\n- New.\n\n## 1.1.0 (2026-02-01)\n\n- Old.\n"
    )
    (tmp_path / "CITATION.cff").write_text("version: 1.2.0\ndate-released: 2026-03-01\n")
    git(tmp_path, "init", "--quiet")
    commit(tmp_path)
    return tmp_path


def git(tree, *words):
    identity = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org"]
    subprocess.run(["git", *identity, *words], cwd=tree, check=True, capture_output=True)


def commit(tree):
    git(tree, "add", "--all")
    git(tree, "commit", "--quiet", "--message", "All of it")


def test_nothing_keeps_a_tree_that_agrees(tree):
    assert problems(tree) == []
    assert newest(tree) == ("1.2.0", "2026-03-01", "- New.")


def test_what_is_not_committed_and_what_was_released_are_named(tree):
    (tree / "CHANGELOG.md").write_text((tree / "CHANGELOG.md").read_text() + "\n")
    (tree / "note").touch()
    git(tree, "tag", "v1.2.0")
    assert problems(tree) == [
        *("not committed: CHANGELOG.md", "not committed: note", "the tag v1.2.0 exists: 1.2.0 has been released"),
    ]


DISAGREE = {
    "the code": (
        "fastrank/__init__.py",
        "1.2.0",
        "1.3.0",
        ["CHANGELOG.md: its first section", "CITATION.cff: version is"],
    ),
    "the changelog": ("CHANGELOG.md", "## 1.2.0", "## 1.2.1", ["CHANGELOG.md: its first section is of 1.2.1"]),
    "an unreleased section": (
        *("CHANGELOG.md", "(2026-03-01)", "(unreleased)"),
        ["CHANGELOG.md: 1.2.0 is '(unreleased)'", "CITATION.cff: date-released is 2026-03-01"],
    ),
    "an empty section": ("CHANGELOG.md", "- New.", "", ["CHANGELOG.md: the section of 1.2.0 says nothing"]),
    "the citation": ("CITATION.cff", "version: 1.2.0", "version: 1.1.0", ["CITATION.cff: version is 1.1.0"]),
    "no day": ("CITATION.cff", "date-released: 2026-03-01\n", "", ["CITATION.cff: date-released is None"]),
}


@pytest.mark.parametrize("place", DISAGREE)
def test_what_does_not_agree_is_named(tree, place):
    file, was, becomes, expected = DISAGREE[place]
    text = (tree / file).read_text()
    assert was in text
    (tree / file).write_text(text.replace(was, becomes, 1))
    commit(tree)
    found = problems(tree)
    assert len(found) == len(expected), found
    assert all(line.startswith(start) for line, start in zip(found, expected, strict=True)), found


def test_the_version_stands_in_one_place_and_is_cited():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert version(ROOT) == fastrank.__version__ == newest(ROOT)[0] == cited["version"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" not in project


def test_the_citation_has_what_its_format_requires():
    """Of version 1.2.0, whose schema allows no other keys at the top than these."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= cited.keys()
    assert cited.keys() <= {
        *("abstract", "authors", "cff-version", "commit", "contact", "date-released", "doi", "identifiers", "keywords"),
        *("license", "license-url", "message", "preferred-citation", "references", "repository", "repository-artifact"),
        *("repository-code", "title", "type", "url", "version"),
    }
    assert cited["license"] == "MIT"
    (paper,) = cited["references"]
    assert paper["identifiers"][0]["value"] == "arXiv:2206.05794"
    assert [author["family-names"] for author in paper["authors"]] == ["Galanti", "Siegel", "Gupte", "Poggio"]


@pytest.mark.parametrize("form", [form for form in FORMS if form.stem != "config"], ids=lambda form: form.stem)
def test_forms_for_issues_ask_what_the_doctor_says(form):
    content = yaml.safe_load(form.read_text())
    assert content.keys() == {"name", "description", "labels", "body"}
    fields = [field for field in content["body"] if field["type"] != "markdown"]
    assert all(field["attributes"]["label"] for field in fields)
    names = [field["id"] for field in fields]
    assert len(set(names)) == len(names)
    assert "fastrank doctor" in next(field for field in fields if field["id"] == "doctor")["attributes"]["label"]


def test_there_are_forms():
    assert {form.stem for form in FORMS} == {"config", "feature", "slow", "wrong_rank"}
