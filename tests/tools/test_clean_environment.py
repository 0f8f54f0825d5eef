"""The wheel in an environment of its own, without the repository: the library alone, and with an extra."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from clean_environment import clean_environment, required

import fastrank
from fastrank.experiments.commands import app

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
COMMANDS = [*sorted(command.callback.__name__ for command in app.registered_commands), "data"]
OF_ONE_PACKAGE = {"mlflow", "ray", "tensorboard", "trackio", "triton", "wandb"}
OF_ONE_PACKAGE |= {"fastrank.lightning", "fastrank.transformers"}
"""What modules ask for that serve a package of an extra of its own."""

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def run(bin: Path, script: str, *arguments: object) -> dict:
    """What a script prints as JSON, in an environment, from a folder in which nothing can be imported."""
    command = [bin / "python", "-I", "-B", HERE / script, *map(str, arguments)]
    done = subprocess.run(command, cwd="/", env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_library_needs_torch_and_numpy_only(wheel, tmp_path):
    bin = clean_environment(tmp_path / "alone", wheel)
    seen = run(bin, "library_alone.py", tmp_path, *COMMANDS, "doctor --probe", "--version")

    assert Path(seen["file"]).is_relative_to(tmp_path)
    assert seen["versions"] == [fastrank.__version__] * 2
    assert seen["typed"]
    assert seen["stray"] == seen["extras"] == []

    latest, expected = seen["latest"], seen["expected"]
    assert latest["rank_lower"] == latest["rank_upper"] == expected["rank"]
    assert latest["singular_values"] == pytest.approx(expected["sigma"], rel=1e-6)
    assert seen["scalars"]["rank/mean"] == 1.0
    assert "steps 1 to 3" in seen["repr"]
    assert seen["planted"] == [[3] * 6] * 2
    assert seen["svd"] == 3

    for call, message in seen["refused"].items():
        extra = "plot" if call == "plot" else "history"
        assert message.endswith(f"pip install 'fastrank[{extra}]'"), (call, message)
    for command, (printed, left) in seen["commands"].items():
        if command == "doctor":
            assert "LDL^T inertia of the FP64 Gram" in printed
            assert left == "None"
        else:
            extra = "experiments" if command in ("sweep", "data") else "cli"
            message = f"this command needs typer, which is not installed: pip install 'fastrank[{extra}]'"
            assert (printed, left) == ("", f"fastrank: {message}")


def test_the_extra_cli_is_enough_for_all_but_sweeps_and_data(wheel, tmp_path):
    bin = clean_environment(tmp_path / "cli", wheel, "cli")
    seen = run(bin, "command_line.py", tmp_path)

    rows = seen["analyze"][0].splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["0.weight", "2.weight"]
    assert "0.weight" in seen["show"][0]
    assert (tmp_path / "ranks" / "report.html").stat().st_size > 10_000
    assert "the same, and power iteration" in seen["doctor"][0]
    for command in ("analyze", "show", "report", "doctor"):
        assert seen[command][2] == "0", (command, seen[command])
    for command in ("status", "compare"):  # of a folder without a sweep: an error of one line
        assert seen[command][1].startswith(f"fastrank: {tmp_path}"), (command, seen[command])
    for command in ("sweep", "data"):
        assert seen[command][2].endswith("is not installed: pip install 'fastrank[experiments]'"), seen[command]


def test_with_the_extra_experiments_every_module_can_be_imported(wheel, tmp_path):
    """But for those that serve one package more: they ask for it. The command itself is there as well."""
    bin = clean_environment(tmp_path / "experiments", wheel, "experiments")
    seen = run(bin, "every_module.py")
    assert seen["imported"] > 200
    assert set(seen["asked_for"]) <= OF_ONE_PACKAGE
    assert seen["configurations"] == sorted(path.stem for path in (ROOT / "experiments" / "configs").glob("*.toml"))
    command = [bin / "fastrank", "--version"]
    done = subprocess.run(command, cwd="/", env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (f"{fastrank.__version__}\n", "")


def test_what_an_extra_brings_is_what_its_metadata_say(wheel):
    """The core is torch and numpy, with what torch needs; an extra adds to that."""
    from packaging.utils import canonicalize_name

    alone, history, cli = ({*map(canonicalize_name, required(wheel, extra))} for extra in ("", "history", "cli"))
    assert alone == {*map(canonicalize_name, needed_by_torch())} | {"torch", "numpy"}
    assert history - alone >= {"pandas", "pyarrow", "safetensors"}
    assert not cli & {"datasets", "scikit-learn", "ray", "triton", "pytest"}


def needed_by_torch() -> set[str]:
    import clean_environment as tool
    from packaging.requirements import Requirement

    found, waiting = set(), ["torch"]
    while waiting:
        for requirement in map(Requirement, tool.metadata.requires(waiting.pop()) or []):
            if (
                requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            ) and requirement.name not in found:
                found.add(requirement.name)
                waiting.append(requirement.name)
    return found
