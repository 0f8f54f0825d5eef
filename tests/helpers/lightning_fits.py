"""Fits of Lightning's Trainer that take a moment, for `tests/trainers/test_lightning.py`."""

from __future__ import annotations

import lightning.pytorch as lightning
import torch
from lightning.pytorch.loggers.logger import DummyLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "logger": False}


class Net(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 3))

    def training_step(self, batch, index):
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def test_step(self, batch, index):
        return self.training_step(batch, index)

    def predict_step(self, batch, index):
        return self.net(batch[0])

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2, weight_decay=0.1)


class Gan(Net):
    """Two optimizers, each with half of the weights."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, index):
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(nn.functional.cross_entropy(self.net(batch[0]), batch[1]))
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(layer.parameters(), lr=0.1) for layer in (self.net[0], self.net[2])]


class Log(DummyLogger):
    """Keeps what it is told."""

    def __init__(self):
        super().__init__()
        self.told = []

    def log_metrics(self, metrics, step):
        self.told.append((step, dict(metrics)))

    def steps_of(self, name):
        return [step for step, metrics in self.told if name in metrics]


class At(lightning.Callback):
    """Does something after a batch."""

    def __init__(self, step, does):
        self.step, self.does = step, does

    def on_train_batch_end(self, trainer, module, *_):
        if trainer.global_step == self.step:
            self.does(trainer)


def loader():
    """The same batch eight times: Lightning does not resume a plain loader where it was."""
    inputs, targets = torch.randn(4, 8, generator=torch.Generator().manual_seed(0)), torch.arange(4) % 3
    return DataLoader(TensorDataset(inputs.repeat(8, 1), targets.repeat(8)), batch_size=4)


def fit(callbacks, folder, model=None, resume=None, **options):
    checkpoints = {"enable_checkpointing": any(isinstance(c, lightning.callbacks.ModelCheckpoint) for c in callbacks)}
    trainer = lightning.Trainer(
        **QUIET | checkpoints | {"max_epochs": 2} | options, callbacks=callbacks, default_root_dir=folder
    )
    model = model or Net()
    trainer.fit(model, loader(), ckpt_path=resume)
    return trainer, model


def steps_of(callback):
    return callback.tracker.to_pandas().step.unique().tolist()
