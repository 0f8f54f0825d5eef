"""What can be read in a sitting, and what a clone costs: lengths of files, fullness of folders, size of results."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = [
    path
    for folder in ("fastrank", "kernels", "experiments", "bench", "docs", "tools", "tests")
    for path in (ROOT / folder).rglob("*.py")
    if not any(parent.is_symlink() for parent in path.parents)
]
RESULTS = sorted(path for path in (ROOT / "experiments" / "results").rglob("*") if path.is_file())
LARGEST = {".csv": 100_000, ".html": 700_000, ".png": 200_000}  # bytes


@pytest.mark.parametrize("path", CODE, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_can_be_read_in_a_sitting(path):
    assert len(path.read_text().splitlines()) <= 260


def test_a_room_has_few_files():
    """At most 15 of code, but for bench/, which is no package: its files are scripts and what they share."""
    rooms = Counter(path.parent for path in CODE if path.relative_to(ROOT).parts[0] not in ("bench", "tools", "tests"))
    assert {str(room): count for room, count in rooms.items() if count > 16} == {}


@pytest.mark.parametrize("name", ["kernels", "experiments"])
def test_what_stands_at_the_top_is_a_subpackage_by_a_link(name):
    assert (ROOT / "fastrank" / name).readlink() == Path("..", name)


@pytest.mark.parametrize("path", RESULTS, ids=lambda p: str(p.relative_to(ROOT / "experiments" / "results")))
def test_results_are_what_a_reader_opens(path):
    """Pictures, pages and small tables, and configurations; what is larger is drawn again from the histories."""
    assert path.suffix in {*LARGEST, ".toml", ".md"}
    assert path.stat().st_size <= LARGEST.get(path.suffix, 10_000)


def test_results_are_small():
    assert sum(path.stat().st_size for path in RESULTS) <= 12_000_000
