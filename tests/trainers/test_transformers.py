"""RankCallback in Hugging Face's Trainer, and a tracker in Accelerate's checkpoints."""

from __future__ import annotations

import gc
import importlib
import json
import math
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

import fastrank
from fastrank import Tolerance
from fastrank.transformers import RankCallback

EXAMPLES = Path(__file__).parents[2] / "examples"


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 3))

    def forward(self, inputs, labels):
        return {"loss": nn.functional.cross_entropy(self.net(inputs), labels), "logits": self.net(inputs)}


class Reports(TrainerCallback):
    """Keeps what it is told, as a callback that reports to a logger."""

    def __init__(self):
        self.told = []

    def on_log(self, args, state, control, logs, **kwargs):
        self.told.append((state.global_step, dict(logs)))

    def steps_of(self, name):
        return [step for step, logs in self.told if name in logs]


class At(TrainerCallback):
    """Does something after a step."""

    def __init__(self, step, does):
        self.step, self.does = step, does

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.does()


def data():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(32, 8, generator=generator)
    return [{"inputs": row, "labels": row[:3].argmax()} for row in inputs]


def trainer(callbacks, folder, model=None, **options):
    quiet = {"use_cpu": True, "disable_tqdm": True, "report_to": [], "save_strategy": "no", "learning_rate": 1e-2}
    sizes = {"per_device_train_batch_size": 4, "num_train_epochs": 2, "logging_steps": 4}
    arguments = TrainingArguments(str(folder), **quiet | sizes | options)
    return Trainer(model or Net(), arguments, train_dataset=data(), eval_dataset=data(), callbacks=callbacks)


def steps_of(callback):
    return callback.tracker.to_pandas().step.unique().tolist()


def test_every_step_is_recorded_and_no_weight_is_changed(tmp_path):
    callback, reports = RankCallback(), Reports()
    assert callback.tracker is None
    tracked = trainer([reports, callback], tmp_path, eval_strategy="steps", eval_steps=8)
    tracked.train()
    plain = trainer([], tmp_path)
    plain.train()
    for name, value in plain.model.state_dict().items():
        assert torch.equal(tracked.model.state_dict()[name], value)
    history = callback.tracker.to_pandas()
    assert history.step.unique().tolist() == list(range(1, 17))
    assert history.name.unique().tolist() == ["net.0.weight", "net.2.weight"]
    assert history.frobenius_norm.iloc[-1] == pytest.approx(tracked.model.net[2].weight.norm().item())
    assert reports.steps_of("rank/mean") == reports.steps_of("loss") == [4, 8, 12, 16]
    kept = [(entry["step"], entry["rank/mean"]) for entry in tracked.state.log_history if "rank/mean" in entry]
    assert kept == [(step, logs["rank/mean"]) for step, logs in reports.told if "rank/mean" in logs]


def test_what_is_logged_is_apart_from_what_is_measured(tmp_path):
    callback, reports = RankCallback(log_every=3, per_matrix=True, every=2), Reports()
    several = trainer([reports, callback], tmp_path, gradient_accumulation_steps=2, bf16=True, num_train_epochs=3)
    several.train()
    assert steps_of(callback) == [1, 2, 4, 6, 8, 10, 12]
    assert reports.steps_of("loss") == [4, 8, 12]
    assert reports.steps_of("rank/net.0.weight") == [3, 6, 9, 12]
    kept = [entry["step"] for entry in several.state.log_history if "rank/mean" in entry]
    assert kept == [3, 6, 9, 12]
    values = [value for _, logs in reports.told for name, value in logs.items() if "rank" in name]
    assert all(isinstance(value, float) and math.isfinite(value) for value in values)


@pytest.mark.parametrize("restored", [False, True])
@pytest.mark.parametrize("on_disk", [False, True])
def test_killed_and_resumed_as_if_nothing_had_been(tmp_path, on_disk, restored):
    """The kill is a copy of all that is on disk when it comes: two steps after a checkpoint, in the second epoch."""
    run = tmp_path / "run"
    arguments = {"directory": run / "ranks", "rows_per_part": 5} if on_disk else {}
    options = {"save_strategy": "steps", "save_steps": 3, "restore_callback_states_from_checkpoint": restored}

    def kill():
        if on_disk:
            callback.tracker.flush()
        shutil.copytree(run, tmp_path / "left")

    callback = RankCallback(**arguments, tolerance=Tolerance(0.04))
    trainer([callback, At(11, kill)], run, **options).train()
    expected = callback.tracker.to_arrow()
    assert steps_of(callback) == list(range(1, 17))
    shutil.rmtree(run)
    shutil.move(tmp_path / "left", run)
    resumed, reports = RankCallback(**arguments, tolerance=Tolerance(0.04)), Reports()
    trainer([reports, resumed], run, **options).train(resume_from_checkpoint=True)
    assert resumed.tracker.to_arrow().equals(expected)
    assert reports.steps_of("rank/mean") == [12, 16]
    if on_disk:
        assert fastrank.read_history(run / "ranks").equals(expected)


