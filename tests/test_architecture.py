"""The house rules that a machine can check: who imports whom, what an import costs, how long a file is."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTHON = [
    p for folder in ("fastrank", "kernels", "experiments", "bench", "tests") for p in (ROOT / folder).rglob("*.py")
]

STANDARD = set(sys.stdlib_module_names)
CORE = STANDARD | {"torch", "numpy"}
OPTIONAL = {"pyarrow", "pandas", "cupy", "triton"}  # imported inside functions, where a user asks for what they serve


def imports(path: Path, *, inside_functions: bool) -> set[str]:
    """Modules a file imports; without `inside_functions`, those that importing the file imports."""
    names: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                names.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}: imports are absolute"
                names.update({child.module or ""} | {f"{child.module}.{a.name}" for a in child.names})
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            elif inside_functions or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                visit(child)

    visit(ast.parse(path.read_text()))
    return names


def top(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def library() -> list[Path]:
    return [p for p in (ROOT / "fastrank").rglob("*.py") if p.name != "cli.py"]


@pytest.mark.parametrize("path", library(), ids=lambda p: p.name)
def test_the_library_imports_torch_and_numpy_only(path):
    assert top(imports(path, inside_functions=False)) <= CORE | {"fastrank"}
    assert top(imports(path, inside_functions=True)) <= CORE | OPTIONAL | {"fastrank"}
    assert not any(name.startswith("fastrank.experiments") for name in imports(path, inside_functions=True))


@pytest.mark.parametrize("name", ["metrics.py", "batch.py", "testing.py", "reference/*.py"])
def test_the_ground_floor_knows_nothing_of_what_stands_on_it(name):
    upper = {f"fastrank.{m}" for m in ("linalg", "optim", "tracker", "history", "measure", "backend", "cli")}
    paths = list((ROOT / "fastrank").glob(name))
    assert paths
    for path in paths:
        assert not imports(path, inside_functions=True) & upper, path


@pytest.mark.parametrize("path", sorted((ROOT / "kernels").rglob("*.py")), ids=lambda p: p.name)
def test_kernels_know_nothing_of_the_library_they_serve(path):
    used = imports(path, inside_functions=True)
    assert top(used) <= STANDARD | {"torch", "triton", "cupy", "fastrank"}
    assert all(f"{name}.".startswith("fastrank.kernels.") for name in used if top({name}) == {"fastrank"})


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").rglob("*.py")), ids=lambda p: p.name)
def test_experiments_use_the_public_interface(path):
    import fastrank

    public = {"fastrank", "fastrank.backend", "fastrank.testing"} | {f"fastrank.{name}" for name in fastrank.__all__}
    used = {name for name in imports(path, inside_functions=True) if top({name}) == {"fastrank"}}
    assert {name for name in used if not name.startswith("fastrank.experiments")} <= public


@pytest.mark.parametrize("path", sorted((ROOT / "bench").glob("*.py")), ids=lambda p: p.name)
def test_benchmarks_use_the_public_interface_the_kernels_and_the_experiments(path):
    import fastrank

    public = {"fastrank", "fastrank.backend", "fastrank.testing"} | {f"fastrank.{name}" for name in fastrank.__all__}
    used = {name for name in imports(path, inside_functions=True) if top({name}) == {"fastrank"}}
    open_to_them = ("fastrank.kernels", "fastrank.reference", "fastrank.experiments")
    assert {name for name in used if not name.startswith(open_to_them)} <= public


@pytest.mark.parametrize("path", PYTHON, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_can_be_read_in_a_sitting(path):
    assert len(path.read_text().splitlines()) <= 260


def test_importing_fastrank_is_fast_and_pulls_in_nothing():
    """Below 0.2 s beyond `import torch` (the best of three: the machine may be busy), and nothing optional."""
    script = """
import json, sys, time, torch
start = time.perf_counter()
import fastrank
print(json.dumps([time.perf_counter() - start, sorted(sys.modules)]))
"""
    seconds = []
    for _ in range(3):
        out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        elapsed, modules = json.loads(out.stdout)
        assert not {"triton", "cupy", "pyarrow", "pandas", "matplotlib", "pydantic", "typer", "sklearn"} & set(modules)
        assert "torch._dynamo" not in modules
        seconds.append(elapsed)
    assert min(seconds) < 0.2


def test_every_public_name_is_documented():
    import fastrank

    for name in set(fastrank.__all__) - {"__version__"}:
        assert getattr(fastrank, name).__doc__, name
    for name in fastrank.linalg.__all__:
        assert getattr(fastrank.linalg, name).__doc__, name
