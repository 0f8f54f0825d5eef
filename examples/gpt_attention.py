"""Weight decay lowers the rank of attention: a small GPT, and the rank of W_QK of each of its heads while it trains.

    python examples/gpt_attention.py --out runs/attention                       # by Hugging Face's Trainer
    python examples/gpt_attention.py --out runs/attention --trainer lightning

The score of two tokens in a head is `x^T W_QK y` with `W_QK = W_Q^T W_K`, a product that no parameter holds. Weight
decay on the two factors is, at a minimum, a penalty of the nuclear norm of their product, and that makes its rank fall:
the claim of arXiv 2602.11137. A GPT of two layers learns Python's own documentation, letter by letter, without weight
decay and with two strengths of it. Training takes a minute or two a run on one CPU core; nothing is downloaded.

The folder gets `ranks.csv` (a row for each run and step, a column a head), `runs.csv` (a row a run, with losses) and
`ranks.png`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from pydoc_data.topics import topics
from tempfile import TemporaryDirectory

import matplotlib
import pandas as pd
import torch
import transformers
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.data import Dataset

import fastrank

WEIGHT_DECAYS = (0.0, 0.5, 1.5)
LR, WARM_UP, BATCH, LETTERS = 3e-3, 100, 16, 64
HEADS, LAYERS, WIDTH = 4, 2, 64


class Text(Dataset[dict[str, Tensor]]):
    """Windows of `LETTERS` letters, one after the other, of a part of the documentation of Python's statements."""

    def __init__(self, begin: float, end: float) -> None:
        text = "\n".join(topics[name] for name in sorted(topics)).encode("ascii", "ignore")
        letters = torch.tensor(bytearray(text), dtype=torch.int64)
        part = letters[int(begin * len(letters)) : int(end * len(letters))]
        self._windows = part[: len(part) // LETTERS * LETTERS].view(-1, LETTERS)

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self._windows[index], "labels": self._windows[index]}


def make_gpt() -> transformers.GPT2LMHeadModel:
    """A GPT-2 of 0.1 million parameters, without dropout, whose tokens are letters."""
    sizes = {"vocab_size": 128, "n_positions": LETTERS, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS}
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**sizes, **dropout, bos_token_id=None, eos_token_id=None)
    )


def callback_arguments(model: torch.nn.Module) -> dict[str, object]:
    """What both callbacks are given: the heads' W_QK alone, at every tenth step."""
    return {"include": [], "track": fastrank.products.attention_qk(model), "every": 10}


def train_by_transformers(weight_decay: float, steps: int, folder: Path) -> tuple[pd.DataFrame, dict[str, float]]:
    """The history of a training by Hugging Face's `Trainer`, and its last losses."""
    transformers.set_seed(0)
    model = make_gpt()
    callback = fastrank.transformers.RankCallback(**callback_arguments(model))
    trainer = transformers.Trainer(
        model,
        transformers.TrainingArguments(
            str(folder),
            max_steps=steps,
            per_device_train_batch_size=BATCH,
            learning_rate=LR,
            warmup_steps=WARM_UP,
            lr_scheduler_type="constant_with_warmup",
            weight_decay=weight_decay,
            adam_beta2=0.95,
            logging_steps=100,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        ),
        train_dataset=Text(0.0, 0.9),
        eval_dataset=Text(0.9, 1.0),
        callbacks=[callback],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    result = trainer.train()
    assert callback.tracker is not None
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry] or [result.training_loss]
    return callback.tracker.to_pandas(), {"train_loss": losses[-1], "test_loss": trainer.evaluate()["eval_loss"]}


