"""Finds the columns of a source that hold images and labels, and reads the labels and the names of the classes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .info import DataError
from .source import Source

_LABEL = "label"  # what nearly everybody calls it


def find_columns(source: Source, features: Mapping[str, Any]) -> tuple[str, str]:
    """The names of the image and of the label column: those that were asked for, or else the only possible ones.

    Raises DataError naming the columns that there are.
    """
    images = [name for name, feature in features.items() if _holds_images(feature)]
    image = _choose(source, features, "image", source.choice.image_column, images)
    if image not in images:
        raise DataError(f"{source.place}: the column {image!r} does not hold encoded images ({features[image]})")
    labels = [name for name, feature in features.items() if hasattr(feature, "names")]
    if _LABEL in features and (_LABEL in labels or not labels):
        labels = [_LABEL]
    return image, _choose(source, features, "label", source.choice.label_column, labels)


def _choose(source: Source, features: Mapping[str, Any], what: str, asked: str | None, found: list[str]) -> str:
    columns = f"the columns are {', '.join(map(repr, features))}"
    option = f"choose with --{what}-column"
    if asked is not None:
        if asked not in features:
            raise DataError(f"{source.place}: has no column {asked!r}; {columns}: {option}")
        return asked
    if not found:
        raise DataError(f"{source.place}: has no {what} column; {columns}: {option}")
    if len(found) > 1:
        several = ", ".join(map(repr, found))
        raise DataError(f"{source.place}: {several} could each be the {what} column: {option}")
    return found[0]


def _holds_images(feature: Any) -> bool:
    """Whether a column has encoded images: marked so by ``datasets``, or as bytes, or as bytes and a path."""
    if type(feature).__name__ == "Image":
        return True
    if isinstance(feature, dict):
        return set(feature) == {"bytes", "path"}
    return getattr(feature, "dtype", None) in ("binary", "large_binary")


def read_labels(
    source: Source, column: str, splits: Mapping[str, Any]
) -> tuple[tuple[str, ...], dict[str, NDArray[np.int64]]]:
    """The names of the classes, and for every split the labels as indices into them.

    Raises DataError for a label that is missing or not that of a class, and for a class without an example.
    """
    values = {name: split.select_columns([column]).with_format("arrow")[:][column] for name, split in splits.items()}
    for name, held in values.items():
        if held.null_count:
            row = held.to_pylist().index(None)
            raise DataError(f"{source.place}: {name} row {row} has no label: leave it out, or label it")
    feature = splits["train"].features[column]
    lists = {name: held.to_pylist() for name, held in values.items()}
    classes = _classes(source, column, feature, lists)
    if feature_is_text(feature):
        index = {name: i for i, name in enumerate(classes)}
        lists = {name: [index[value] for value in held] for name, held in lists.items()}
    labels = {name: np.array(held, dtype=np.int64) for name, held in lists.items()}
    for name, held in labels.items():
        wrong = np.flatnonzero((held < 0) | (held >= len(classes)))
        if len(wrong):
            raise DataError(
                f"{source.place}: {name} row {wrong[0]} has the label {held[wrong[0]]}, which is that of no class: "
                f"they go from 0 to {len(classes) - 1}"
                + (" (-1 often stands for a hidden label: another split with --test-split?)" if name == "test" else "")
            )
    _check_examples(source, classes, labels)
    return classes, labels


def feature_is_text(feature: Any) -> bool:
    """Whether labels are given as the names of their classes."""
    return getattr(feature, "dtype", None) in ("string", "large_string") and not hasattr(feature, "names")


def _classes(source: Source, column: str, feature: Any, lists: Mapping[str, list[Any]]) -> tuple[str, ...]:
    if hasattr(feature, "names"):
        return tuple(feature.names)
    if feature_is_text(feature):
        return tuple(sorted({value for held in lists.values() for value in held}))
    if not str(getattr(feature, "dtype", feature)).startswith(("int", "uint")):
        raise DataError(
            f"{source.place}: the label column {column!r} holds {feature}: whole numbers or names are wanted; "
            "choose with --label-column"
        )
    last = max((max(held) for held in lists.values() if held), default=-1)
    if last >= sum(map(len, lists.values())):
        raise DataError(
            f"{source.place}: the label column {column!r} goes up to {last}, more than there are examples: "
            "labels count from 0; choose another column with --label-column"
        )
    return tuple(str(label) for label in range(last + 1))


def _check_examples(source: Source, classes: tuple[str, ...], labels: Mapping[str, NDArray[np.int64]]) -> None:
    """Raise DataError for a class without an example to train on or one to test on.

    A set without a test part is going to be split, so it needs two examples of each class.
    """
    if not len(labels["train"]):
        raise DataError(f"{source.place}: the training part is empty")
    need = 1 if "test" in labels else 2
    for name, held in labels.items():
        counts = np.bincount(held, minlength=len(classes))
        absent = [repr(classes[i]) for i in np.flatnonzero(counts < need)]
        if absent:
            part = "training" if name == "train" else "test"
            several = "" if need == 1 else "two examples of each class are needed, one to train on and one to test on; "
            raise DataError(
                f"{source.place}: {several}too few {part} examples of {', '.join(absent[:5])}"
                + (f" and {len(absent) - 5} more classes" if len(absent) > 5 else "")
            )
