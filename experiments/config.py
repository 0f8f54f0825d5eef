"""A sweep's configuration: TOML into typed models, and from there into trials.

A trial's identity is the hash of its canonical specification, so that the same work has the same id whatever
the file looks like: key order, ``1`` or ``1.0`` for a float, or defaults spelled out make no difference.
"""

import hashlib
import itertools
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from fastrank.experiments.data import DATASETS
from fastrank.experiments.diagnosis import explain
from fastrank.experiments.errors import UserError
from fastrank.experiments.models import MODELS
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

T = TypeVar("T")


class ConfigError(UserError):
    """The configuration cannot be used. ``problems`` has one line for each thing that is wrong."""

    exit_status = 2

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def _without_duplicates(values: list[T]) -> list[T]:
    twice = [value for i, value in enumerate(values) if value in values[:i]]
    if twice:
        raise ValueError(f"{twice[0]!r} is there twice")
    return values


def _known(registry: dict[str, Any]) -> AfterValidator:
    def check(name: str) -> str:
        if name not in registry:
            raise ValueError(f"unknown name {name!r}; known: {', '.join(sorted(registry))}")
        return name

    return AfterValidator(check)


def _increasing(values: list[int]) -> list[int]:
    if any(a >= b for a, b in itertools.pairwise(values)):
        raise ValueError(f"must be increasing (got {values})")
    return values


# Adding 0.0 turns -0.0 into 0.0, which would otherwise be a second spelling of the same trial.
Number = Annotated[float, Field(allow_inf_nan=False), AfterValidator(lambda x: x + 0.0)]
Positive = Annotated[Number, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
BatchSize = Annotated[int, Field(ge=2)]  # batch-norm has no variance to divide by in a batch of one
LearningRate = Positive
WeightDecay = Annotated[Number, Field(ge=0)]
Momentum = Annotated[Number, Field(ge=0, lt=1)]
Axis = Annotated[list[T], Field(min_length=1), AfterValidator(_without_duplicates)]


class Strict(BaseModel):
    """No unknown key, no silent conversion (a float may still be written ``1``)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Model(Strict):
    name: Annotated[str, _known(MODELS)]
    depth: Count
    width: Count


class Data(Strict):
    name: Annotated[str, _known(DATASETS)]
    test_fraction: Annotated[Number, Field(gt=0, lt=1)] = 0.2
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


class ToleranceSpec(Strict):
    value: Positive = 1e-3
    relative_to: Literal["frobenius", "spectral", "absolute"] = "frobenius"


class Tracking(Strict):
    """``every``: steps between two ranks. ``spectrum_every_epochs``: epochs between two spectra, 0 for none."""

    tolerances: Axis[ToleranceSpec] = [ToleranceSpec()]
    every: Count = 1
    select: Literal["paper", "all"] = "paper"
    spectrum_every_epochs: Annotated[int, Field(ge=0)] = 1


class Grid(Strict):
    """The sweep is the product of these lists. ``weight_decay`` is PyTorch's: twice the paper's lambda."""

    batch_size: Axis[BatchSize]
    lr: Axis[LearningRate]
    weight_decay: Axis[WeightDecay]
    momentum: Axis[Momentum] = [0.0]
    seed: Axis[Seed] = [0]


class Schedule(Strict):
    """``epochs`` in all; the learning rate is multiplied by ``gamma`` after each epoch in ``milestones``."""

    epochs: Count
    milestones: Annotated[list[Count], AfterValidator(_increasing)] = []
    gamma: Positive = 0.2


class Trial(Schedule):
    """One point of the grid: everything that decides its numbers."""

    model: Model
    data: Data
    batch_size: BatchSize
    lr: LearningRate
    weight_decay: WeightDecay
    momentum: Momentum
    seed: Seed
    tracking: Tracking

    @property
    def spec(self) -> dict[str, Any]:
        """The canonical specification: plain JSON types."""
        return self.model_dump(mode="json")

    @property
    def id(self) -> str:
        """First 12 hex digits of the SHA-256 of the canonical JSON."""
        canonical = json.dumps(self.spec, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in the training part; the incomplete last one is dropped."""
        return DATASETS[self.data.name].train_size(self.data.test_fraction) // self.batch_size

    @property
    def steps(self) -> int:
        """Optimizer steps in all."""
        return self.epochs * self.steps_per_epoch


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

    Raises ConfigError naming the file and each key, by its dotted path, that is unknown, missing, of the
    wrong type, out of range or at odds with another.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        config = SweepConfig.model_validate(content)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: is not UTF-8 text: {error.reason} at byte {error.start}"]) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{path}: is not valid TOML: {error}"]) from None
    except ValidationError as error:
        raise ConfigError([f"{path}: {line}" for line in explain(error, SweepConfig)]) from None
    problems = [f"{path}: {line}" for line in _contradictions(config)]
    if problems:
        raise ConfigError(problems)
    return config


def _contradictions(config: SweepConfig) -> list[str]:
    """What is wrong between keys that are each fine by themselves."""
    data, every = DATASETS[config.data.name], config.tracking.spectrum_every_epochs
    train = data.train_size(config.data.test_fraction)
    lines = [
        f"grid.batch_size[{i}]: {size} is more than the {train} training examples of {config.data.name!r}"
        for i, size in enumerate(config.grid.batch_size)
        if size > train
    ]
    if min(train, data.examples - train) < data.classes:
        lines.append(
            f"data.test_fraction: {config.data.test_fraction} leaves {train} training and "
            f"{data.examples - train} test examples, fewer than the {data.classes} classes"
        )
    if every and config.epochs % every:
        lines.append(
            f"tracking.spectrum_every_epochs: {every} does not divide the {config.epochs} epochs, "
            "so the last step would have no spectrum"
        )
    return lines


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
