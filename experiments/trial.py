"""A trial: one training of a sweep, described by everything that decides its numbers.

A trial's id is the hash of its canonical specification, so that the same work has the same id however the
configuration file is written: the order of keys, ``1`` or ``1.0`` for a float, and whether the defaults below are
spelled out make no difference.
"""

import hashlib
import itertools
import json
from functools import cached_property
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from .data import DataInfo, describe, split_sizes

T = TypeVar("T")


def _without_duplicates(values: list[T]) -> list[T]:
    twice = [value for i, value in enumerate(values) if value in values[:i]]
    if twice:
        raise ValueError(f"{twice[0]!r} is there twice")
    return values


def _increasing(values: list[int]) -> list[int]:
    if any(a >= b for a, b in itertools.pairwise(values)):
        raise ValueError(f"must be increasing (got {values})")
    return values


# Adding 0.0 turns -0.0 into 0.0, which would otherwise be a second spelling of the same trial.
Number = Annotated[float, Field(allow_inf_nan=False), AfterValidator(lambda x: x + 0.0)]
Positive = Annotated[Number, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Depth = Annotated[int, Field(ge=1, le=1_000)]
Size = Annotated[int, Field(ge=1, le=100_000)]  # beyond it there is no machine for the matrices
Seed = Annotated[int, Field(ge=0, lt=2**63)]
BatchSize = Annotated[int, Field(ge=2)]  # batch-norm has no variance to divide by in a batch of one
WeightDecay = Annotated[Number, Field(ge=0)]
Momentum = Annotated[Number, Field(ge=0, lt=1)]
Axis = Annotated[list[T], Field(min_length=1, max_length=1_000), AfterValidator(_without_duplicates)]


class Strict(BaseModel):
    """Base of the models here. It refuses unknown keys and converts no types (a float may still be written ``1``)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Perceptron(Strict):
    """``depth`` hidden layers of ``width`` units, with batch-norm (``mlp_bn``) or without (``mlp``)."""

    name: Literal["mlp_bn", "mlp"]
    depth: Depth
    width: Size


class ConvNet(Strict):
    """Two convolutions of stride 2, then ``depth`` of stride 1; ``width`` channels."""

    name: Literal["convnet"]
    depth: Depth
    width: Size


class Fixed(Strict):
    """A network without options: ResNet-18 with the CIFAR stem, VGG-16 with batch-norm."""

    name: Literal["resnet18", "vgg16_bn"]


class ViT(Strict):
    """``depth`` blocks of dimension ``width`` with ``heads`` heads, on patches of ``patch`` x ``patch`` pixels."""

    name: Literal["vit"]
    depth: Depth = 6
    width: Size = 192
    heads: Size = 3
    patch: Size = 4


Model = Annotated[Perceptron | ConvNet | Fixed | ViT, Field(discriminator="name")]


class Data(Strict):
    """A prepared data set, and which part of it is used.

    ``test_fraction``: share of the examples that become the test part, of a set that has none of its own (default
    0.2). ``train_examples``, ``test_examples``: use only so many of each part (default: all). ``seed`` decides which
    examples these are. ``augment``: random crops and flips of the training images.
    """

    name: Annotated[str, Field(min_length=1)]
    test_fraction: Annotated[Number, Field(gt=0, lt=1)] | None = None
    train_examples: Count | None = None
    test_examples: Count | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    augment: bool = False

    @property
    def info(self) -> DataInfo:
        """What is known of the data set without loading it. Raises DataError where it is not prepared."""
        return describe(self.name)

    @property
    def part(self) -> dict[str, Any]:
        """Which part of the data set is used, as keyword arguments of `fastrank.experiments.data.load_split`."""
        return {key: getattr(self, key) for key in ("test_fraction", "train_examples", "test_examples", "seed")}

    def sizes(self) -> tuple[int, int]:
        """Numbers of training and of test examples. Raises DataError where the set does not have as many."""
        return split_sizes(self.info, self.test_fraction, self.train_examples, self.test_examples)


class ToleranceSpec(Strict):
    """A threshold of the numerical rank, as a configuration writes it: the arguments of `fastrank.Tolerance`."""

    value: Positive = 1e-3
    relative_to: Literal["frobenius", "spectral", "absolute"] = "frobenius"


class Tracking(Strict):
    """What is recorded of the matrices during training.

    ``tolerances``: thresholds of the numerical rank. ``every``: steps from one measurement of the rank to the next.
    ``select``: which matrices, as of `fastrank.RankTracker`. ``spectrum_every_epochs``: epochs from one recording of
    whole spectra to the next, 0 for none.
    """

    tolerances: Axis[ToleranceSpec] = [ToleranceSpec()]
    every: Count = 1
    select: Literal["paper", "all"] = "paper"
    spectrum_every_epochs: Annotated[int, Field(ge=0)] = 1


class Schedule(Strict):
    """How long a trial trains, and how its learning rate falls.

    There are ``epochs`` in all, and the learning rate is multiplied by ``gamma`` after each epoch in ``milestones``.
    """

    epochs: Count
    milestones: Annotated[list[Count], AfterValidator(_increasing)] = []
    gamma: Positive = 0.2

    def factor(self, epoch: int) -> float:
        """By what the initial learning rate is multiplied after ``epoch`` whole epochs."""
        return self.gamma ** sum(milestone <= epoch for milestone in self.milestones)


class Trial(Schedule):
    """One point of the grid. ``weight_decay`` is PyTorch's: twice the paper's lambda."""

    model: Model
    data: Data
    batch_size: BatchSize
    lr: Positive
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
        return short_hash(self.spec)

    @cached_property
    def steps_per_epoch(self) -> int:
        """How many full batches the training part holds, as found at the first call; an incomplete one is dropped."""
        return self.data.sizes()[0] // self.batch_size

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.epochs * self.steps_per_epoch


def short_hash(value: Any) -> str:
    """First 12 hex digits of the SHA-256 of a value's canonical JSON."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]
