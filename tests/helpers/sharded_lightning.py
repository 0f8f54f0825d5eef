"""Fits of Lightning's Trainer in two processes, for `tests/trainers/test_sharded.py`."""

from __future__ import annotations

import os
import warnings

import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from lightning_fits import At, Log, Net, fit, loader
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel, fully_shard

import fastrank
from fastrank.lightning import RankCallback


class Descended(Net):
    """By an optimizer without a state, as a second fit of a trainer has a new one."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, weight_decay=0.1)


class Sharded(Descended):
    def configure_model(self):
        if not isinstance(self.net, FSDPModule):
            fully_shard(self.net, mesh=self.device_mesh["data_parallel"])


class OldStrategy(FSDPStrategy):
    """Lightning's own one shards on GPUs only, and gives PyTorch no device where there is none."""

    def _setup_model(self, model):
        return FullyShardedDataParallel(model, device_id=torch.device("cpu"), **self.kwargs)


def by_lightning(rank, folder):
    """What comes of each fit in this process, by its name: see `seen`."""
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    old = OldStrategy(use_orig_params=True)
    return {
        "alone": seen(*fitted(RankCallback(), Descended(), "ddp", folder, max_epochs=3)),
        "shared": seen(*fitted(RankCallback(share=True), Descended(), "ddp", folder)),
        "old": seen(*fitted(RankCallback(), Descended(), old, folder)),
        **interrupted(folder),
    }


def interrupted(folder):
    """A fit that an alert stops, one that resumes from its checkpoint, and one of the same trainer after that."""

    def poison(trainer):
        trainer.lightning_module.net[0].weight.to_local().data.fill_(torch.inf)

    saves = At(3, lambda trainer: trainer.save_checkpoint(folder / "saved"))
    arguments = {"directory": folder / "ranks", "alerts": [fastrank.alerts.nonfinite("stop")]}
    found = {}
    with warnings.catch_warnings(record=True, action="always") as caught:
        stopped = fitted(RankCallback(**arguments), Sharded(), two(), folder, [saves, At(5, poison)])
    alerts = [warning for warning in caught if warning.category is fastrank.AlertWarning]
    found["stopped"] = seen(*stopped) | {"alerts": len(alerts)}
    resumed = fitted(RankCallback(**arguments), Sharded(), two(), folder, resume=folder / "saved")
    found["resumed"] = seen(*resumed)
    trainer, log, callback = resumed
    trainer.fit_loop.max_epochs = 3
    trainer.fit(trainer.lightning_module, loader())
    found["again"] = seen(trainer, log, callback)
    return found


def two():
    return ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)


def fitted(callback, model, strategy, folder, others=(), **options):
    log = Log()
    own = {"logger": log, "log_every_n_steps": 2, "devices": 2, "strategy": strategy}
    batches = {"limit_train_batches": 4, "use_distributed_sampler": False}  # which would shuffle
    trainer, _ = fit([callback, *others], folder, model, **own | batches | options)
    return trainer, log, callback


def seen(trainer, log, callback):
    """The last step, those whose scalars were logged, the last rows, and all rows where there are any."""
    tracker = callback.tracker
    found = {"step": trainer.global_step, "logged": log.steps_of("rank/mean")}
    if tracker is not None:
        found["last"] = list(tracker.latest().values())
    if trainer.is_global_zero:
        found["rows"] = tracker.to_arrow().to_pylist()
    return found
