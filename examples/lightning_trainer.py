"""Ranks of every weight matrix, at every step of Lightning's Trainer, and again after a training that was cut short.

pip install 'fastrank[lightning]'
python examples/lightning_trainer.py
"""

import lightning.pytorch as lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fastrank.lightning import RankCallback


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, weight_decay=5e-3)


torch.manual_seed(0)
inputs = torch.randn(256, 16)
batches = DataLoader(TensorDataset(inputs, inputs[:, :4].argmax(1)), batch_size=16)


def fit(epochs: int, resume: str | None = None) -> RankCallback:
    # This is all: the callback makes its tracker when `fit` begins, and its state is in the trainer's checkpoints. A
    # new run replaces the history of an earlier one in this folder; one that is resumed goes on with it.
    callback = RankCallback(directory="ranks", overwrite=True, log_every=8)
    trainer = lightning.Trainer(max_epochs=epochs, callbacks=[callback], accelerator="cpu", enable_checkpointing=False)
    trainer.fit(Classifier(), batches, ckpt_path=resume)
    trainer.save_checkpoint("last.ckpt")
    return callback


fit(2)
callback = fit(4, resume="last.ckpt")  # steps 33 to 64, in the same history
for name, row in callback.tracker.latest().items():
    print(f"{name}, step {row['step']}: rank {row['rank_lower']} of {min(row['rows'], row['cols'])}")
