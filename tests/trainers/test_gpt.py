"""The GPT of `examples/gpt_attention.py` in both trainers: no bit is changed, and a resumed run is like any other."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as lightning
import pytest
import torch
from lightning_fits import QUIET
from torch.utils.data import DataLoader, Subset
from transformers import Trainer, TrainingArguments, set_seed

import fastrank

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*your dataloader is not resumable"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]


@pytest.fixture(scope="module")
def example():
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "examples" / "gpt_attention.py")))


def by_transformers(example, folder, steps, make_callback, resume=False):
    set_seed(0)
    model = example.make_gpt()
    callbacks = [make_callback(fastrank.transformers, model)] if make_callback else []
    quiet = {"use_cpu": True, "disable_tqdm": True, "report_to": [], "learning_rate": 3e-3, "weight_decay": 0.5}
    arguments = TrainingArguments(
        str(folder), max_steps=steps, save_steps=3, per_device_train_batch_size=2, lr_scheduler_type="constant", **quiet
    )
    data = Subset(example.Text(0.0, 0.9), range(16))
    Trainer(model, arguments, train_dataset=data, callbacks=callbacks).train(resume_from_checkpoint=resume)
    return model, callbacks


def by_lightning(example, folder, steps, make_callback, resume=False):
    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.gpt = example.make_gpt()

        def training_step(self, batch):
            return self.gpt(**batch).loss

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=3e-3, weight_decay=0.5)

    torch.manual_seed(0)
    module = Module()
    callbacks = [make_callback(fastrank.lightning, module)] if make_callback else []
    saves = lightning.callbacks.ModelCheckpoint(folder, every_n_train_steps=3, save_top_k=-1, filename="{step}")
    trainer = lightning.Trainer(max_steps=steps, default_root_dir=folder, callbacks=[*callbacks, saves], **QUIET)
    # Three steps an epoch: where a run resumes within one, Lightning begins with its first batch again.
    data = DataLoader(Subset(example.Text(0.0, 0.9), range(6)), 2)
    trainer.fit(module, data, ckpt_path=folder / "step=3.ckpt" if resume else None)
    return module.gpt, callbacks


@pytest.mark.parametrize("train", [by_transformers, by_lightning])
def test_bits_and_histories(example, train, tmp_path):
    def make(trainers, model):
        return trainers.RankCallback(**example.callback_arguments(model) | {"every": 1, "of": ["weight", "update"]})

    plain, _ = train(example, tmp_path / "plain", 6, None)
    tracked, [whole] = train(example, tmp_path / "whole", 6, make)
    for (name, a), b in zip(plain.named_parameters(), tracked.parameters(), strict=True):
        assert torch.equal(a, b), name
    train(example, tmp_path / "broken", 3, make)
    resumed, [callback] = train(example, tmp_path / "broken", 6, make, resume=True)
    history = callback.tracker.to_arrow()
    assert history.equals(whole.tracker.to_arrow())
    assert history.num_rows == 6 * 8
    for (name, a), b in zip(plain.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b), name
