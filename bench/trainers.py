"""What the callbacks for trainers cost on top of the tracker that they make.

    python bench/trainers.py                    # Lightning and Hugging Face's Trainer, a tiny network and a small GPT
    python bench/trainers.py --rounds 60 --steps 50

A round is a training with the callback and two with a bare tracker that is made at the same moment, in an order that
changes. The overhead is the ratio of the medians of all their steps; that of the two bare ones says how far such a
ratio can be believed. Beside it: the time spent in the callback's hooks, logging included, as a share of all steps. All
in CPU time of this process, on one thread, because others may be busy on the same machine.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import lightning.pytorch as lightning
import torch
import transformers
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

import fastrank
from fastrank.lightning import RankCallback as LightningCallback
from fastrank.transformers import RankCallback as TransformersCallback

SKIPPED = 5
"""Steps at the begin of a training that are not timed."""


class Tiny(nn.Module):
    """Two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 64))

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        hot = nn.functional.one_hot(tokens % 16, 16).float()
        return {"loss": nn.functional.cross_entropy(self.body(hot).flatten(0, 1), tokens.flatten())}


class SmallGpt(nn.Module):
    """Two blocks of width 128: ten matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(64, 128), nn.Linear(128, 64, bias=False)
        layer = nn.TransformerEncoderLayer(128, 4, 512, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1] - 1)
        logits = self.head(self.blocks(self.embedding(tokens[:, :-1]), mask=mask, is_causal=True))
        return {"loss": nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())}


class Clock:
    """Notes when steps begin, and what a callback's hooks take."""

    def __init__(self) -> None:
        self.begins: list[float] = []
        self.inside = 0.0

    def tick(self) -> None:
        self.begins.append(time.process_time())
        if len(self.begins) == SKIPPED:
            self.inside = 0.0

    def watch(self, callback: Any, *hooks: str) -> Any:
        for name in hooks:
            setattr(callback, name, self._timed(getattr(callback, name)))
        return callback

    def _timed(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            try:
                return hook(*args, **kwargs)
            finally:
                self.inside += time.process_time() - start

        return timed

    @property
    def steps(self) -> list[float]:
        return [end - begin for begin, end in pairwise(self.begins[SKIPPED - 1 :])]

    @property
    def share(self) -> float:
        return self.inside / sum(self.steps)


def in_lightning(model: nn.Module, tokens: Tensor, steps: int, *, bare: bool, folder: str) -> Clock:
    clock = Clock()

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: Tensor, index: int) -> Tensor:
            loss: Tensor = self.model(batch)["loss"]
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), fused=True)

    class Ticks(lightning.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            clock.tick()

    class Bare(lightning.Callback):
        def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
            self.tracker = fastrank.RankTracker(module, trainer.optimizers)

        def on_train_end(self, *_: Any) -> None:
            self.tracker.close()

    made = Bare() if bare else clock.watch(LightningCallback(), "on_train_batch_end")
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = lightning.Trainer(
        max_steps=steps + SKIPPED, accelerator="cpu", logger=CSVLogger(folder), callbacks=[Ticks(), made], **quiet
    )
    trainer.fit(Module(), DataLoader(tokens, batch_size=8))
    return clock


def in_transformers(model: nn.Module, tokens: Tensor, steps: int, *, bare: bool, folder: str) -> Clock:
    clock = Clock()

    class Ticks(transformers.TrainerCallback):
        def on_step_begin(self, *_: Any, **kwargs: Any) -> None:
            clock.tick()

    class Bare(transformers.TrainerCallback):
        def on_train_begin(self, *_: Any, model: nn.Module, optimizer: torch.optim.Optimizer, **kwargs: Any) -> None:
            self.tracker = fastrank.RankTracker(model, optimizer)

        def on_train_end(self, *_: Any, **kwargs: Any) -> None:
            self.tracker.close()

    made = Bare() if bare else clock.watch(TransformersCallback(), "on_step_end", "on_log")
    arguments = transformers.TrainingArguments(
        folder,
        max_steps=steps + SKIPPED,
        per_device_train_batch_size=8,
        logging_steps=50,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    data = [{"tokens": row} for row in tokens]
    trainer = transformers.Trainer(model, arguments, train_dataset=data, callbacks=[Ticks(), made])
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    return clock


def measure(train: Callable[..., Clock], model: Callable[[], nn.Module], rounds: int, steps: int) -> str:
    kinds = ["bare", "bare again", "callback"]
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    shares = []
    tokens = torch.randint(64, (8 * (steps + SKIPPED), 64))
    for i in range(rounds):
        for kind in kinds if i % 2 else reversed(kinds):
            torch.manual_seed(i)
            with tempfile.TemporaryDirectory() as folder:
                clock = train(model(), tokens, steps, bare=kind != "callback", folder=folder)
            times[kind] += clock.steps
            if kind == "callback":
                shares.append(clock.share)
        kinds.append(kinds.pop(0))
    step, again, callback = (statistics.median(times[kind]) for kind in ("bare", "bare again", "callback"))
    return (
        f"{1000 * step:6.2f} ms a step; with the callback {100 * (callback / step - 1):+.2f} %, of which in its hooks "
        f"{100 * statistics.median(shares):.2f} %; bare once more {100 * (again / step - 1):+.2f} %"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--steps", type=int, default=100)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    for name, train in {"Lightning": in_lightning, "Transformers": in_transformers}.items():
        for model in (Tiny, SmallGpt):
            train(model(), torch.randint(64, (80, 64)), 5, bare=False, folder=tempfile.gettempdir())
            print(f"{name:12} {model.__name__:8} {measure(train, model, chosen.rounds, chosen.steps)}", flush=True)


if __name__ == "__main__":
    main()
