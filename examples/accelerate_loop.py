"""Ranks of every weight matrix, at every step of a loop with Accelerate, and again after a training that was cut short.

pip install 'fastrank[transformers]'
python examples/accelerate_loop.py
"""

import torch
from accelerate import Accelerator, PartialState
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fastrank

torch.manual_seed(0)
inputs = torch.randn(256, 16)
data = TensorDataset(inputs, inputs[:, :4].argmax(1))


def train(epochs: int, resume: bool) -> fastrank.RankTracker:
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=5e-3)

    accelerator = Accelerator(cpu=True)
    model, optimizer, batches = accelerator.prepare(model, optimizer, DataLoader(data, batch_size=16))
    # On every process, as Accelerate wants the same objects registered on each; where it shards the weights, all of
    # them measure together. The first one writes the folder. A new run replaces the history of an earlier one there;
    # one that is resumed goes on with it.
    tracker = fastrank.RankTracker(model, optimizer, directory="ranks", overwrite=True)
    accelerator.register_for_checkpointing(tracker)
    if resume:
        accelerator.load_state("checkpoint")

    for _ in range(epochs):
        for examples, targets in batches:
            optimizer.zero_grad()
            accelerator.backward(nn.functional.cross_entropy(model(examples), targets))
            optimizer.step()
    accelerator.save_state("checkpoint")
    accelerator.wait_for_everyone()  # until the first process has saved the tracker's state, which all of them load
    tracker.close()
    return tracker


train(2, resume=False)
tracker = train(2, resume=True)  # steps 33 to 64, in the same history
if PartialState().is_main_process:
    for name, row in tracker.latest().items():
        print(f"{name}, step {row['step']}: rank {row['rank_lower']} of {min(row['rows'], row['cols'])}")
