"""The layout of the kernels hub: what is in it, what is refused, and that the hub's own library takes it."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MADE = runpy.run_path(str(ROOT / "hub" / "assemble.py"))


def test_the_package_has_the_kernels_and_imports_without_the_library(tmp_path):
    package = MADE["assemble"](tmp_path / "hub")
    assert package == tmp_path / "hub" / "torch-ext" / "fastrank_kernels"
    packed = {p.relative_to(package).as_posix(): p for p in package.rglob("*") if p.is_file()}
    here = {p.relative_to(ROOT / "kernels").as_posix(): p for p in (ROOT / "kernels").rglob("*") if p.is_file()}
    expected = {name for name in here if not name.startswith("cpu/") and "__pycache__" not in name}
    assert set(packed) == expected
    assert all(packed[n].read_bytes() == here[n].read_bytes() for n in expected - {"__init__.py"})
    script = """
import sys
sys.meta_path.insert(0, type("No", (), {"find_spec": lambda self, name, *rest: sys.exit(name)
    if name.partition(".")[0] in ("fastrank", "numba", "cupy") else None})())
import fastrank_kernels as kernels
assert all(getattr(kernels, name) for name in kernels.__all__)
"""
    environment = dict(os.environ, PYTHONPATH=str(package.parent))
    found = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def test_the_metadata_is_of_these_files(tmp_path):
    MADE["assemble"](tmp_path / "hub")
    variant = tmp_path / "hub" / "build" / "torch-cuda"
    about = json.loads((variant / "metadata.json").read_text())
    files = {p.relative_to(variant).as_posix() for p in variant.rglob("*") if p.is_file()} - {"metadata.json"}
    assert set(about["digest"]["files"]) == files
    assert about["id"].isidentifier()
    (changed := tmp_path / "kernels").mkdir()
    (changed / "step.py").write_text("import torch\n")
    MADE["assemble"](tmp_path / "other", kernels=changed)
    other = json.loads((tmp_path / "other" / "build" / "torch-cuda" / "metadata.json").read_text())
    assert other["id"] != about["id"]  # two versions can be loaded in one process


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("import numba", "numba"),
        ("import cupy", "cupy"),
        ("from fastrank import linalg", "fastrank"),
        ("def f():\n    from scipy.linalg import svd", "scipy"),
        ("from ..reference import gram", r"\.\.reference"),
        ("from . import cpu", r"\.cpu"),
    ],
)
def test_what_the_hub_does_not_take_is_refused_by_name(tmp_path, line, named):
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "gram.py").write_text(f"{line}\n")
    with pytest.raises(MADE["HubError"], match=rf"gram\.py imports {named}"):
        MADE["assemble"](tmp_path / "hub", kernels=tmp_path / "kernels")
    assert not (tmp_path / "hub").exists()


HUBS_OWN = """
import json, sys
from pathlib import Path
from kernels import get_local_kernel
from kernels._rust import Build, Digest, DigestAlgorithm, Metadata

hub = Path(sys.argv[1])
Build.open(hub)  # which checks build.toml
variant = hub / "build" / "torch-cpu"
about = json.loads((variant / "metadata.json").read_text())
assert Digest.hash_variant(DigestAlgorithm.SHA256, variant).files == about["digest"]["files"]
module = get_local_kernel(hub, backend="cpu")
assert module.__name__ == Metadata.read_from_file(variant / "metadata.json").id
assert module.step.sgd_
"""


@pytest.mark.skipif("kernels" not in packages_distributions(), reason="the hub's library, kernels, is not installed")
def test_the_library_of_the_hub_takes_it(tmp_path):
    MADE["assemble"](tmp_path / "hub", backend="cpu")
    elsewhere = [path for path in sys.path if path and Path(path).resolve() != ROOT]  # where kernels/ is another one
    environment = dict(os.environ, HF_HUB_OFFLINE="1", PYTHONPATH=os.pathsep.join(elsewhere))
    command = [sys.executable, "-P", "-c", HUBS_OWN, str(tmp_path / "hub")]
    found = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
