"""A whole training step in one CUDA graph: forward, backward, optimizer, and the rank of every weight matrix.

    python examples/cuda_graph.py

A replay launches the step at once, so that the GPU does not wait for Python. It needs an NVIDIA GPU.
"""

import sys

import torch
from torch import nn

import fastrank

if not torch.cuda.is_available():
    sys.exit("examples/cuda_graph.py: needs a CUDA device, and PyTorch sees none here")

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)).cuda()
optimizer = fastrank.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-3)
fastrank.prepare(model, optimizer)  # all kernels are compiled: what is captured stays as it is
tracker = fastrank.RankTracker(model, optimizer)

# A graph works on the same memory at every replay: each batch is copied to where the graph reads it.
inputs = torch.empty(128, 64, device="cuda")
targets = torch.empty(128, dtype=torch.int64, device="cuda")


def load_batch() -> None:
    inputs.normal_()
    targets.copy_(inputs[:, :10].argmax(1))


def train_step() -> None:
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(inputs), targets).backward()
    optimizer.step()  # the tracker follows the optimizer, so the ranks are captured with it


# Some steps as usual, on another stream: gradients, momentum and workspaces are made.
side = torch.cuda.Stream()
side.wait_stream(torch.cuda.current_stream())
with torch.cuda.stream(side):
    for _ in range(3):
        load_batch()
        train_step()
torch.cuda.current_stream().wait_stream(side)

graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    train_step()  # captured, not run: no step is counted here

for _ in range(1000):
    load_batch()
    graph.replay()
    tracker.replayed()  # a replay runs nothing on the host: the tracker has to be told

for name, row in tracker.latest().items():
    print(f"{name}, step {row['step']}: rank {row['rank_lower']} to {row['rank_upper']}, {row['rows']} x {row['cols']}")
