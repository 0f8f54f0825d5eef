"""CONTRIBUTING.md shows the way of the data as lists of functions: the code goes that way, and no way is long."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SECTION = re.search(r"^## The way of the data\n(.*?)^## ", (ROOT / "CONTRIBUTING.md").read_text(), re.M | re.S)
assert SECTION
STOP = re.compile(r"^\d+\. `([\w/]+\.py)`: (.*)$", re.M)
WAYS = {
    title.strip().splitlines()[-1]: [(file, re.findall(r"`([\w.]+)`", names)) for file, names in STOP.findall(stops)]
    for title, stops in re.findall(r"^([^\n]+:)\n\n((?:\d+\. [^\n]+\n)+)", SECTION[1], re.M)
}


@cache
def functions(file: str) -> dict[str, ast.FunctionDef]:
    """Functions and methods of a file, by `name` or `Class.name`."""
    found = {}
    for node in ast.parse((ROOT / file).read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{f.name}": f for f in node.body if isinstance(f, ast.FunctionDef)}
    return found


def called(function: ast.FunctionDef) -> set[str]:
    """What a function calls, or gives to another one to call."""
    found = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
    calls = [call for node in found for call in (node.func, *node.args)]
    return {call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "") for call in calls}


def test_all_ways_are_read():
    assert len(WAYS) == 14
    assert sum(map(len, WAYS.values())) == len(re.findall(r"^\d+\. ", SECTION[1], re.M))


@pytest.mark.parametrize("title", [title for title in WAYS if not title.startswith("What")])  # but for kernels
def test_a_way_has_six_files_at_most(title):
    files = [file for file, _ in WAYS[title]]
    assert len(files) == len(set(files)) <= 6


@pytest.mark.parametrize("title", WAYS)
def test_what_a_way_names_is_called_by_what_it_names_before(title):
    seen: set[str] = set()
    for file, names in WAYS[title]:
        for name in names:
            assert name in functions(file), f"{file} has no {name}"
            own = name.rpartition(".")[2]
            assert not seen or own in seen, f"nothing before calls {name}"
            seen |= called(functions(file)[name])
