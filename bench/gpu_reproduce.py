"""The paper's ResNet-18 on CIFAR-10, with the rank of every matrix at every step, for as many epochs as there is time.

    python bench/gpu_reproduce.py data|train|report --folder DIR --results DIR [--carry DIR] [--seconds N]

    data     decodes the images that were carried along into the cache of `fastrank data prepare`
    train    times a few steps, chooses the number of epochs, and runs the sweep of that one trial: batches of 128,
             learning rate 0.5, weight decay 6e-3, no momentum, as arXiv 2206.05794 has it
    report   writes the sweep's report, and copies what is kept: report.html, summary.csv and the whole history

A rehearsal trains the same network on a few of scikit-learn's digits.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

import models
import torch

import fastrank

MOST_BYTES = 15 * 2**20
"""Of the history: above that the norms stay behind."""
RANKS = ["step", "name", "rank_lower", "rank_upper", "status"]
PAPER = {"batch_size": [128], "lr": [0.5], "weight_decay": [6e-3], "momentum": [0.0], "seed": [0]}
REHEARSED = {"batch_size": [16], "lr": [0.1], "weight_decay": [6e-3], "momentum": [0.0], "seed": [0]}
MILESTONES = (60, 100, 200)
MOST_EPOCHS = 500
SHARE = 0.9
"""Of the time there is, what is planned for: the machine may be slower than a few steps showed."""
WORKER = 12.0
"""Seconds in which the sweep's process starts, loads its kernels and captures its step."""


def prepare_data(options: argparse.Namespace) -> None:
    from fastrank.experiments.data.prepare import prepare

    if options.rehearse:
        print("the digits are built in")
        return
    made = prepare(str(options.carry / "cifar10"), name="cifar10")
    print(f"{made.info.train} + {made.info.test} images in {made.seconds:.1f} s, digest {made.info.digest[:12]}")


def configuration(options: argparse.Namespace, epochs: int) -> str:
    """A sweep's TOML."""
    milestones = [epoch for epoch in MILESTONES if epoch < epochs]
    data = 'name = "digits"\ntrain_examples = 64\ntest_examples = 32' if options.rehearse else 'name = "cifar10"'
    grid = "\n".join(f"{key} = {values}" for key, values in (REHEARSED if options.rehearse else PAPER).items())
    return f"""# The protocol of arXiv 2206.05794, but for the number of epochs, which is what there was time for.
name = "resnet18-every-step"
epochs = {epochs}
milestones = {milestones}
gamma = 0.2

[model]
name = "resnet18"

[data]
{data}

[grid]
{grid}

[tracking]
tolerances = [{{ value = 1e-3 }}]
every = 1
spectrum_every_epochs = 0
"""


def train(options: argparse.Namespace) -> int:
    from fastrank.experiments.sweeps import Options, load_config, run_sweep
    from fastrank.experiments.training import Job, JobCost, cost

    started = time.perf_counter()
    shutil.rmtree(options.folder, ignore_errors=True)  # of an earlier call, whose sweep had other epochs
    options.folder.mkdir(parents=True)
    path = options.folder / "config.toml"
    path.write_text(configuration(options, epochs=1))
    (trial,) = load_config(path).trials()
    job = Job(trial.id, {trial.id: trial.spec})
    (timed,) = cost.run(job, options.folder / "measured", options.device)
    assert isinstance(timed, JobCost)
    epoch = trial.steps_per_epoch * timed.step_seconds + timed.evaluation_seconds
    saving = checkpoint_seconds(options)
    epochs = epochs_within(options.seconds - (time.perf_counter() - started), epoch, saving)
    print(f"a step {1e3 * timed.step_seconds:.2f} ms, an epoch {epoch:.2f} s and {saving:.2f} s: {epochs} epochs")
    epochs = 1 if options.rehearse else epochs
    path.write_text(configuration(options, epochs))
    return run_sweep(path, options.folder / "sweep", Options(workers=1, device=options.device))


def epochs_within(seconds: float, epoch: float, saving: float) -> int:
    """How many epochs, each with its checkpoint, a worker trains in so many seconds.

    At the end it evaluates once more, which is counted as an epoch.
    """
    left = SHARE * (seconds - WORKER) - epoch
    return max(1, min(MOST_EPOCHS, int(left / (epoch + saving))))


def checkpoint_seconds(options: argparse.Namespace) -> float:
    """Of a network and its optimizer, into the folder of the sweep."""
    from fastrank.experiments.training import save_checkpoint

    model = models.resnet18().to(options.device)
    optimizer = fastrank.SGD(model.parameters(), lr=0.1)
    started = time.perf_counter()
    save_checkpoint(options.folder / "checkpoint", {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    return time.perf_counter() - started


def report(options: argparse.Namespace) -> None:
    from fastrank.experiments.reports import write_report

    sweep = options.folder / "sweep"
    options.results.mkdir(parents=True, exist_ok=True)
    (history,) = (path for path in (sweep / "history").iterdir() if path.is_dir())
    kept = options.results / "history.parquet"
    fastrank.write_history(fastrank.read_history(str(history)), kept)
    if kept.stat().st_size > MOST_BYTES:
        fastrank.write_history(fastrank.read_history(str(history), columns=RANKS), kept)
    shutil.copy(sweep / "summary.csv", options.results / "summary.csv")
    shutil.copy(write_report(sweep), options.results / "report.html")
    table = fastrank.read_history(str(history), columns=["step", "rank_lower", "rank_upper"]).to_pandas()
    certified = (table.rank_lower == table.rank_upper).mean()
    by_step = table.groupby("step").rank_lower.mean()
    first, last = by_step.iloc[0], by_step.iloc[-1]
    print(
        f"{len(by_step)} steps, {len(table)} ranks, {certified:.2%} certified; average rank {first:.1f} to {last:.1f}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("data", "train", "report"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--folder", type=Path, required=True, help="of the sweep")
    parser.add_argument("--results", type=Path, required=True, help="of what is kept")
    parser.add_argument("--carry", type=Path, default=Path(".carry"), help="has the folder cifar10 of Parquet files")
    parser.add_argument("--seconds", type=float, default=120.0, help="for training, its start included (default: 120)")
    parser.add_argument("--rehearse", action="store_true", help="a few steps on another data set")
    options = parser.parse_args()
    return {"data": prepare_data, "train": train, "report": report}[options.part](options) or 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
