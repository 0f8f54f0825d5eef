"""Trainings by Hugging Face's Trainer and by Accelerate in two processes, for `tests/trainers/test_sharded.py`."""

from __future__ import annotations

import os
import runpy
import warnings
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

import fastrank
from fastrank.transformers import RankCallback

EXAMPLE = Path(__file__).parents[2] / "examples" / "accelerate_loop.py"


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 3))

    def forward(self, inputs, labels):
        return {"loss": nn.functional.cross_entropy(self.net(inputs), labels)}


class Reports(TrainerCallback):
    """Keeps the steps whose scalars it is told, as a callback that reports to a logger."""

    def __init__(self):
        self.steps = []

    def on_log(self, args, state, control, logs, **kwargs):
        self.steps += [state.global_step] * ("rank/mean" in logs)


class Poison(TrainerCallback):
    def on_step_end(self, args, state, control, model, **kwargs):
        if state.global_step == 5:
            model.net[0].weight.to_local().data.fill_(torch.inf)


def by_transformers(rank, folder):
    """What comes of each training in this process, by its name: see `trained`."""
    _environment(rank)
    sharded = {"fsdp": True, "fsdp_config": {"version": 2}, "save_strategy": "steps", "save_steps": 3}
    stops = {"alerts": [fastrank.alerts.nonfinite("stop")]}
    found = {"alone": trained(RankCallback(), folder), "shared": trained(RankCallback(share=True, log_every=3), folder)}
    with warnings.catch_warnings(record=True, action="always") as caught:
        found["stopped"] = trained(RankCallback(**stops), folder, [Poison()], **sharded)
    found["stopped"]["alerts"] = sum(warning.category is fastrank.AlertWarning for warning in caught)
    found["resumed"] = trained(RankCallback(**stops), folder, resume=folder / "checkpoint-3", **sharded)
    return found


def by_accelerate(rank, folder):
    """The rows of the example's history, and the state that its tracker has, by whether weights are sharded."""
    _environment(rank)
    found = {}
    for name in ("alone", "sharded"):
        (folder / name).mkdir(exist_ok=True)
        os.chdir(folder / name)
        AcceleratorState._reset_state(True)
        if name == "sharded":
            PartialState(cpu=True)
            _say_that_it_is_no_cpu()
            os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
        tracker = runpy.run_path(str(EXAMPLE))["tracker"]
        found[name] = tracker.to_arrow().to_pylist() if rank == 0 else list(tracker.latest().values())
    return found


def trained(callback, folder, others=(), resume=None, **options):
    """The last step, those whose scalars were logged, the last rows, and all rows where there are any."""
    AcceleratorState._reset_state(True)
    quiet = {"use_cpu": True, "disable_tqdm": True, "report_to": [], "save_strategy": "no", "learning_rate": 1e-2}
    sizes = {"per_device_train_batch_size": 4, "num_train_epochs": 2, "logging_steps": 4}
    arguments = TrainingArguments(str(folder), **quiet | sizes | options)
    if "fsdp" in options:
        _say_that_it_is_no_cpu()
    inputs = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
    data = [{"inputs": row, "labels": row[:3].argmax()} for row in inputs]
    reports = Reports()
    trainer = Trainer(Net(), arguments, train_dataset=data, callbacks=[reports, callback, *others])
    trainer.train(resume_from_checkpoint=resume)
    found = {"step": trainer.state.global_step, "logged": reports.steps}
    if callback.tracker is not None:
        found["last"] = list(callback.tracker.latest().values())
    if trainer.is_world_process_zero():
        found["rows"] = callback.tracker.to_arrow().to_pylist()
    return found


def _environment(rank):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}


def _say_that_it_is_no_cpu():
    """Accelerate ignores FSDP on a machine that has CPUs only, where it works nevertheless."""
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
