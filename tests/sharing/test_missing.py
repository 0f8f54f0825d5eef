"""What happens around a sharded training when a rank fails, differs or is gone: every rank gets an error that says so,
and nobody waits in vain."""

from __future__ import annotations

import os
import pickle
import re
import signal
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from processes import IMPORTS, Ended, run
from torch import distributed, nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel

from fastrank import RankTracker, Tolerance, alerts, read_history
from fastrank.sharing import missing
from fastrank.sharing.telling import Telling


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

    compare, Telling._compare = Telling._compare, lambda self, told: None  # as on CUDA, where the host looks later
    tracker = tracked(spectrum=["singular_values"])
    tracker.step(step=3 + rank)
    found["spoilt"] = [(r["rank_lower"], r["stable_rank"], r["singular_values"]) for r in tracker.latest().values()]
    tracker.close()
    Telling._compare = compare

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


def job(rank, folder):
    """Two ranks. The second one is killed in the midst of a training; what it has found it writes before."""
    torch.set_num_threads(1)
    missing.GRACE, folder, found = 0.4, Path(folder), {}
    with_differences(rank, found)
    with_failures(rank, found, folder)

    if rank == 1:  # so late that the other has given up
        distributed.barrier()
    found["none made"] = refusal(tracked, timeout=1)
    if rank == 0:
        distributed.barrier()
    (folder / str(rank)).write_bytes(pickle.dumps(found))

    def training():
        model = fully_shard(plain())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with RankTracker(model, optimizer, directory=folder / "killed", timeout=60):
            for step in range(5):
                model(torch.ones(3, 8)).sum().backward()
                if rank == 1 and step == 3:
                    os.kill(os.getpid(), signal.SIGKILL)
                optimizer.step()

    start = time.monotonic()
    return refusal(training), time.monotonic() - start


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("missing")


@pytest.fixture(scope="module")
def ended(folder):
    return run(job, 2, str(folder), timeout=120, imports=IMPORTS)


@pytest.fixture(scope="module")
def found(folder, ended):
    return [pickle.loads((folder / str(rank)).read_bytes()) for rank in range(2)]


WHEN_MADE = "'0.weight' was 6 x 8, torch.float32 when this RankTracker was made, and is "
NOT_AS_IT_WAS = "RuntimeError: '0.weight' is not sharded as it was when this RankTracker was made: this process now has"
SLICE = "parameter '0.weight' is a slice of one that FullyShardedDataParallel has flattened: make the RankTracker with"
STEPS = "rank 0 has measured step 3 and rank 1 step 4: the trackers of all ranks have to be told of the same steps"


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (
            "every",
            "ValueError: every: the ranks that measure together need the same arguments, and rank 1 has 2, rank 0 1",
        ),
        (
            "tolerance",
            "ValueError: tolerance: the ranks that measure together need the same arguments, and rank 1 has ",
        ),
        ("steps differ", f"RuntimeError: {STEPS}"),
        ("unsharded", f"{NOT_AS_IT_WAS} all of it. Measure after the optimizer's step, when the weights are sharded"),
        (
            "sharded later",
            "ValueError: '0.weight' is sharded over several processes: make a RankTracker on each of them",
        ),
        ("shared, sharded later", f"{NOT_AS_IT_WAS} [Span("),
        ("float64 later", f"RuntimeError: {WHEN_MADE}6 x 8, torch.float64 now: make a new one on all ranks"),
        ("flattened later", f"RuntimeError: tracked {SLICE}"),
        ("without its wrapper", f"ValueError: {SLICE} the model that it returns"),
        (
            "flat later",
            "RuntimeError: tracked parameter '0.weight' is no longer part of the model; make a new RankTracker",
        ),
        (
            "flat",
            "ValueError: model: FullyShardedDataParallel keeps flat parameters in place of its weights; make it with ",
        ),
        ("share=word", "TypeError: share: expected None, True, False or a process group, not 'yes'"),
        ("share=number", "TypeError: share: expected None, True, False or a process group, not 1"),
        (
            "share=False",
            "ValueError: share: the weights are sharded over several processes, which have to measure them ",
        ),
    ],
)
def test_every_rank_is_told_what_is_wrong(found, case, message):
    for rank in range(2):
        assert found[rank][case].startswith(message)


@pytest.mark.parametrize("case", ["functions", "bfloat16 later"])
def test_what_is_the_same_on_all_ranks_or_exact_is_no_error(found, case):
    assert [found[rank][case] for rank in range(2)] == [None, None]


def test_a_rank_outside_the_group_is_told_so(found):
    assert found[1]["share=group"].startswith("ValueError: share: this process is not in the group; only those in it")


def test_no_rows_mix_steps(found):
    for rank in range(2):
        assert found[rank]["steps"] == [1, 1]
        assert found[rank]["spoilt"] == [(None, None, None)] * 2
        assert "takes no part any more: it failed at step" in found[rank]["after that"]


LEFT = "rank {} (of 2) takes no part any more: "


@pytest.mark.parametrize(
    ("case", "step", "fails", "with_", "told"),
    [
        ("replaced", 2, 1, f"RuntimeError: {WHEN_MADE}9 x 8, torch.float32 now", "it failed at step 2: "),
        ("again", 2, 1, f"RuntimeError: {WHEN_MADE}9 x 8, torch.float32 now", "it failed at step 2: "),
        ("step too small", 2, 1, "ValueError: step: must be at least 2, not 1", "it failed at step 1: "),
        ("closed", 2, 1, None, "its tracker was closed after step 1"),
        ("training ended", 3, 1, "ValueError: the loss is NaN", "its training ended after step 2 with "),
        ("no folder", 1, 0, "FileExistsError: ", "it failed to make its tracker: "),
        ("earlier run", 2, 0, "HistoryError: ", "it failed at step 1: "),
        ("alert", 2, 0, "ValueError: 0.weight is low", "it failed at step 1: "),
    ],
)
def test_the_other_rank_is_told_who_has_failed_and_why(found, case, step, fails, with_, told):
    own, others = found[fails].get(case), found[1 - fails][case]
    assert own is None if with_ is None else own.startswith(with_)
    because = f"RuntimeError: measuring step {step} failed: {LEFT.format(fails)}{told}{with_ or ''}"
    assert others.startswith(because)


def test_a_rank_that_makes_no_tracker_is_named(found):
    assert found[0]["none made"].startswith("RuntimeError: rank 1 (of 2) made no RankTracker within 1 s: ")
    assert found[1]["none made"].startswith("RuntimeError: the other ranks have given up: rank 1 (of 2) made no ")


def test_an_idle_rank_does_not_say_that_there_is_no_stop(found):
    assert found[0]["stop"] is None
    assert re.match("RuntimeError: should_stop: .* with share=True", found[1]["stop"])
    assert [found[rank]["no stop"] for rank in range(2)] == [None, None]


def test_a_rank_that_is_killed_is_named_and_what_was_measured_before_is_on_disk(folder, ended, found):
    (message, seconds), killed = ended
    assert killed == Ended(-signal.SIGKILL)
    assert message.startswith(
        "RuntimeError: measuring step 4 failed: rank 1 (of 2) did not come, and did not say why: it"
    )
    assert seconds < 40  # the timeout is 60
    for name, steps in {"killed": [1, 2, 3], "ended": [1, 2], "earlier0": [1]}.items():
        assert read_history(folder / name, columns=["step"])["step"].unique().to_pylist() == steps
