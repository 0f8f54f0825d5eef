"""The house rules that a machine can check: who imports whom, from the source tree, and what an import costs."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from rooms import KERNELS_FOR, ROOMS

ROOT = Path(__file__).parents[1]
PACKAGES = {"fastrank": "fastrank", "kernels": "fastrank.kernels", "experiments": "fastrank.experiments"}
"""Folders at the top of the tree, and the names under which they are installed."""

STANDARD = set(sys.stdlib_module_names)
CORE = STANDARD | {"torch", "numpy"}
OPTIONAL = {
    "pyarrow",
    "pandas",
    "matplotlib",
    "cupy",
    "flint",
    "numba",
    "huggingface_hub",
    "safetensors",
    "triton",
    *("mlflow", "tensorboard", "trackio", "wandb"),
}  # imported inside functions, where a user asks for what they serve
TRAINERS = {"lightning", "transformers"}
"""Packages that a file of the library of the same name imports, because its callback is one of theirs. No other file
imports that one."""
DRAWING = ROOT / "fastrank" / "plotting" / "figures"
"""The one room of the library that imports optional packages as it is imported: those that draw. It is itself imported
inside functions only."""
DRAWN_WITH = {"matplotlib", "pandas", "pyarrow"}
WITHOUT_TRITON = {"fastrank.kernels.device", "fastrank.kernels.limits"}
BENEATH = {  # what is not public, but open to experiments
    *("fastrank.analysis", "fastrank.backend", "fastrank.files", "fastrank.probing", "fastrank.testing"),
    *("fastrank.plotting", "fastrank.plotting.figures"),
}


class Import(NamedTuple):
    """One imported name: `from source import name`, or `import source` with an empty name."""

    source: str
    name: str
    relative: bool
    at_import: bool
    """Whether importing the file imports it: it stands neither in a function nor under TYPE_CHECKING."""


def files(folder: str) -> list[Path]:
    """Python files of a folder at the top; links to other folders are not followed."""
    found = [path for path in (ROOT / folder).rglob("*.py") if "results" not in path.parts]
    linked = [link for link in (ROOT / folder).iterdir() if link.is_symlink()]
    return sorted(path for path in found if not any(path.is_relative_to(link) for link in linked))


def module(path: Path) -> str:
    folder, *rest = path.relative_to(ROOT).with_suffix("").parts
    return ".".join([PACKAGES[folder], *rest]).removesuffix(".__init__")


@cache
def imports(path: Path) -> list[Import]:
    found: list[Import] = []
    parent = module(path).split(".") if path.relative_to(ROOT).parts[0] in PACKAGES else []
    parent = parent if path.name == "__init__.py" else parent[:-1]

    def visit(node: ast.AST, at_import: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend(Import(alias.name, "", False, at_import) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                start = parent[: len(parent) - child.level + 1] if child.level else []
                source = ".".join([*start, *([child.module] if child.module else [])])
                found.extend(Import(source, alias.name, child.level > 0, at_import) for alias in child.names)
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                visit(child, False)
            else:
                visit(child, at_import and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))

    visit(ast.parse(path.read_text()), True)
    return found


def package_of(name: str) -> str | None:
    """Which of the packages a dotted name is in, by its folder."""
    for folder in ("kernels", "experiments", "fastrank"):
        if f"{name}.".startswith(f"{PACKAGES[folder]}."):
            return folder
    return None


def crossing(path: Path) -> list[tuple[str, str, Import]]:
    """Imports from one room into another, but for a public name of another package: (folder, room) of what is used."""
    own = path.relative_to(ROOT).parts
    here = own[1].removesuffix(".py")
    found = []
    for used in imports(path):
        folder = package_of(used.source)
        if folder is None or (folder == "fastrank" != own[0]):
            continue
        inside = used.source.removeprefix(PACKAGES[folder]).removeprefix(".").split(".")[0] or used.name
        if (folder, inside) != (own[0], here):
            found.append((folder, inside, used))
    return found


HOUSE = [path for folder in PACKAGES for path in files(folder)]
in_house = pytest.mark.parametrize("path", HOUSE, ids=lambda p: str(p.relative_to(ROOT)))


@in_house
def test_a_room_uses_only_what_stands_below_it(path):
    folder, *rest = path.relative_to(ROOT).parts
    own = rest[0].removesuffix(".py")
    for other, room, _ in crossing(path):
        below = ROOMS[folder][own] if other == folder else KERNELS_FOR.get(own, [])
        assert room in below, f"{own} may not use {room}"


@pytest.mark.parametrize("folder", PACKAGES)
def test_the_plan_of_the_house_has_no_way_back_up(folder):
    rooms = list(ROOMS[folder])
    there = {p.relative_to(ROOT / folder).parts[0].removesuffix(".py") for p in files(folder)}
    assert set(rooms) == there
    assert all(rooms.index(used) < rooms.index(room) for room, below in ROOMS[folder].items() for used in below)


@pytest.mark.parametrize("path", [*HOUSE, *files("bench")], ids=lambda p: str(p.relative_to(ROOT)))
def test_what_crosses_is_named_by_the_room_it_is_taken_from(path):
    """A name of its `__init__`, or whatever a module has that is named there."""
    for folder, room, used in crossing(path):
        if path.is_relative_to(ROOT / "bench") and folder == "kernels":
            continue  # benchmarks reach any kernel
        init = ROOT / folder / room / "__init__.py"
        if init.exists() and used.source != PACKAGES[folder]:
            offered = next(
                ast.literal_eval(node.value)
                for node in ast.parse(init.read_text()).body
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
            )
            deeper = used.source.removeprefix(f"{PACKAGES[folder]}.{room}").removeprefix(".")
            assert (deeper or used.name) in offered, f"{room} does not offer {deeper or used.name}"


@in_house
def test_imports_inside_a_package_are_relative(path):
    own = path.relative_to(ROOT).parts[0]
    for used in imports(path):
        inside = package_of(used.source) == own or (own == "fastrank" and package_of(used.source) == "kernels")
        assert used.relative == inside, f"{used.source} is imported {'relatively' if used.relative else 'by its name'}"


@pytest.mark.parametrize("path", files("fastrank"), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_library_imports_torch_and_numpy_only(path):
    foreign = [used for used in imports(path) if package_of(used.source) is None]
    trainer = TRAINERS & {path.stem} if path.parent == ROOT / "fastrank" else set()
    own = DRAWN_WITH if path.is_relative_to(DRAWING) else trainer
    assert {used.source.partition(".")[0] for used in foreign if used.at_import} <= CORE | own
    assert {used.source.partition(".")[0] for used in foreign} <= CORE | OPTIONAL | own
    kernels = [used for used in imports(path) if package_of(used.source) == "kernels"]
    assert {used.source for used in kernels if used.at_import} <= WITHOUT_TRITON, "that imports Triton"
    assert not [used for used in imports(path) if package_of(used.source) == "experiments"]


def test_what_draws_is_imported_only_where_a_picture_is_drawn():
    importing = [p for p in files("fastrank") for used in imports(p) if used.at_import and _draws(used)]
    assert [path for path in importing if not path.is_relative_to(DRAWING)] == []


def _draws(used: Import) -> bool:
    return f"{used.source}.{used.name}".startswith("fastrank.plotting.figures")


@pytest.mark.parametrize("name", sorted(WITHOUT_TRITON))
def test_kernels_say_what_they_are_made_for_without_triton(name):
    found = imports(ROOT / f"{name.removeprefix('fastrank.').replace('.', '/')}.py")
    assert {used.source.partition(".")[0] for used in found} <= CORE


@pytest.mark.parametrize("path", files("kernels"), ids=lambda p: str(p.relative_to(ROOT)))
def test_kernels_know_nothing_of_the_library_they_serve(path):
    tops = {used.source.partition(".")[0] for used in imports(path) if package_of(used.source) != "kernels"}
    of_cpu = {"llvmlite", "numba", "numpy"} if "cpu" in path.parts else {"torch", "triton", "cupy"}
    assert tops <= STANDARD | of_cpu


@pytest.mark.parametrize("path", [*files("experiments"), *files("bench")], ids=lambda p: str(p.relative_to(ROOT)))
def test_experiments_and_benchmarks_use_the_public_interface(path):
    """Benchmarks also reach kernels and twins, how work is shared, and what rooms of the experiments offer."""
    import fastrank

    users = {f"fastrank.{name}" for name in TRAINERS}  # not in `__all__`: no `import *` shall import a trainer
    public = BENEATH | users | {"fastrank"} | {f"fastrank.{name}" for name in fastrank.__all__}
    open_to_bench = ("fastrank.kernels", "fastrank.reference", "fastrank.experiments", "fastrank.sharing")
    for used in imports(path):
        if path.is_relative_to(ROOT / "bench") and used.source.startswith(open_to_bench):
            continue
        named = f"{used.source}.{used.name}" if used.source == "fastrank" and used.name else used.source
        assert package_of(used.source) not in ("fastrank", "kernels") or named in public, f"{named} is not public"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "fastrank":
            assert f"fastrank.{node.attr}" in public | {"fastrank.__file__"}, f"fastrank.{node.attr} is not public"


def test_importing_fastrank_is_fast_and_pulls_in_nothing(tmp_path):
    """All of it, in less than 0.1 s of a core beyond `import torch`; nothing optional.

    Of six times the first one that is short enough will do, as other programs can only make them longer. The package
    is compiled to bytecode by the first process, as it is for a user, whatever the environment says of that.
    """
    script = """
import gc, json, sys, time, torch
sys.dont_write_bytecode, sys.pycache_prefix = False, sys.argv[1]
gc.freeze()  # or the collector looks through all of torch's objects once more, at some import or other
start = time.process_time()  # others may be busy on the same cores
import fastrank
for name in fastrank.__all__:
    getattr(fastrank, name)
print(json.dumps([time.process_time() - start, sorted(sys.modules)]))
"""
    seconds = []
    while not seconds or (min(seconds) >= 0.1 and len(seconds) < 6):
        command = [sys.executable, "-c", script, tmp_path]
        out = subprocess.run(command, capture_output=True, text=True, check=True)
        elapsed, modules = json.loads(out.stdout)
        users = {f"fastrank.{name}" for name in TRAINERS}
        assert not (OPTIONAL | TRAINERS | users | {"matplotlib", "pydantic", "typer", "sklearn"}) & set(modules)
        assert "torch._dynamo" not in modules
        seconds.append(elapsed)
    assert min(seconds) < 0.1, seconds
