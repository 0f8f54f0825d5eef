"""The commit that is written beside the numbers: never another repository's."""

import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from fastrank.experiments import provenance


def git(*arguments: str, at: Path) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *arguments], cwd=at, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_commit_is_the_checkouts_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "provenance.py"
    module.touch()
    monkeypatch.setattr(provenance, "__file__", str(module))
    assert provenance.commit() == "unknown"  # no repository at all
    git("init", at=tmp_path)
    (tmp_path / "other.txt").touch()
    git("add", "other.txt", at=tmp_path)
    git("commit", "-m", "first", at=tmp_path)
    assert provenance.commit() == "unknown"  # a repository, but not of this file
    git("add", "provenance.py", at=tmp_path)
    git("commit", "-m", "second", at=tmp_path)
    assert provenance.commit() == git("rev-parse", "HEAD", at=tmp_path)
    (tmp_path / "other.txt").write_text("changed")
    assert provenance.commit() == git("rev-parse", "HEAD", at=tmp_path) + "+dirty"


def test_without_git_the_commit_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert provenance.commit() == "unknown"


def test_versions_are_those_installed() -> None:
    found = provenance.versions()
    assert found["torch"] == version("torch")
    assert {"python", "platform", "fastrank", "numpy", "scikit-learn"} <= found.keys()
