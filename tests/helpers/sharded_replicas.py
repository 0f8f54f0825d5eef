"""Replicas, alerts and several trackers in two ranks: see `test_replicas.py`."""

from __future__ import annotations

import warnings

import torch
from sharded import Llama, by_fsdp, line, rows_of, train
from sharded_failures import refusal
from torch import distributed, nn
from torch.distributed import checkpoint
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from fastrank import RankTracker, Tolerance, alerts
from fastrank.tracking.training import TrackedTraining


def replicas(rank, folder):
    """A `DistributedDataParallel`, saved and resumed, with what an idle rank says to everything that can be asked."""
    found, histories = {}, []
    for own in ("first", "second"):
        torch.manual_seed(0)
        model = DistributedDataParallel(Llama())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        with RankTracker(model, optimizer, directory=folder / "ddp", timeout=60) as tracker:
            if own == "second":
                checkpoint.load({"model": model, "tracker": tracker}, checkpoint_id=folder / "replicas")
            train(model, optimizer, 3, 3 * len(histories))
            tracker.flush()
            histories.append(rows_of(tracker) if rank == 0 else refusal(tracker.to_arrow))
            if own == "first":
                checkpoint.save({"model": model, "tracker": tracker}, checkpoint_id=folder / "replicas")
                state = tracker.state_dict()
                train(model, optimizer, 1)  # is lost
    found["histories"] = histories
    found["hooks"] = len(optimizer._optimizer_step_post_hooks)
    found["latest"] = {row["step"] for row in tracker.latest().values()}, len(tracker.scalars())
    everybodys = [None, None]
    distributed.all_gather_object(everybodys, state)
    found["state"] = sorted(state), refusal(tracker.load_state_dict, everybodys[1])
    idle = RankTracker(DistributedDataParallel(nn.Linear(4, 4)))
    if rank == 1:
        idle.step()
        idle.replayed(3)
        idle.load_state_dict(everybodys[0])
        idle.close()
        found["idle"] = repr(idle), idle.names, idle.should_stop, idle.full_rank
    return found


def alerted(rank):
    """A matrix that is zero from step 3 on, of a sharded model."""
    called, logged, stops = [], [], []
    model = fully_shard(nn.Sequential(nn.Linear(8, 6, bias=False)))
    rule = alerts.below(0.5, [called.append, "log", "stop"])

    def sink(step, values):
        logged.append((step, sorted(values)))

    with warnings.catch_warnings(record=True) as warned, RankTracker(model, alerts=[rule], log=[sink]) as tracker:
        warnings.simplefilter("always", alerts.AlertWarning)
        for step in range(1, 6):
            if step == 3:
                with torch.no_grad():
                    model[0].weight.zero_()
            tracker.step()
            stops.append(tracker.should_stop)
    found = [alert.step for alert in called], [step for step, names in logged if names == ["alert/below_0.5/0.weight"]]
    return stops, *found, len([w for w in warned if w.category is alerts.AlertWarning]), len(logged)


def several(rank):
    """Two trackers of a sharded model at once, and one that is made when they are closed; then the same unsharded."""
    found = []
    for shard in (True, False):
        torch.manual_seed(0)
        model = by_fsdp(Llama(), line()) if shard else Llama()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        first = RankTracker(model, optimizer, tolerance=Tolerance(0.15), of=["update"])
        second = RankTracker(model, optimizer, tolerance=Tolerance(0.3), every=2, spectrum=["effective_rank"])
        train(model, optimizer, 3)
        first.close()
        train(model, optimizer, 2, 3)
        second.close()
        third = RankTracker(model, optimizer, tolerance=Tolerance(0.15), first_step=6, initial=True)
        train(model, optimizer, 2, 5)
        third.close()
        found.append([rows_of(tracker) for tracker in (first, second, third)] if rank == 0 or not shard else None)
    return found


def evaluated(rank):
    """Trackers of models that have been evaluated before, whose outermost weights FSDP2 has kept whole since: how
    many rows they have, and whether the weights are those of the same training without a tracker."""
    found, trained = [], []
    for kind in ("tracker", "callback", "none"):
        torch.manual_seed(0)
        model = by_fsdp(Llama(), line())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        with torch.no_grad():
            model(torch.arange(6)[None])
        training = TrackedTraining({"timeout": 60}, None, False)
        if kind == "callback":
            training.begin(model, optimizer, 0, None, first=rank == 0)
        tracker = RankTracker(model, optimizer, timeout=60) if kind == "tracker" else training.tracker
        train(model, optimizer, 2)
        trained.append([parameter.to_local().detach().clone() for parameter in model.parameters()])
        if tracker is not None:
            tracker.close()
            found.append(len(rows_of(tracker)) if rank == 0 else None)
    return found, [all(map(torch.equal, own, trained[-1])) for own in trained]


def gradients(rank):
    """Of weights whose gradients are sums that are still to be made, norms beside those of the gradients themselves."""
    found = []
    for placement in (Replicate(), Shard(0), Shard(1)):
        model = nn.Linear(6, 8, bias=False)
        weight = distribute_tensor(torch.linspace(-1, 1, 48).view(8, 6), line(), [placement])
        model.weight = nn.Parameter(weight)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        inputs = distribute_tensor(torch.linspace(-1, 2, 24).view(4, 6), line(), [Shard(0)])
        with RankTracker(model, optimizer, of=("gradient",), share=True, timeout=60) as tracker:
            model(inputs).square().mean().backward()
            given = model.weight.grad
            optimizer.step()
        rows = rows_of(tracker) if rank == 0 else [{"frobenius_norm": None}]
        is_sum = given.placements[0].is_partial()
        found.append((is_sum, float(given.full_tensor().norm()), rows[0]["frobenius_norm"]))
    return found
