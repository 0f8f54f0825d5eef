"""Ranks of every weight matrix, at every step of Hugging Face's Trainer, and again after a training that was cut short.

pip install 'fastrank[transformers]'
python examples/transformers_trainer.py
"""

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from fastrank.transformers import RankCallback


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": nn.functional.cross_entropy(self.net(inputs), labels)}


torch.manual_seed(0)
data = [{"inputs": row, "labels": row[:4].argmax()} for row in torch.randn(256, 16)]


def train(epochs: int, resume: str | None = None) -> RankCallback:
    # This is all: the callback makes its tracker when `train` begins, and its state is in the trainer's checkpoints. A
    # new run replaces the history of an earlier one in this folder; one that is resumed goes on with it.
    callback = RankCallback(directory="ranks", overwrite=True, log_every=8)
    arguments = TrainingArguments(
        "checkpoints",
        num_train_epochs=epochs,
        per_device_train_batch_size=16,
        weight_decay=0.1,
        save_strategy="epoch",
        report_to=[],  # "tensorboard", "wandb", ...: the ranks go there too
        use_cpu=True,
    )
    trainer = Trainer(Classifier(), arguments, train_dataset=data, callbacks=[callback])
    trainer.train(resume_from_checkpoint=resume)
    return callback


train(2)
callback = train(4, resume="checkpoints/checkpoint-32")  # steps 33 to 64, in the same history
for name, row in callback.tracker.latest().items():
    print(f"{name}, step {row['step']}: rank {row['rank_lower']} of {min(row['rows'], row['cols'])}")
