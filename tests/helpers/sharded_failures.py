"""What two ranks do around a sharded training that goes wrong, and what each of them is told: see `test_missing.py`."""

from __future__ import annotations

import time
import warnings
from contextlib import contextmanager

import torch
from torch import distributed, nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel

from fastrank import RankTracker, Tolerance, alerts
from fastrank.sharing.together import Together


def plain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 4))


def tracked(model=None, **options):
    """A tracker of a sharded model, or of the given one, after its first step."""
    tracker = RankTracker(fully_shard(plain()) if model is None else model, **{"timeout": 60, **options})
    tracker.step()
    return tracker


def refusal(call, *arguments, **options):
    """What a call raises, with its type; None if it raises nothing."""
    try:
        call(*arguments, **options)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


@contextmanager
def old_fsdp():
    """For `FullyShardedDataParallel`, which warns that it is old."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield {"device_id": torch.device("cpu")}


def with_differences(rank, found):
    """Trackers that are not alike, or of weights that are not sharded as they were."""
    for name, options in {
        "every": {"every": 1 + rank},
        "tolerance": {"tolerance": Tolerance(0.5 if rank else 0.1)},
        "functions": {"every": lambda step: step > 1, "of": ["weight"] if rank else ("weight",)},
    }.items():
        found[name] = refusal(tracked, **options)

    tracker = tracked()
    found["steps differ"] = refusal(tracker.step, step=3 + rank)
    found["after that"] = refusal(tracker.step)
    found["steps"] = [row["step"] for row in tracker.latest().values()]
    tracker.close()

    take_note, Together._take_note = Together._take_note, lambda self, told: None  # as on CUDA, where that comes later
    tracker = tracked(spectrum=["singular_values"])
    tracker.step(step=3 + rank)
    found["spoilt"] = [(r["rank_lower"], r["stable_rank"], r["singular_values"]) for r in tracker.latest().values()]
    tracker.close()
    Together._take_note = take_note

    start = time.monotonic()
    found["fails first"] = refusal(RankTracker, nn.LayerNorm(4) if rank else plain(), share=True, timeout=60)
    found["seconds"] = time.monotonic() - start
    tracked().close()  # is made at the same time by both

    model = fully_shard(plain())
    tracker = tracked(model)
    model.unshard()
    found["unsharded"] = refusal(tracker.step)
    model = plain()
    tracker = tracked(model)
    fully_shard(model)
    found["sharded later"] = refusal(tracker.step)
    model = plain()
    tracker = tracked(model, share=True)
    fully_shard(model)
    found["shared, sharded later"] = refusal(tracker.step)
    model = plain()
    tracker = tracked(model, share=True)
    model.bfloat16()
    found["bfloat16 later"] = refusal(tracker.step)
    model.double()
    found["float64 later"] = refusal(tracker.step)
    with old_fsdp() as options:
        model = plain()
        tracker = tracked(model)
        wrapper = FullyShardedDataParallel(model, use_orig_params=True, **options)
        found["flattened later"] = refusal(tracker.step)
        found["without its wrapper"] = refusal(RankTracker, wrapper.module)
        model = plain()
        tracker = tracked(model)
        wrapper = FullyShardedDataParallel(model, **options)
        found["flat later"] = refusal(tracker.step)
        found["flat"] = refusal(RankTracker, wrapper)

    group = distributed.new_group([0])
    for name, share in {"word": "yes", "number": 1, "group": group}.items():
        if name != "group" or rank == 1:
            found[f"share={name}"] = refusal(RankTracker, plain(), share=share)
    found["share=False"] = refusal(RankTracker, fully_shard(plain()), share=False)


def with_failures(rank, found, folder):
    """One rank fails in one way or another, and the other one goes on until it hears of it."""
    model = fully_shard(plain())
    tracker = tracked(model)
    if rank == 1:
        model[0] = nn.Linear(8, 9)
    found["replaced"] = refusal(tracker.step)
    found["again"] = refusal(tracker.step)
    tracker.close()

    tracker = tracked()
    found["step too small"] = refusal(tracker.step, step=2 - rank)

    tracker = tracked()
    if rank == 1:
        tracker.close()
    else:
        found["closed"] = refusal(tracker.step)

    def training():
        with tracked(directory=folder / "ended") as tracker:
            tracker.step()
            if rank == 1:
                raise ValueError("the loss is NaN")
            tracker.step()

    found["training ended"] = refusal(training)

    (folder / "file").touch()

    def unable():
        with tracked(directory=folder / "file"):
            pass

    found["no folder"] = refusal(unable)

    with RankTracker(plain(), share=False, directory=folder / f"earlier{rank}") as tracker:
        tracker.step()

    def twice(**options):
        with tracked(**options) as tracker:
            tracker.step()

    found["earlier run"] = refusal(twice, directory=folder / "earlier0")

    def angry(alert):
        raise ValueError(f"{alert.name} is low")

    found["alert"] = refusal(twice, alerts=[alerts.below(1.0, angry)], tolerance=Tolerance(0.6))

    model = DistributedDataParallel(plain())
    tracker = tracked(model, alerts=[alerts.below(0.1, "stop"), lambda rows: rows.upper < 0])
    found["stop"] = refusal(lambda: tracker.should_stop)
    found["no stop"] = refusal(lambda: tracked(model, alerts=[alerts.below(0.1)]).should_stop)


def too_late(rank, found):
    """One rank comes when the other one has given up."""
    if rank == 1:
        distributed.barrier()
    found["none made"] = refusal(tracked, timeout=1)
    if rank == 0:
        distributed.barrier()
