"""RankCallback in Lightning's Trainer: what is recorded and logged, and how a fit goes on after another one."""

from __future__ import annotations

import importlib
import runpy
import shutil
import sys
from pathlib import Path

import lightning.pytorch as lightning
import pytest
import pytorch_lightning
import torch
from lightning.pytorch.plugins import MixedPrecision
from lightning_fits import QUIET, At, Gan, Log, Net, fit, loader, steps_of

import fastrank
from fastrank import Tolerance
from fastrank.lightning import RankCallback

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:.*your dataloader is not resumable"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]


def test_every_step_is_recorded_and_no_weight_is_changed(tmp_path):
    callback, log = RankCallback(spectrum=["effective_rank"]), Log()
    assert callback.tracker is None
    assert callback.state_dict() == {}
    _, tracked = fit([callback], tmp_path, logger=log, log_every_n_steps=4)
    _, plain = fit([], tmp_path)
    for name, value in plain.state_dict().items():
        assert torch.equal(tracked.state_dict()[name], value)
    history = callback.tracker.to_pandas()
    assert history.step.unique().tolist() == list(range(1, 17))
    assert history.name.unique().tolist() == ["net.0.weight", "net.2.weight"]
    assert history.frobenius_norm.iloc[-1] == pytest.approx(tracked.net[2].weight.norm().item())
    assert log.steps_of("rank/mean") == log.steps_of("loss") == [3, 7, 11, 15]
    assert all(isinstance(value, float) for step, told in log.told if "rank/mean" in told for value in told.values())


def test_what_is_logged_is_apart_from_what_is_measured(tmp_path):
    """Gradients are accumulated over two batches: the loss of a step is logged at its second one."""
    callback, log = RankCallback(log_every=3, per_matrix=True), Log()
    fit([callback], tmp_path, logger=log, log_every_n_steps=1, accumulate_grad_batches=2, precision="bf16-mixed")
    assert steps_of(callback) == list(range(1, 9))
    assert log.steps_of("loss") == list(range(8))
    assert log.steps_of("rank/net.0.weight") == [2, 5]
    seldom, log = RankCallback(every=6, log_every=1), Log()
    fit([seldom], tmp_path, logger=log)
    assert log.steps_of("rank/mean") == [0, 5, 11]


@pytest.mark.parametrize("on_disk", [False, True])
def test_killed_and_resumed_as_if_nothing_had_been(tmp_path, on_disk):
    """The kill is a copy of all that is on disk when it comes: two steps after a checkpoint, in the second epoch."""
    run = tmp_path / "run"
    arguments = {"directory": run / "ranks", "rows_per_part": 5} if on_disk else {}

    def kill(trainer):
        if on_disk:
            callback.tracker.flush()
        shutil.copytree(run, tmp_path / "left")

    def saves():
        return lightning.callbacks.ModelCheckpoint(run, every_n_train_steps=3, save_top_k=-1, filename="{step}")

    callback = RankCallback(**arguments)
    fit([callback, At(11, kill), saves()], tmp_path)
    expected = callback.tracker.to_arrow()
    assert steps_of(callback) == list(range(1, 17))
    shutil.rmtree(run)
    shutil.move(tmp_path / "left", run)
    resumed = RankCallback(**arguments)
    fit([resumed, saves()], tmp_path, resume=run / "step=9.ckpt")
    assert resumed.tracker.to_arrow().equals(expected)
    if on_disk:
        assert fastrank.read_history(run / "ranks").equals(expected)


@pytest.mark.parametrize(("model", "steps"), [(Net, 6), (Gan, 12)])
def test_a_checkpoint_without_its_state_is_said(tmp_path, model, steps):
    fit([At(steps, lambda trainer: trainer.save_checkpoint(tmp_path / "saved"))], tmp_path, model())
    callback = RankCallback(initial=True)
    with pytest.warns(UserWarning, match=r"with this training's first 6 steps: its history begins at step 7"):
        fit([callback], tmp_path, model(), resume=tmp_path / "saved")
    assert steps_of(callback) == list(range(6, 17))


def test_two_optimizers_make_one_step(tmp_path):
    callback, log = RankCallback(log_every=4), Log()
    trainer, _ = fit([callback], tmp_path, Gan(), logger=log)
    assert trainer.global_step == 32
    assert steps_of(callback) == list(range(1, 17))
    assert log.steps_of("rank/mean") == [3, 7, 11, 15]


