"""A sweep's configuration: TOML into typed models, and from there into trials."""

import itertools
import json
import tomllib
from math import prod
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from ..data import DataError
from ..errors import UserError
from ..networks import NetworkError
from ..training import build_network
from ..trial import (
    Axis,
    BatchSize,
    Data,
    Model,
    Momentum,
    Positive,
    Schedule,
    Seed,
    Strict,
    Tracking,
    Trial,
    WeightDecay,
)
from .diagnosis import explain

MOST_TRIALS = 1_000_000


class ConfigError(UserError):
    """The configuration cannot be used. ``problems`` has one line for each thing that is wrong."""

    exit_status = 2

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Grid(Strict):
    """The sweep is the product of these lists. ``weight_decay`` is PyTorch's: twice the paper's lambda."""

    batch_size: Axis[BatchSize]
    lr: Axis[Positive]
    weight_decay: Axis[WeightDecay]
    momentum: Axis[Momentum] = Field(default_factory=lambda: [0.0])
    seed: Axis[Seed] = Field(default_factory=lambda: [0])


class SweepConfig(Schedule):
    """The whole configuration file."""

    name: Annotated[str, Field(min_length=1)]
    model: Model
    data: Data
    grid: Grid
    tracking: Tracking = Tracking()

    @property
    def canonical(self) -> dict[str, Any]:
        """The configuration with its defaults filled in, as plain JSON types."""
        return self.model_dump(mode="json")

    def trials(self) -> list[Trial]:
        """Every point of the grid; the keys of the grid vary from last (fastest) to first."""
        shared = {key: getattr(self, key) for key in ("model", "data", "tracking", *Schedule.model_fields)}
        axes = {key: getattr(self.grid, key) for key in Grid.model_fields}
        points = itertools.product(*axes.values())
        return [Trial(**shared, **dict(zip(axes, point, strict=True))) for point in points]


def load_config(path: Path) -> SweepConfig:
    """Read a configuration file.

    Raises ConfigError with a line for each problem, which names the file and the key by its dotted path: a key that is
    unknown, missing, of the wrong type, out of range or at odds with another. For a data set that is not prepared the
    line has the command that prepares it.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        config = SweepConfig.model_validate(content)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: is not UTF-8 text: {error.reason} at byte {error.start}"]) from None
    except ValidationError as error:
        raise ConfigError([f"{path}: {line}" for line in explain(error, SweepConfig)]) from None
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, what an integer of thousands of digits raises
        raise ConfigError([f"{path}: is not valid TOML: {error}"]) from None
    problems = [f"{path}: {line}" for line in _contradictions(config)]
    if problems:
        raise ConfigError(problems)
    return config


def _contradictions(config: SweepConfig) -> list[str]:
    """A line for each conflict between keys that are fine by themselves, or with the data set that they name."""
    lines, every = [], config.tracking.spectrum_every_epochs
    count = prod(len(getattr(config.grid, key)) for key in Grid.model_fields)
    if count > MOST_TRIALS:
        lines.append(f"grid: its product is {count:,} trials, more than the {MOST_TRIALS:,} that a sweep may have")
    if every and config.epochs % every:
        lines.append(
            f"tracking.spectrum_every_epochs: {every} does not divide the {config.epochs} epochs, "
            "so the last step would have no spectrum"
        )
    try:
        _ = config.data.info
    except DataError as error:
        return [*lines, f"data.name: {error}"]
    try:
        train, _ = config.data.sizes()
    except DataError as error:  # names the key
        return [*lines, str(error)]
    lines += _last_steps(config, train)
    lines += [
        f"grid.batch_size[{i}]: {size} is more than the {train} training examples of {config.data.name!r}"
        for i, size in enumerate(config.grid.batch_size)
        if size > train
    ]
    try:
        build_network(config.model, config.data, seed=0, device="meta")
    except NetworkError as error:  # names the option
        lines.append(f"model.{error}")
    return lines


def _last_steps(config: SweepConfig, train: int) -> list[str]:
    """A line for each batch size at which the last step would not be recorded. With spectra it always is."""
    every, sizes = config.tracking.every, config.grid.batch_size
    if config.tracking.spectrum_every_epochs:
        return []
    last = {size: config.epochs * (train // size) for size in sizes}
    return [
        f"tracking.every: {every} does not divide the {steps} steps of batch size {size}, so the last would not be "
        "recorded; take a divisor, or spectra (tracking.spectrum_every_epochs), which are due at the end of epochs"
        for size, steps in last.items()
        if steps % every
    ]


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What changed from one canonical configuration to another, as ``dotted.key: old -> new``."""
    before, after = _flat(old), _flat(new)
    keys = sorted(before.keys() | after.keys())
    return [
        f"{key}: {before.get(key, '(absent)')} -> {after.get(key, '(absent)')}"
        for key in keys
        if before.get(key) != after.get(key)
    ]


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in tree.items():
        path = prefix + key
        flat |= _flat(value, f"{path}.") if isinstance(value, dict) else {path: json.dumps(value)}
    return flat
