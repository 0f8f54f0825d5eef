"""What a plan tells before anything is run: trials, steps, time and memory, and what cannot be."""

import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fastrank.experiments.errors import UserError
from fastrank.experiments.sweeps import devices, plan
from fastrank.experiments.sweeps.config import ConfigError, load_config
from fastrank.experiments.sweeps.devices import CostError, cost_of, kind, slots
from fastrank.experiments.sweeps.plan import _pending, print_plan
from fastrank.experiments.sweeps.sweep import Options, run_sweep, widest
from fastrank.experiments.training.events import Event, JobCost
from fastrank.experiments.training.job import Job
from fastrank.experiments.trial import Trial

HERE = Path(__file__).parents[1]
CONFIG: dict[str, Any] = {
    "name": "planned",
    "epochs": 2,
    "model": {"name": "mlp_bn", "depth": 2, "width": 16},
    "data": {"name": "digits"},
    "grid": {"batch_size": [64, 128], "lr": [0.5], "weight_decay": [0.0, 0.01]},
}


def hungry(job: Job, folder: Path, device: str) -> Iterator[Event]:
    raise MemoryError
    yield


def killed(job: Job, folder: Path, device: str) -> Iterator[Event]:
    os.kill(os.getpid(), signal.SIGKILL)
    yield from ()


def broken(job: Job, folder: Path, device: str) -> Iterator[Event]:
    raise ValueError("no good")
    yield


def job() -> Job:
    trial = Trial.model_validate(
        {**{k: CONFIG[k] for k in ("epochs", "model", "data")}, "batch_size": 64, "lr": 0.5}
        | {"weight_decay": 0.0, "momentum": 0.0, "seed": 0, "tracking": {}}
    )
    return Job(trial.id, {trial.id: trial.spec})


def test_a_plan_tells_what_a_run_takes_and_runs_nothing(
    config_file: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_plan(config_file(CONFIG), tmp_path / "out", Options(workers=1))
    shown = capsys.readouterr().out
    assert shown.count("weight decay 0.01") == 2
    assert "4 trials, 132 steps in all; 4 trials, 132 steps to do" in shown
    for size in (64, 128):
        found = re.search(rf"batch size +{size}, 2 trials at a time: ([\d.]+) ms a step, .* ([\d,]+) MiB", shown)
        assert found
        assert "an evaluation, " in found[0]
        assert " a spectrum, " in found[0]
        assert 0.01 < float(found[1]) < 1000
        assert 100 < int(found[2].replace(",", "")) < 10_000  # PyTorch alone takes more than the lower one
    assert re.search(r"2 jobs on 1 slots \(cpu\): about [\d.]+ (ms|s|min), and [\d.]+ GiB of memory", shown)
    assert not (tmp_path / "out").exists()


def test_a_plan_of_what_is_done_measures_nothing(
    config_file: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    run_sweep(config_file(CONFIG), tmp_path / "out", Options(workers=1, function="fake_trials:quick"))
    capsys.readouterr()
    monkeypatch.delattr(plan, "cost_of")
    print_plan(config_file(CONFIG), tmp_path / "out", Options())
    shown = capsys.readouterr().out
    assert shown.count("has a result") == 4
    assert "0 trials, 0 steps to do" in shown


def test_data_that_are_not_prepared_fail_the_plan_with_the_command(
    config_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTRANK_DATA", str(tmp_path / "cache"))
    with pytest.raises(ConfigError, match="fastrank data prepare cifar10") as caught:
        print_plan(config_file(CONFIG, "data.name = 'cifar10'"), tmp_path / "out", Options())
    assert str(tmp_path / "cache") in str(caught.value)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("hungry", "does not fit the memory of cpu: take smaller batches or a smaller network"),
        ("killed", "does not fit the memory of cpu"),
        ("broken", "ValueError: no good"),
    ],
)
def test_a_short_run_that_fails_says_why(monkeypatch: pytest.MonkeyPatch, function: str, message: str) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    with pytest.raises(CostError, match=message):
        cost_of(job(), "cpu", f"test_plan:{function}")


def test_slots_of_gpus_are_bounded_by_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda name: ((20 if name == "cuda:0" else 8) << 30, 80 << 30))
    monkeypatch.setattr(devices, "available_cores", lambda: 16)
    monkeypatch.setattr(devices, "cost_of", lambda job, device: JobCost(0.1, 0.1, 0.1, 5 << 30))
    assert slots("cuda", None, [job()]) == ["cuda:0", "cuda:1", "cuda:0", "cuda:0"]  # 5.6 GiB each, of 90 %
    assert slots("cuda", 3, [job()]) == ["cuda:0", "cuda:1", "cuda:0"]
    assert slots("cpu", 3, [job()]) == ["cpu"] * 3


def test_memory_is_measured_of_each_kind_of_trials(config_file: Callable[..., Path]) -> None:
    """Momentum is one more copy of all parameters."""
    config = load_config(config_file(CONFIG, "grid.momentum = [0.9, 0.0]"))
    records = [_pending(trial.id, trial) for trial in config.trials()]
    found = [next(iter(job.specs.values())) for job in widest(records, Options(device="cpu"))]
    kinds = {(spec["batch_size"], spec["momentum"]) for spec in found}
    assert kinds == {(64, 0.9), (64, 0.0), (128, 0.9), (128, 0.0)}


def test_a_plan_is_of_this_machine(config_file: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--plan measures this machine, not what --engine ray runs on"):
        print_plan(config_file(CONFIG), tmp_path / "out", Options(engine="ray"))


def test_a_device_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert kind("auto") == "cpu"
    with pytest.raises(UserError, match="PyTorch sees no CUDA device"):
        kind("cuda")
    with pytest.raises(UserError, match="expected auto, cpu or cuda, not 'tpu'"):
        kind("tpu")
