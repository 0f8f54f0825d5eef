"""A wheel of the tree as it is, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from archives import WHEEL, call, copy_tree


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the files that git knows or does not ignore."""
    return copy_tree(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="session")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return call(WHEEL, tree, tmp_path_factory.mktemp("wheel"))
