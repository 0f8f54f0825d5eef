"""Paths on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastrank.experiments.commands.paths import config_of
from fastrank.experiments.errors import UsageError

CONFIGS = Path(__file__).parents[2] / "experiments" / "configs"


def test_a_configuration_of_the_package_has_a_name_and_a_file_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert config_of("digits").samefile(CONFIGS / "digits.toml")
    assert config_of("vit-quick").samefile(CONFIGS / "vit-quick.toml")
    for text in ("configs/digits", "../digits", "digits.toml", ""):
        assert config_of(text) == Path(text)
    assert config_of("~/digits") == tmp_path / "digits"
    Path("digits").touch()
    assert config_of("digits") == Path("digits")


def test_a_name_that_no_configuration_has_is_refused_with_those_that_there_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"^digit: neither a file nor a configuration of fastrank's: .*, digits, "):
        config_of("digit")
