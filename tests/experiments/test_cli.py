"""The command line: exit statuses, what is printed, and no traceback for what the user can mend."""

import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fastrank

CONFIG = """
name = "tiny"
epochs = 2
model = { name = "mlp_bn", depth = 2, width = 16 }
data = { name = "digits" }
grid = { batch_size = [64], lr = [0.5], weight_decay = [0.0, 0.01] }
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(CONFIG)
    return path


def test_a_sweep_from_plan_to_status(run, config: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "out"
    assert run("sweep", config, "--out", out, "--plan") == (0, "")
    assert "2 trials, 88 steps in all; 2 trials, 88 steps to do" in capsys.readouterr().out
    assert not out.exists()

    assert run("sweep", config, "--out", out, "--workers", 1) == (0, "")
    assert "2/2 trials, 100 % of the steps" in capsys.readouterr().out
    assert run("sweep", config, "--out", out) == (0, "")
    assert "All 2 trials are done" in capsys.readouterr().out
    assert run("sweep", config, "--out", out, "--plan") == (0, "")
    assert "0 trials, 0 steps to do" in capsys.readouterr().out
    assert run("status", out) == (0, "")
    output = capsys.readouterr().out
    assert "2 done" in output
    assert "Average rank (full: 16.0)" in output

    config.write_text(CONFIG.replace("epochs = 2", "epochs = 3"))
    for plan in ([], ["--plan"]):
        assert run("sweep", config, "--out", out, *plan) == (2, "")
        errors = capsys.readouterr().err
        assert f"fastrank: {out}: holds a sweep of another configuration" in errors
        assert "  epochs: 2 -> 3" in errors


def test_a_bad_config_exits_with_2_and_names_the_key(run, config: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    config.write_text(CONFIG.replace("epochs", "epoch").replace("[0.5]", "[-0.5]"))
    assert run("sweep", config, "--out", tmp_path / "out") == (2, "")
    lines = capsys.readouterr().err.splitlines()
    assert [line.removeprefix("fastrank: ") for line in lines] == [
        f"{config}: epochs: is missing",
        f"{config}: grid.lr[0]: must be greater than 0 (got -0.5)",
        f"{config}: epoch: unknown key; did you mean 'epochs'?",
    ]
    assert not (tmp_path / "out").exists()


NOT_THERE = {
    "status": "/trials.sqlite: no such ledger",
    "report": ": neither a sweep's folder (it has no trials.sqlite) nor a tracker's",
    "show": ": holds no part of a history",
}


@pytest.mark.parametrize("command", NOT_THERE)
def test_a_folder_with_nothing_in_it_is_named(run, tmp_path: Path, capsys, command: str) -> None:  # type: ignore[no-untyped-def]
    assert run(command, tmp_path) == (1, "")
    assert f"fastrank: {tmp_path}{NOT_THERE[command]}" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_named(run, config: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "file").touch()
    assert run("sweep", config, "--out", tmp_path / "file" / "out") == (
        *(1, f"fastrank: {tmp_path / 'file' / 'out'}: Not a directory"),
    )


def test_usage_errors_exit_with_2(run, config: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert run("sweep", config) == (2, "")
    assert run("sweep", config, "--out", tmp_path / "out", "--workers", 0) == (2, "")
    assert run("dance") == (2, "")


WRONG = {
    "--engine": ("slurm", "--engine: expected local or ray, not 'slurm'"),
    "--device": ("tpu", "--device: expected auto, cpu or cuda, not 'tpu'"),
    "--log": ("comet", "--log comet: expected one of tensorboard, wandb, mlflow"),
    "--storage": ("nosuch://bucket/run", "--storage nosuch://bucket/run: cannot be used: Protocol not known: nosuch"),
}


@pytest.mark.parametrize("option", WRONG)
@pytest.mark.parametrize("plan", [[], ["--plan"]])
def test_what_an_option_cannot_be_is_refused_before_anything_is_made(  # type: ignore[no-untyped-def]
    run, config: Path, tmp_path: Path, capsys, option: str, plan: list[str]
) -> None:
    value, reason = WRONG[option]
    assert run("sweep", config, "--out", tmp_path / "out", option, value, *plan) == (2, "")
    assert capsys.readouterr().err == f"fastrank: {reason}\n"
    assert list(tmp_path.iterdir()) == [config]


@pytest.mark.parametrize(("option", "package"), [("--log", "wandb"), ("--engine", "ray")])
def test_a_package_that_is_missing_is_noticed_before_anything_is_made(  # type: ignore[no-untyped-def]
    run, config: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch, option: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert run("sweep", config, "--out", tmp_path / "out", option, package) == (2, "")
    assert f"is not installed: pip install 'fastrank[{package}]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [config]


def test_a_tilde_is_the_home_folder_in_every_path(  # type: ignore[no-untyped-def]
    run, config: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where no shell has seen it, as after `--out=`."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    config.rename(home / "tiny.toml")
    torch.save({"w": torch.eye(3)}, home / "x.pt")
    assert run("sweep", "~/tiny.toml", "--out=~/out", "--storage=~/stored", "--workers", 1) == (0, "")
    assert run("status", "~/out") == (0, "")
    assert run("analyze", "~/x.pt", "--out=~/x.csv", "--keep=~/kept") == (0, "")
    assert run("data", "list", "--cache=~/sets") == (0, "")
    assert f"folder: {home / 'sets'}" in capsys.readouterr().out
    assert {path.name for path in home.iterdir()} == {"tiny.toml", "x.pt", "out", "stored", "x.csv", "kept"}
    assert {path.name for path in (home / "stored").iterdir()} == {"history", "checkpoints"}
    assert list(tmp_path.iterdir()) == [home]
    assert run("status", "~no-such-user/out") == (1, "")
    assert "fastrank: ~no-such-user/out/trials.sqlite: no such ledger" in capsys.readouterr().err


def test_help_and_version(run, capsys) -> None:  # type: ignore[no-untyped-def]
    assert run("--version") == (0, "")
    assert capsys.readouterr().out == f"{fastrank.__version__}\n"
    for words in (["-h"], ["sweep", "-h"], ["analyze", "-h"], ["data", "-h"], ["data", "list", "-h"]):
        assert run(*words) == (0, "")
        short = capsys.readouterr().out
        assert run(*words[:-1], "--help") == (0, "")
        assert short == capsys.readouterr().out
        assert "Usage: fastrank" in short


INTERRUPTED = """
import os, signal, sys
from fastrank.experiments.cli import main

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:  # as packages do in the middle of their own imports
                raise ImportError("cannot load module more than once per process")