def test_a_checkpoint_without_its_state_is_said(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 6}
    trainer([], tmp_path, **options, max_steps=6).train()
    callback = RankCallback(initial=True)
    with pytest.warns(UserWarning, match=r"with this training's first 6 steps: its history begins at step 7"):
        trainer([callback], tmp_path, **options).train(resume_from_checkpoint=True)
    assert steps_of(callback) == list(range(6, 17))
    kept = json.loads((tmp_path / "checkpoint-12" / "trainer_state.json").read_text())["stateful_callbacks"]
    assert kept["RankCallback"]["tracker"]


def test_an_alert_stops_the_training(tmp_path):
    callback, model = RankCallback(alerts=[fastrank.alerts.nonfinite("stop", names="net.0.weight")]), Net()
    diverge = At(2, lambda: model.net[0].weight.data.fill_(torch.inf))
    with pytest.warns(fastrank.AlertWarning, match=r"net\.0\.weight"):
        trainer([callback, diverge], tmp_path, model).train()
    assert steps_of(callback) == [1, 2, 3]


def test_a_second_training_begins_a_history(tmp_path):
    callback = RankCallback()
    again = trainer([callback], tmp_path)
    for _ in range(2):
        again.train()
        assert steps_of(callback) == list(range(1, 17))
    other = RankCallback(directory=tmp_path / "ranks")
    trainer([other], tmp_path).train()
    with pytest.raises(fastrank.HistoryError, match="holds parts of an earlier run"):
        trainer([other], tmp_path).train()


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_after_an_error_the_next_training_has_the_folder(tmp_path, error):
    def fail():
        raise error

    options = {"save_strategy": "steps", "save_steps": 2}
    failed = trainer([RankCallback(directory=tmp_path / "ranks"), At(5, fail)], tmp_path, **options)
    with pytest.raises(error):
        failed.train()
    callback = RankCallback(directory=tmp_path / "ranks")
    trainer([callback], tmp_path, **options).train(resume_from_checkpoint=True)
    assert steps_of(callback) == list(range(1, 17))


def test_after_an_error_the_rows_are_on_disk_when_the_trainer_goes(tmp_path):
    def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        trainer([RankCallback(directory=tmp_path / "ranks"), At(5, fail)], tmp_path).train()
    gc.collect()
    assert fastrank.read_history(tmp_path / "ranks").to_pandas().step.unique().tolist() == [1, 2, 3, 4, 5]


def test_steps_that_overflow_are_none(tmp_path):
    class Overflowing(Net):
        calls = 0

        def forward(self, inputs, labels):
            self.calls += 1
            found = super().forward(inputs, labels)
            return found | {"loss": found["loss"] * (torch.inf if self.calls in (4, 9) else 1.0)}

    callback = RankCallback()
    overflowing = trainer([callback], tmp_path, Overflowing(), max_grad_norm=0.0)
    overflowing.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0)  # as with fp16=True on a GPU
    overflowing.train()
    assert overflowing.state.global_step == 16
    assert steps_of(callback) == list(range(1, 15))


def test_nothing_is_tracked_without_a_training(tmp_path):
    callback = RankCallback(directory=tmp_path / "ranks")
    unused = trainer([callback], tmp_path)
    unused.evaluate()
    unused.predict(data())
    assert callback.tracker is None
    assert not (tmp_path / "ranks").exists()


def test_only_the_first_process_tracks(tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "is_world_process_zero", lambda self: False)
    callback = RankCallback()
    trainer([callback], tmp_path, save_strategy="epoch").train()
    assert callback.tracker is None


def test_one_callback_is_enough(tmp_path):
    with pytest.raises(ValueError, match="callbacks: one RankCallback only"):
        trainer([RankCallback(), RankCallback()], tmp_path).train()


def test_bad_arguments_are_said_at_once():
    with pytest.raises(TypeError, match="evry"):
        RankCallback(evry=2)
    with pytest.raises(ValueError, match="log_every: must be at least 1"):
        RankCallback(log_every=0)


def test_without_transformers_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers.trainer_callback", None)
    monkeypatch.delitem(sys.modules, "fastrank.transformers")
    with pytest.raises(ImportError, match=r"pip install 'fastrank\[transformers\]'"):
        importlib.import_module("fastrank.transformers")


def test_it_is_an_attribute_that_no_list_of_names_has():
    assert fastrank.transformers.RankCallback is RankCallback
    assert "transformers" not in fastrank.__all__


@pytest.mark.parametrize("name", ["transformers_trainer", "accelerate_loop"])
def test_the_examples_run(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / f"{name}.py"))
    assert fastrank.read_history("ranks").to_pandas().step.unique().tolist() == list(range(1, 65))
    assert "step 64: rank" in capsys.readouterr().out
