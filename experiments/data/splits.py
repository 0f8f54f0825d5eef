"""The training and the test part of a data set, by its name: a seed decides how it is split and thinned out."""

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from . import digits
from .folder import BUILT_IN, cache_folder, command, file_of, prepared
from .info import DataError, DataInfo, Images
from .store import check_digest, read_info, read_parts

TEST_FRACTION = 0.2  # of a set without a test part, where the configuration gives none


def describe(name: str) -> DataInfo:
    """What is known of a data set, from its header alone.

    Args:
        name: of a set that was prepared, or ``digits``.

    Raises DataError naming the set, the cache folder and the command that prepares it.
    """
    if name == BUILT_IN:
        return digits.INFO
    try:
        return read_info(file_of(name), name)
    except FileNotFoundError:
        names = ", ".join([BUILT_IN, *prepared()])
        raise DataError(
            f"the data set {name!r} is not prepared: it is not in {cache_folder()} (there are: {names}); "
            f"get it with: {command(name)}"
        ) from None


def split_sizes(
    info: DataInfo, test_fraction: float | None, train_examples: int | None, test_examples: int | None = None
) -> tuple[int, int]:
    """Examples of the training and of the test part, as `load_split` makes them.

    Args:
        info: the data set.
        test_fraction: share of the examples that are kept for testing, rounded up (None: 0.2). Only for a set without
            a test part; for one with a test part it must be None.
        train_examples, test_examples: use only that many of them; None for all.

    Raises DataError naming the key of the configuration that cannot be.
    """
    classes = len(info.classes)
    train, test = info.train, info.test
    if test and test_fraction is not None:
        raise DataError(
            f"data.test_fraction: the data set {info.name!r} has a test part of its own ({test} images): leave it out"
        )
    if not test:
        fraction = TEST_FRACTION if test_fraction is None else test_fraction
        if not 0 < fraction < 1:
            raise DataError(f"data.test_fraction: must be between 0 and 1 (got {fraction})")
        test = math.ceil(train * fraction)
        train -= test
        if min(train, test) < classes:
            raise DataError(
                f"data.test_fraction: {fraction} leaves {train} training and {test} test examples of {info.name!r}, "
                f"fewer than its {classes} classes"
            )
    return (
        _thinned(info, "train_examples", train_examples, train, "training"),
        _thinned(info, "test_examples", test_examples, test, "test"),
    )


def _thinned(info: DataInfo, key: str, wanted: int | None, there: int, part: str) -> int:
    if wanted is None:
        return there
    if wanted < len(info.classes):
        raise DataError(f"data.{key}: {wanted} is fewer than the {len(info.classes)} classes of {info.name!r}")
    if wanted > there:
        raise DataError(f"data.{key}: {wanted} is more than the {there} {part} examples of {info.name!r}")
    return wanted


def load_split(
    name: str,
    *,
    test_fraction: float | None = None,
    train_examples: int | None = None,
    test_examples: int | None = None,
    seed: int = 0,
) -> tuple[Images, Images]:
    """The training and the test part of a data set.

    Args:
        name: of a set that was prepared, or ``digits``.
        test_fraction, train_examples, test_examples: as for `split_sizes`; all are stratified by class.
        seed: it alone decides which examples these are; 0 <= seed < 2**32.

    The tensors are kept for later calls and shared between callers: they must not be written to.
    Raises DataError for a set that is missing or damaged, and as `split_sizes`.
    """
    info = describe(name)
    split_sizes(info, test_fraction, train_examples, test_examples)
    return _split(info, test_fraction, train_examples, test_examples, seed)


@lru_cache(maxsize=4)  # a worker runs many trials, nearly always on the same data
def _split(
    info: DataInfo, test_fraction: float | None, train_examples: int | None, test_examples: int | None, seed: int
) -> tuple[Images, Images]:
    parts = _whole(info)
    train = parts["train"]
    test = parts.get("test")
    if test is None:
        train, test = _set_aside(info, train, split_sizes(info, test_fraction, None)[1], seed)
    if train_examples is not None:
        train = _take(train, thin_out(train.y.numpy(), train_examples, seed))
    if test_examples is not None:
        test = _take(test, thin_out(test.y.numpy(), test_examples, seed))
    return train, test


@lru_cache(maxsize=2)
def _whole(info: DataInfo) -> dict[str, Images]:
    """All of a data set. The cache goes by its whole header, with the digest: a set prepared anew is read anew."""
    if info.name != BUILT_IN:
        return read_parts(file_of(info.name), info)
    parts = {"train": digits.load()}
    check_digest(info, parts, "the digits of the installed scikit-learn are not those that fastrank knows")
    return parts


def _set_aside(info: DataInfo, whole: Images, test_examples: int, seed: int) -> tuple[Images, Images]:
    from sklearn.model_selection import train_test_split

    labels = whole.y.numpy()
    rows = train_test_split(np.arange(len(labels)), test_size=test_examples, random_state=seed, stratify=labels)
    train, test = (_take(whole, part) for part in rows)
    for part, held in (("training", train), ("test", test)):
        counts = torch.bincount(held.y, minlength=len(info.classes)).tolist()
        absent = [name for name, count in zip(info.classes, counts, strict=True) if not count]
        if absent:
            raise DataError(
                f"data.test_fraction: this split leaves no {part} example of {', '.join(map(repr, absent))} "
                f"of {info.name!r}, which has too few of them"
            )
    return train, test


def _take(images: Images, rows: NDArray[np.intp]) -> Images:
    index = torch.from_numpy(rows)
    return Images(images.x[index], images.y[index])


def thin_out(labels: NDArray[np.int64], examples: int, seed: int) -> NDArray[np.intp]:
    """Choose the rows of a stratified subset of so many examples. Returns them in ascending order.

    With the same seed, a smaller subset is part of every larger one. One by one, the next example is taken from the
    class of which the smallest share is taken yet (Adams' apportionment), so that each class has one before any has
    two.
    """
    draw = np.random.default_rng(seed).random(len(labels))
    counts = np.bincount(labels)
    by_class = np.lexsort((draw, labels))
    place = np.empty(len(labels))
    place[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(np.lexsort((draw, place / counts[labels]))[:examples])
