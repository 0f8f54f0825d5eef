"""What stands in `examples/` runs, and the notebooks have the pictures that a reader of the repository sees."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from fastrank import read_history

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook, tmp_path):
    script = Path(sys.executable).with_name("jupyter-execute")
    shutil.copy(notebook, tmp_path)  # it writes files beside itself
    command = [script, "--inplace", tmp_path / notebook.name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert shown(nbformat.read(tmp_path / notebook.name, 4)) == shown(nbformat.read(notebook, 4))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_its_pictures(notebook):
    assert "image/png" in set().union(*shown(nbformat.read(notebook, 4)))


def test_notebooks_are_small():
    assert sum(path.stat().st_size for path in NOTEBOOKS) <= 300_000


def shown(notebook):
    """Of each cell of code, the kinds of what it shows."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [
        [kind for output in cell.outputs for kind in output.get("data", {output.output_type: ""})] for cell in cells
    ]


@pytest.mark.parametrize("trainer", ["transformers", "lightning"])
@pytest.mark.filterwarnings("ignore")  # of trainers, about loggers and loaders that nobody asked for
def test_the_gpt_runs(trainer, tmp_path, monkeypatch, capsys):
    arguments = ["gpt_attention.py", "--out", str(tmp_path / "out"), "--trainer", trainer, "--steps", "2"]
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_path(str(EXAMPLES / "gpt_attention.py"), run_name="__main__")
    runs = pd.read_csv(tmp_path / "out" / "runs.csv")
    assert runs["weight_decay"].tolist() == [0, 0.5, 1.5]
    assert (runs["certified"] == 1).all()
    ranks = pd.read_csv(tmp_path / "out" / "ranks.csv")
    assert ranks["step"].tolist() == [1, 1, 1]
    assert ranks.columns.str.contains("qk").sum() == 8


def test_low_rank_factors_run_without_fashion_mnist(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["low_rank_factors.py", "--out", str(tmp_path / "out"), "--epochs", "0"])
    runpy.run_path(str(EXAMPLES / "low_rank_factors.py"), run_name="__main__")
    assert "Fashion-MNIST is left out" in capsys.readouterr().out
    rows = pd.read_csv(tmp_path / "out" / "factors.csv")
    assert len(rows) == 16
    assert (rows["stored"] <= rows["parameters"]).all()
    loose = rows[(rows["asked"] == "error") & (rows["value"] == 0.4)]
    assert (loose["factored"] > 0).all()
    assert (loose["largest_error"] <= 0.4).all()
    assert (rows[rows["factored"] == 0]["accuracy_after"] == rows[rows["factored"] == 0]["accuracy_before"]).all()
    page = (tmp_path / "out" / "factors.md").read_text()
    assert page.count("| digits perceptron |") == 16


def test_fsdp2_runs(tmp_path):
    torchrun = [Path(sys.executable).with_name("torchrun"), "--standalone", "--nproc_per_node", "2"]
    command = [*torchrun, EXAMPLES / "fsdp2.py", "--steps", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "steps 1 to 2 (every step)" in done.stdout
    assert "layers.1.w2.weight: rank" in done.stdout
    history = read_history(tmp_path / "ranks").to_pandas()
    assert history.groupby("step").size().tolist() == [16] * 2