sys.meta_path.insert(0, Finder())
sys.argv[1:] = ["analyze", {checkpoint!r}]
main()
"""


@pytest.mark.parametrize("module", ["fastrank.experiments.analyze", "pandas", "fastrank.experiments.sweeps"])
def test_an_interrupt_while_a_command_is_imported_is_quiet(module: str, tmp_path: Path) -> None:
    code = INTERRUPTED.format(module=module, checkpoint=str(tmp_path / "x.pt"))
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_an_interrupt_of_a_command_is_quiet_and_can_be_cleaned_up_after(  # type: ignore[no-untyped-def]
    run, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleaned, earlier = [], signal.getsignal(signal.SIGINT)

    def interrupted(*arguments: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            cleaned.append(True)

    monkeypatch.setattr("fastrank.experiments.analyze.print_analysis", interrupted)
    assert run("analyze", tmp_path / "x.pt") == (130, "")
    assert (capsys.readouterr().err, cleaned) == ("", [True])
    assert signal.getsignal(signal.SIGINT) is earlier


@pytest.mark.parametrize("missing", ["typer", "pydantic", "rich"])
def test_a_missing_extra_is_said_in_one_line(config: Path, missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; sys.argv[1:] = ['status', '/nowhere']; "
    code += "from fastrank.experiments.cli import main; main()"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"fastrank: this command needs {missing}, which is not installed: pip install 'fastrank[cli]'"
    ]


def test_python_m_is_the_same_program(monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(sys, "argv", ["fastrank", "--help"])
    monkeypatch.delitem(sys.modules, "fastrank.experiments.cli")
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("fastrank.experiments.cli", run_name="__main__")
    assert caught.value.code == 0
    assert "doctor" in capsys.readouterr().out


def test_the_command_line_says_what_it_has_to_say_without_torch():
    script = "import sys, fastrank.experiments.cli; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout == "False\n"