def test_a_second_fit_of_the_same_trainer_goes_on_and_a_new_trainer_begins(tmp_path):
    callback = RankCallback(directory=tmp_path / "ranks")
    trainer, model = fit([callback], tmp_path, max_epochs=1)
    first = callback.tracker
    trainer.fit_loop.max_epochs = 2
    trainer.fit(model, loader())
    assert callback.tracker is not first
    assert fastrank.read_history(tmp_path / "ranks").to_pandas().step.unique().tolist() == list(range(1, 17))
    with pytest.raises(fastrank.HistoryError, match="holds parts of an earlier run"):
        fit([callback], tmp_path)
    in_memory = RankCallback()
    for _ in range(2):
        fit([in_memory], tmp_path, max_epochs=1)
        assert steps_of(in_memory) == list(range(1, 9))


def test_steps_that_overflow_are_none(tmp_path):
    class Overflowing(Net):
        def training_step(self, batch, index):
            loss = super().training_step(batch, index)
            return loss * torch.inf if index == 3 else loss

    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    callback = RankCallback()
    fit([callback], tmp_path, Overflowing(), plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    assert steps_of(callback) == list(range(1, 15))


def test_a_compiled_model_has_its_own_names(tmp_path):
    model = Net()
    model.net = torch.compile(model.net, backend="eager")
    callback = RankCallback()
    fit([callback], tmp_path, model)
    assert callback.tracker.names == ["net.0.weight", "net.2.weight"]
    assert steps_of(callback) == list(range(1, 17))


def test_an_alert_stops_the_fit(tmp_path):
    callback = RankCallback(alerts=[fastrank.alerts.nonfinite("stop", names="net.0.weight")])
    diverge = At(2, lambda trainer: trainer.lightning_module.net[0].weight.data.fill_(torch.inf))
    with pytest.warns(fastrank.AlertWarning, match=r"net\.0\.weight"):
        fit([callback, diverge], tmp_path)
    assert steps_of(callback) == [1, 2, 3]


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_error_closes_the_tracker(tmp_path, error):
    def fail(trainer):
        raise error

    callback = RankCallback(directory=tmp_path / "ranks")
    with pytest.raises((ZeroDivisionError, SystemExit)):
        fit([callback, At(5, fail)], tmp_path)
    assert fastrank.read_history(tmp_path / "ranks").to_pandas().step.unique().tolist() == [1, 2, 3, 4, 5]
    fastrank.RankTracker(Net(), directory=tmp_path / "ranks").close()  # the folder is free


def test_nothing_is_tracked_without_a_fit(tmp_path):
    callback = RankCallback(directory=tmp_path / "ranks")
    trainer = lightning.Trainer(**QUIET, callbacks=[callback], default_root_dir=tmp_path)
    trainer.test(Net(), loader(), verbose=False)
    trainer.predict(Net(), loader())
    assert callback.tracker is None
    assert not (tmp_path / "ranks").exists()


def test_only_the_first_process_tracks(tmp_path, monkeypatch):
    monkeypatch.setattr(lightning.Trainer, "is_global_zero", False)
    callback = RankCallback()
    fit([callback], tmp_path, logger=Log())
    assert callback.tracker is None
    assert callback.state_dict() == {}


@pytest.mark.parametrize("package", [lightning, pytorch_lightning])
@pytest.mark.parametrize("alone", [False, True])
def test_the_trainers_of_both_packages_take_it(package, alone, tmp_path):
    callback = RankCallback()
    given = callback if alone else [callback]
    trainer = package.Trainer(**QUIET, callbacks=given, default_root_dir=tmp_path)
    assert callback in trainer.callbacks


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"evry": 2}, "RankCallback: unexpected argument 'evry'"),
        ({"model": Net}, "RankCallback: unexpected argument 'model'.* which the trainer gives"),
        ({"first_step": 3}, "first_step"),
        ({"log_every": "often"}, "log_every: expected a number of steps or a rule"),
    ],
)
def test_bad_arguments_are_said_at_once(arguments, message):
    with pytest.raises(TypeError, match=message):
        RankCallback(**arguments)


def test_a_state_of_other_columns_is_refused(tmp_path):
    callback = RankCallback()
    fit([callback, At(3, lambda trainer: trainer.save_checkpoint(tmp_path / "saved"))], tmp_path, max_epochs=1)
    other = RankCallback(tolerance=[Tolerance(), Tolerance(0.04)])
    with pytest.raises(ValueError, match="state_dict: columns differ"):
        fit([other], tmp_path, resume=tmp_path / "saved")


def test_without_lightning_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "fastrank.lightning")
    with pytest.raises(ImportError, match=r"pip install 'fastrank\[lightning\]'"):
        importlib.import_module("fastrank.lightning")


def test_it_is_an_attribute_that_no_list_of_names_has():
    assert fastrank.lightning.RankCallback is RankCallback
    assert "lightning" not in fastrank.__all__


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(Path(__file__).parents[2] / "examples" / "lightning_trainer.py"))
    assert "rank" in capsys.readouterr().out
