"""The parts of a trial, each built from its specification: seeds, network, data, tolerances, patches."""

from typing import NamedTuple

import numpy as np
import torch

import fastrank

from ..data import Feed, load_split
from ..networks import build, count_patches
from ..trial import Data, Model, Tracking, Trial

SPECTRUM = ("effective_rank", "nuclear_norm", "participation_ratio", "singular_values")


class Seeds(NamedTuple):
    """Independent seeds of one trial, so that changing one use of randomness cannot shift another."""

    initialisation: int
    data_order: int


def derive_seeds(seed: int) -> Seeds:
    """The seeds of a trial: a 63-bit word from each child of ``numpy.random.SeedSequence(seed)``, in that order."""
    children = np.random.SeedSequence(seed).spawn(len(Seeds._fields))
    return Seeds(*(int(child.generate_state(1, np.uint64)[0] >> 1) for child in children))


def build_network(model: Model, data: Data, seed: int, device: torch.device | str = "cpu") -> torch.nn.Module:
    """The network for a data set's images; ``seed`` decides its initial parameters, the same on every device.

    Raises NetworkError for options that do not fit each other or the images, DataError for a set not prepared.
    """
    info = data.info
    return build(
        shape=(info.channels, info.height, info.width),
        classes=len(info.classes),
        seed=seed,
        device=device,
        **model.model_dump(),
    )


def feeds(trial: Trial, device: torch.device) -> tuple[Feed, Feed]:
    """The training and the test part on ``device``. The order of training batches is drawn from the trial's seed."""
    info, seed = trial.data.info, derive_seeds(trial.seed).data_order
    train, test = load_split(trial.data.name, **trial.data.part)
    return (
        Feed(train, info, device, seed, augment=trial.data.augment),
        Feed(test, info, device, seed),
    )


def tolerances(tracking: Tracking) -> list[fastrank.Tolerance]:
    """The thresholds of the numerical rank. The columns of the first one have no suffix in a history."""
    return [fastrank.Tolerance(t.value, t.relative_to) for t in tracking.tolerances]


def patches_of(trial: Trial, names: list[str]) -> dict[str, int]:
    """How many patches of one example enter each of the matrices ``names``: the N of the paper's rank bound."""
    info = trial.data.info
    model = build_network(trial.model, trial.data, seed=0)
    found = count_patches(model, (info.channels, info.height, info.width))
    return {name: found[name] for name in names if name in found}
