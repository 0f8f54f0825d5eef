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
"""Of the time there is, what is planned for: checkpoints and the start of a process come on top."""


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
    from fastrank.experiments import measure
    from fastrank.experiments.config import load_config
    from fastrank.experiments.events import Measured
    from fastrank.experiments.job import Job
    from fastrank.experiments.sweep import Options, run_sweep

    started = time.perf_counter()
    options.folder.mkdir(parents=True, exist_ok=True)
    path = options.folder / "config.toml"
    path.write_text(configuration(options, epochs=1))
    (trial,) = load_config(path).trials()
    job = Job(trial.id, {trial.id: trial.spec})
    (timed,) = measure.run(job, options.folder / "measured", options.device)
    assert isinstance(timed, Measured)
    epoch = trial.steps_per_epoch * timed.step_seconds + timed.evaluation_seconds
    left = SHARE * (options.seconds - (time.perf_counter() - started)) - epoch  # the last one finds another accuracy
    epochs = 1 if options.rehearse else max(1, min(MOST_EPOCHS, int(left / epoch)))
    print(f"a step {1e3 * timed.step_seconds:.2f} ms, an epoch {epoch:.2f} s: {epochs} epochs", flush=True)
    path.write_text(configuration(options, epochs))
    return run_sweep(path, options.folder / "sweep", Options(workers=1, device=options.device))


def report(options: argparse.Namespace) -> None:
    from fastrank.experiments.report import write_report

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
    parser.add_argument("--seconds", type=float, default=125.0, help="for training, its start included (default: 125)")
    parser.add_argument("--rehearse", action="store_true", help="a few steps on another data set")
    options = parser.parse_args()
    return {"data": prepare_data, "train": train, "report": report}[options.part](options) or 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
