"""Trainings of several ranks that are interrupted, and go on on other numbers of ranks: see `test_resume.py`."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import torch
from sharded import Llama, batch, by_fsdp, rows_of, train
from torch import distributed, nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.functional import cross_entropy

from fastrank import RankTracker, Tolerance

SAVED, LOST, STEPS = 4, 7, 9
"""The last step in the checkpoint, the last one before the end, and the last one of the training that goes on."""

OPTIONS = {"tolerance": Tolerance(0.15), "spectrum": ["singular_values"], "spectrum_every": 2, "rows_per_part": 48}


def made(shard=None, folder=None, **options):
    """A model, its optimizer and its tracker."""
    torch.manual_seed(0)
    model = Llama()
    model = model if shard is None else by_fsdp(model, shard)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    return model, optimizer, RankTracker(model, optimizer, directory=folder, timeout=60, **OPTIONS, **options)


def everything(model, optimizer, tracker):
    """All that is saved, as `torch.distributed.checkpoint` takes it."""
    weights, state = get_state_dict(model, optimizer)
    return {"model": weights, "optimizer": state, "tracker": tracker}


def go_on(model, optimizer, tracker, saved, group=None):
    """Load a checkpoint, and train to the end. Returns the history that the first rank then has."""
    state = everything(model, optimizer, tracker)
    checkpoint.load(state, checkpoint_id=saved, process_group=group, no_dist=group is None)
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    train(model, optimizer, STEPS - SAVED, SAVED)
    tracker.close()
    return rows_of(tracker) if tracker._keeps else None


class Stage(nn.Module):
    """The modules of a Llama that a rank of a pipeline has, under the names that they have there."""

    def __init__(self, rank, size):
        super().__init__()
        torch.manual_seed(0)
        whole = Llama()
        chain = ["words", "layers.0", "layers.1", "head"]
        self.layers = nn.ModuleDict()
        for name in chain[rank * 4 // size : (rank + 1) * 4 // size]:
            parent = self if "." not in name else self.layers
            parent.add_module(name.removeprefix("layers."), whole.get_submodule(name))
        self.rank, self.size = rank, size

    def run(self, words):
        """Forward and backward, together with the other ranks."""
        if self.rank:
            x = torch.empty(*words.shape, 16)
            distributed.recv(x, self.rank - 1)
            first = x.requires_grad_()
        else:
            x = self.words(words)
        for layer in self.layers.values():
            x = layer(x)
        if self.rank == self.size - 1:
            cross_entropy(self.head(x)[:, :-1].flatten(0, 1), words[:, 1:].flatten()).backward()
        else:
            distributed.send(x.detach(), self.rank + 1)
            gradient = torch.empty_like(x)
            distributed.recv(gradient, self.rank + 1)
            x.backward(gradient)
        if self.rank:
            distributed.send(first.grad, self.rank - 1)


def staged(rank, size, steps, share, saved=None):
    """A pipeline over `size` ranks, trained for these steps. Returns its stage and its tracker."""
    stage = Stage(rank, size)
    optimizer = torch.optim.SGD(stage.parameters(), lr=0.3)
    tracker = RankTracker(stage, optimizer, share=share, timeout=60, of=["weight", "gradient"], **OPTIONS)
    if saved is not None:
        stage.load_state_dict({k: x for own in saved["stages"] for k, x in own.items() if k in stage.state_dict()})
        tracker.load_state_dict(saved["tracker"])
    for step in steps:
        optimizer.zero_grad()
        stage.run(batch(step))
        optimizer.step()
    return stage, tracker


def stages_in(folder):
    """What two ranks of a pipeline have saved: what is to be loaded, and the state of the second one's tracker."""
    stages, states = zip(*(torch.load(folder / f"stage{i}", weights_only=True) for i in range(2)), strict=True)
    return {"stages": stages, "tracker": states[0]}, states[1]


def rows_or_names(tracker):
    return rows_of(tracker) if tracker._keeps else tracker.names


def interrupted(rank, folder):
    """A sharded training and a pipeline. Of the former, rank 1 is killed some steps after the checkpoint."""
    stage, tracker = staged(rank, 2, range(SAVED), True)
    torch.save([stage.state_dict(), tracker.state_dict()], folder / f"stage{rank}")
    tracker.close()

    model, optimizer, tracker = made(distributed.device_mesh.init_device_mesh("cpu", (2,)), folder / "history")
    with tracker:
        train(model, optimizer, SAVED)
        checkpoint.save(everything(model, optimizer, tracker), checkpoint_id=folder / "saved")
        train(model, optimizer, LOST - SAVED, SAVED)
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        optimizer.step()


def resumed(rank, folder):
    """The same on four ranks, on two of them, on one that is sharded and on one that is not; and the pipeline."""
    folder, found = Path(folder), {}
    if rank == 0:
        for name in ("4", "2", "1", "plain"):
            shutil.copytree(folder / "history", folder / name)
    everybody = DeviceMesh("cpu", range(4))
    found["4"] = go_on(*made(everybody, folder / "4"), folder / "saved", everybody.get_group())

    pair, alone = DeviceMesh("cpu", [0, 1]), DeviceMesh("cpu", [2])
    if rank < 2:
        group = pair.get_group()
        found["2"] = go_on(*made(pair, folder / "2", share=group), folder / "saved", group)
    elif rank == 2:
        found["1"] = go_on(*made(alone, folder / "1", share=alone.get_group()), folder / "saved")
    else:
        found["plain"] = go_on(*made(None, folder / "plain"), folder / "saved")
        model, optimizer, tracker = made()
        train(model, optimizer, STEPS)
        found["twin"] = rows_of(tracker)

    saved, others = stages_in(folder)
    try:
        staged(rank, 4, [], True, {**saved, "tracker": others})
    except ValueError as error:
        found["state of another rank"] = str(error)
    found["stages"] = rows_or_names(staged(rank, 4, range(SAVED, STEPS), True, saved)[1])
    return found