def train_by_lightning(weight_decay: float, steps: int, folder: Path) -> tuple[pd.DataFrame, dict[str, float]]:
    """The same by Lightning's `Trainer`."""
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.gpt = make_gpt()

        def training_step(self, batch: dict[str, Tensor]) -> Tensor:
            loss = self.gpt(**batch).loss
            self.log("train_loss", loss, on_step=False, on_epoch=True)
            return loss

        def validation_step(self, batch: dict[str, Tensor]) -> None:
            self.log("test_loss", self.gpt(**batch).loss)

        def configure_optimizers(self) -> dict[str, object]:
            matrices = [p for p in self.parameters() if p.ndim > 1]
            others = [p for p in self.parameters() if p.ndim < 2]
            groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
            optimizer = torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.95))
            warm_up = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / WARM_UP))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": warm_up, "interval": "step"}}

    lightning.seed_everything(0, verbose=False)
    module = Module()
    callback = fastrank.lightning.RankCallback(**callback_arguments(module))
    trainer = lightning.Trainer(
        max_steps=steps,
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=[callback],
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = torch.utils.data.DataLoader(Text(0.0, 0.9), BATCH, shuffle=True)
    trainer.fit(module, loader)
    assert callback.tracker is not None
    train_loss = float(trainer.callback_metrics["train_loss"])
    tester = lightning.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    [tested] = tester.validate(module, torch.utils.data.DataLoader(Text(0.9, 1.0), BATCH), verbose=False)
    return callback.tracker.to_pandas(), {"train_loss": train_loss, "test_loss": tested["test_loss"]}


def draw(ranks: pd.DataFrame) -> Figure:
    """Rank of W_QK over the steps, a panel a trainer: mean over the heads, and the lowest to the highest of them."""
    trainers = ranks["trainer"].unique()
    figure = Figure(figsize=(4.6 * len(trainers), 3.6), layout="constrained", dpi=150)
    panels = figure.subplots(1, len(trainers), sharey=True, squeeze=False)[0]
    colours = matplotlib.colormaps["viridis"](torch.linspace(0.1, 0.75, ranks["weight_decay"].nunique()).numpy())
    for axes, trainer in zip(panels, trainers, strict=True):
        own = ranks[ranks["trainer"] == trainer]
        for colour, (weight_decay, run) in zip(colours, own.groupby("weight_decay"), strict=True):
            heads = run.drop(columns=["trainer", "weight_decay"]).set_index("step")
            label = f"weight decay {weight_decay:g}"
            axes.plot(heads.index, heads.mean(axis=1), color=colour, label=label, zorder=3 - weight_decay)
            axes.fill_between(heads.index, heads.min(axis=1), heads.max(axis=1), color=colour, alpha=0.2, linewidth=0)
        axes.set(title=trainer, xlabel="step", ylim=(0, WIDTH // HEADS + 1), xlim=(0, own["step"].max()))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(f"rank of $W_{{QK}}$ (of {WIDTH // HEADS})")
    panels[0].legend(loc="lower left", frameon=False)
    return figure


def short(name: str) -> str:
    """`transformer.h.1.attn.qk[3]`, with or without what it is in, as `1.qk[3]`."""
    return name.rpartition("h.")[2].replace(".attn", "")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of what comes out")
    parser.add_argument("--trainer", choices=["transformers", "lightning", "both"], default="transformers")
    parser.add_argument("--steps", type=int, default=1500)
    arguments = parser.parse_args()
    trainings = {"transformers": train_by_transformers, "lightning": train_by_lightning}
    chosen = [*trainings] if arguments.trainer == "both" else [arguments.trainer]
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    arguments.out.mkdir(parents=True, exist_ok=True)
    ranks, runs = [], []
    for trainer in chosen:
        for weight_decay in WEIGHT_DECAYS:
            with TemporaryDirectory() as scratch:
                history, losses = trainings[trainer](weight_decay, arguments.steps, Path(scratch))
            heads = history.pivot(index="step", columns="name", values="rank_lower").rename(columns=short)
            last, certified = heads.iloc[-1], (history["rank_lower"] == history["rank_upper"]).mean()
            run = {"trainer": trainer, "weight_decay": weight_decay}
            found = {"mean_rank": last.mean(), "lowest": last.min(), "highest": last.max(), "certified": certified}
            runs.append({**run, **found, **losses})
            ranks.append(heads.reset_index().assign(**run))
            print(", ".join(f"{key} {x if isinstance(x, str) else f'{x:.4g}'}" for key, x in runs[-1].items()))
    table = pd.concat(ranks, ignore_index=True)
    table = table[[*runs[0]][:2] + [column for column in table if column not in runs[0]]]
    table.to_csv(arguments.out / "ranks.csv", index=False)
    pd.DataFrame(runs).round(4).to_csv(arguments.out / "runs.csv", index=False)
    draw(table).savefig(arguments.out / "ranks.png")


if __name__ == "__main__":
    main()
