"""Ranks of every weight matrix of a sharded Llama, at every step, and again on another number of processes.

torchrun --nproc_per_node 2 examples/fsdp2.py                       # FSDP2
torchrun --nproc_per_node 4 examples/fsdp2.py --tp 2 --resume       # goes on: FSDP2 over pairs of tensor parallel ranks

No process ever has a whole matrix, and there is one history, in the folder ranks: `fastrank show ranks` while it grows.
"""

import argparse
import os
from pathlib import Path

import torch
from torch import distributed, nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.functional import cross_entropy, scaled_dot_product_attention, silu

import fastrank

CHECKPOINTS = Path("checkpoints")
VOCABULARY, WIDTH, HIDDEN, HEAD, LAYERS = 256, 64, 172, 16, 2


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.ffn_norm = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.wq, self.wk, self.wv, self.wo = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.w1, self.w3 = nn.Linear(WIDTH, HIDDEN, bias=False), nn.Linear(WIDTH, HIDDEN, bias=False)
        self.w2 = nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        q, k, v = (w(y).unflatten(-1, (-1, HEAD)).transpose(1, 2) for w in (self.wq, self.wk, self.wv))
        x = x + self.wo(scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        y = self.ffn_norm(x)
        return x + self.w2(silu(self.w1(y)) * self.w3(y))


class Llama(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(Block() for _ in range(LAYERS))
        self.output = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """The loss of predicting each token, (batch, length) int64, from those before it."""
        x = self.embeddings(tokens[:, :-1])
        for layer in self.layers:
            x = layer(x)
        return cross_entropy(self.output(x.flatten(0, 1)), tokens[:, 1:].flatten())


def sharded(model: Llama, device: str, tp: int) -> Llama:
    """Tensor parallel over `tp` ranks, and FSDP2 over the others."""
    mesh = init_device_mesh(device, (distributed.get_world_size() // tp, tp), mesh_dim_names=("dp", "tp"))
    if tp > 1:
        plan = {
            "embeddings": RowwiseParallel(input_layouts=Replicate()),
            "layers.*.w[qkv13]": ColwiseParallel(),
            "layers.*.w[o2]": RowwiseParallel(),
            "output": ColwiseParallel(output_layouts=Replicate()),
        }
        parallelize_module(model, mesh["tp"], plan)
    for layer in model.layers:
        fully_shard(layer, mesh=mesh["dp"])
    return fully_shard(model, mesh=mesh["dp"])


class Everything:
    """What a checkpoint holds, in the form that torch.distributed.checkpoint asks for."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.optimizer = model, optimizer

    def state_dict(self) -> dict[str, object]:
        model, optimizer = get_state_dict(self.model, self.optimizer)
        return {"model": model, "optimizer": optimizer}

    def load_state_dict(self, state: dict) -> None:
        set_state_dict(self.model, self.optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])


def text(step: int, transitions: torch.Tensor, device: str) -> torch.Tensor:
    """Sixteen sentences of a language in which each word has a few that may follow it."""
    generator = torch.Generator().manual_seed(step)
    words = [torch.randint(VOCABULARY, (16,), generator=generator)]
    for _ in range(32):
        choices = torch.randint(transitions.shape[1], (16,), generator=generator)
        words.append(transitions[words[-1], choices])
    return torch.stack(words, 1).to(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--tp", type=int, default=1, help="ranks over which each layer is tensor parallel (default 1)")
    parser.add_argument("--resume", action="store_true", help="go on from the last of the checkpoints")
    options = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    torch.manual_seed(0)
    model = sharded(Llama().to(device), device, options.tp)
    optimizer = fastrank.SGD(model.parameters(), lr=0.2, momentum=0.9, weight_decay=5e-3)
    transitions = torch.randint(VOCABULARY, (VOCABULARY, 4), generator=torch.Generator().manual_seed(0))

    # On every rank, once the model is sharded, and the same on each. The first one writes the folder.
    with fastrank.RankTracker(
        model, optimizer, tolerance=fastrank.Tolerance(0.05), directory="ranks", overwrite=True
    ) as tracker:
        state = {"app": Everything(model, optimizer), "ranks": tracker, "step": torch.tensor(0)}
        if options.resume:
            checkpoint.load(state, checkpoint_id=max(CHECKPOINTS.iterdir()))
        first = int(state["step"])
        for step in range(first, first + options.steps):
            loss = model(text(step, transitions, device))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        state["step"] = torch.tensor(first + options.steps)
        checkpoint.save(state, checkpoint_id=CHECKPOINTS / f"step-{first + options.steps:06}")
        if distributed.get_rank() == 0:
            print(f"step {first + options.steps}, loss {loss.item():.3f}")
            print(tracker)
            for name, row in tracker.latest().items():
                print(f"  {name}: rank {row['rank_lower']} of {min(row['rows'], row['cols'])}")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
