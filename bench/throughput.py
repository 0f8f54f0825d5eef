"""Trial-steps a second: trials trained one at a time, against the same trials in stacks, ranks at every step in both.

    python bench/throughput.py [--device cpu|cuda] [--turns 5] [--seconds 4] [--results FILE]

A trial-step is one optimizer step of one trial with the rank of each of its matrices. Both ways run in the processes
that a sweep uses: one at a time, a single process with one trial; stacked, a process for each core with a stack of its
own, which begin their timed steps together; on CUDA one process. They take turns, and `ratio` is the median over turns
of the time of a trial-step over that of one at a time. Rows are written after each turn.

Predicted on a CPU, where a rank takes 60 us either way: stacking saves PyTorch's calls, and the second core does the
rest: 5.7 times for five layers at B = 8, 4.1 and 3.2 for ten at 16 and 64, where products, batch-norm and the update
bound it. (Seen: 5.1 to 5.5, 3.6 to 4.0, and 3.2.) On CUDA a step of one trial is a
hundred launches, and of a stack of hundreds hardly more: beyond 20 times.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import environment
import results
import torch

from fastrank.experiments.engines import LocalEngine, available_cores
from fastrank.experiments.sweeps import kind
from fastrank.experiments.training import Crashed, Event, Job, JobCost, trainee
from fastrank.experiments.trial import Trial

WARM_UP = 6
DEEP = {"model": {"name": "mlp_bn", "depth": 10, "width": 100}}
SHALLOW = {"model": {"name": "mlp_bn", "depth": 5, "width": 100}}
WORKLOADS = {
    "digits-mlp-5-100-b8": (SHALLOW, 8),
    "digits-mlp-10-100-b16": (DEEP, 16),
    "digits-mlp-10-100-b64": (DEEP, 64),
}
STACK = {"cpu": 32, "cuda": 256}


def trials(network: dict[str, object], batch_size: int, count: int) -> dict[str, dict[str, object]]:
    """Specifications of trials that differ in their seeds."""
    shared = {**network, "data": {"name": "digits"}, "batch_size": batch_size, "lr": 0.1, "weight_decay": 5e-3}
    shared |= {"momentum": 0.0, "epochs": 1, "tracking": {"spectrum_every_epochs": 0}}
    made = [Trial.model_validate(shared | {"seed": seed}) for seed in range(count)]
    return {trial.id: trial.spec for trial in made}


def timed(job: Job, folder: Path, device: str) -> Iterator[Event]:
    """What a worker runs: steps for some seconds, begun when all workers are warm."""
    subject = trainee(job, folder / job.name, torch.device(device))
    torch.set_num_threads(1)
    subject.practise(WARM_UP)
    (folder / f"{job.name}.warm").touch()
    while len(list(folder.glob("*.warm"))) < int(os.environ["WORKERS"]):
        time.sleep(0.01)
    started, steps = time.perf_counter(), 0
    while (spent := time.perf_counter() - started) < float(os.environ["SECONDS"]):
        subject.practise(5)
        steps += 5
        if device != "cpu":
            torch.cuda.synchronize()
    yield JobCost(step_seconds=spent / steps, evaluation_seconds=0.0, spectrum_seconds=0.0, memory=0)
    subject.close()


def seconds(jobs: list[Job], device: str, budget: float) -> float:
    """Of one trial-step, with all of these jobs side by side for `budget` seconds."""
    os.environ |= {"WORKERS": str(len(jobs)), "SECONDS": str(budget)}  # for the processes
    rate, left = 0.0, len(jobs)
    with tempfile.TemporaryDirectory() as folder:
        engine = LocalEngine(Path(folder), [device] * len(jobs), "throughput:timed")
        try:
            for job in jobs:
                engine.start(job)
            while left:
                for job, event in engine.listen(1.0):
                    if isinstance(event, Crashed):
                        sys.exit(event.error)
                    assert isinstance(event, JobCost)
                    rate += len(job.specs) / event.step_seconds
                    left -= 1
        finally:
            engine.stop()
    return 1 / rate


def measure(name: str, device: str, turns: int, budget: float) -> Iterator[tuple[dict[str, object], ...]]:
    """The two rows of one workload after each turn, of all turns so far; `budget` seconds of timing a way and turn."""
    network, batch_size = WORKLOADS[name]
    workers = available_cores() if device == "cpu" else 1
    specs = trials(network, batch_size, STACK[device] * workers)
    first = next(iter(specs))
    alone = [Job(first, {first: specs[first]})]
    ids = [list(specs)[i::workers] for i in range(workers)]
    stacks = [Job(f"stack-{i}", {trial: specs[trial] for trial in own}) for i, own in enumerate(ids)]
    where = "cuda:0" if device == "cuda" else "cpu"
    told = f"stacks of {STACK[device]}, {workers} process{'es' if workers > 1 else ''}"
    taken: list[tuple[float, float]] = []
    for _ in range(turns):
        taken.append((seconds(alone, where, budget), seconds(stacks, where, budget)))
        yield _row(name, "one at a time", taken, 0), _row(name, told, taken, 1)


def _row(name: str, provider: str, taken: list[tuple[float, float]], way: int) -> dict[str, object]:
    """Of the seconds of a trial-step, both ways in each turn; `way` 0 is one at a time."""
    times = [turn[way] for turn in taken]
    ratios = sorted(turn[way] / turn[0] for turn in taken)
    return {
        **{"operation": "trials", "workload": name, "provider": provider, "dtype": "float32", "status": "ok"},
        **{"rounds": len(taken), "limit": None},
        **_spread("wall", [1e3 * time for time in times]),
        "baseline_ms": 1e3 * statistics.median(alone for alone, _ in taken),
        **{"ratio": statistics.median(ratios), "ratio_p20": ratios[0], "ratio_p80": ratios[-1]},
        "note": f"{1 / statistics.median(times):.0f} trial-steps a second",
    }


def _spread(clock: str, times: list[float]) -> dict[str, float]:
    return {f"{clock}_ms": statistics.median(times), f"{clock}_p20_ms": min(times), f"{clock}_p80_ms": max(times)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--workload", action="append", choices=WORKLOADS, help="only this one; may be repeated")
    parser.add_argument("--turns", type=int, default=5, help="times that each way is timed (default: 5)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of timing, each way and turn (default: 4)")
    parser.add_argument("--results", type=Path, help="file of the rows (default: bench/results/<device>.csv)")
    options = parser.parse_args()
    device = kind(options.device)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    path = options.results or environment.results_file(torch.device(device))
    for name in options.workload or WORKLOADS:
        rows: tuple[dict[str, object], ...] = ()
        for rows in measure(name, device, options.turns, options.seconds):
            results.save(path, [row | environment.columns(torch.device(device)) for row in rows])
        for row in rows:
            print(f"{name:24}{row['provider']:28}{row['wall_ms']:8.3f} ms  ratio {row['ratio']:.3f}  {row['note']}")


if __name__ == "__main__":
    main()
