"""One loader for every source: a folder of images or of Parquet files, or a data set of the Hugging Face hub."""

import errno
import gc
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .catalogue import CATALOGUE
from .info import DataError

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_TEST_SPLITS = ("test", "validation", "valid", "val")  # the first of these that exists is the test part
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True)
class Choice:
    """What the user, or the catalogue, says about a source; None: it is to be found out."""

    config: str | None = None
    train_split: str | None = None
    test_split: str | None = None
    image_column: str | None = None
    label_column: str | None = None


@dataclass(frozen=True)
class Source:
    """Where a data set comes from: ``place`` is a folder's path or a hub id."""

    place: str
    local: bool
    name: str
    choice: Choice


def resolve(text: str, choice: Choice) -> Source:
    """The source that ``text`` means: a short name, else a folder, else a hub id. Raises DataError if it is none."""
    if known := CATALOGUE.get(text):
        filled = Choice(
            config=choice.config or known.config,
            train_split=choice.train_split,
            test_split=choice.test_split,
            image_column=choice.image_column or known.image_column,
            label_column=choice.label_column or known.label_column,
        )
        return Source(known.hub_id, False, text, filled)
    path = Path(text).expanduser()
    if text and path.is_dir():
        return Source(str(path.resolve()), True, path.resolve().name, choice)
    if text and path.exists():
        raise DataError(f"{text}: is a file: give the folder that it lies in")
    if not _HUB_ID.fullmatch(text) or text.startswith("."):
        raise DataError(f"{text!r}: there is no such folder")
    return Source(text, False, text.rpartition("/")[2], choice)


def open_splits(source: Source, scratch: Path) -> dict[str, Any]:
    """The source's splits ``train`` and, where there is one, ``test``, as data sets of Hugging Face ``datasets``.

    Args:
        source: a folder is read without any network.
        scratch: a folder for what ``datasets`` writes while reading one; what the hub sends is kept in its own cache.

    Raises DataError, in one line, for all that can go wrong there.
    """
    import datasets
    import PIL  # noqa: F401 (which datasets needs for images: without it, this is the plainer error)

    problem = None
    with _quiet(datasets):
        try:
            cache = str(scratch) if source.local else None
            splits = datasets.load_dataset(source.place, source.choice.config, cache_dir=cache)
        except Exception as error:  # it raises whatever the reader of the format, or of the network, does
            problem = _explain(error, source)
    if problem is not None:
        gc.collect()  # the reader's threads, which the error held: left to the end of the process, they abort it
        raise DataError(problem)
    names = list(splits)
    train = source.choice.train_split or "train"
    test = source.choice.test_split or next((name for name in _TEST_SPLITS if name in names and name != train), None)
    for name, option in ((train, "--train-split"), (test, "--test-split")):
        if name is not None and name not in names:
            raise DataError(
                f"{source.place}: has no split {name!r}; there are {', '.join(map(repr, names))}: choose with {option}"
            )
    if train == test:
        raise DataError(f"{source.place}: the split {train!r} cannot be the training and the test part at once")
    return {"train": splits[train]} | ({} if test is None else {"test": splits[test]})


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Keep progress bars and log lines of other packages off the terminal: what matters of them is in the errors."""
    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()


def _explain(error: Exception, source: Source) -> str:
    chain = list(_chain(error))
    kinds = {kind.__name__ for link in chain for kind in type(link).__mro__}
    text = str(chain[-1]).strip() or type(chain[-1]).__name__
    for link in chain:
        if isinstance(link, OSError) and link.errno in _FULL:
            return f"{source.place}: cannot be unpacked: {link.strerror}. Another folder: --cache DIR"
    if not source.local and "ConnectionError" in kinds:
        copy = f"./{source.name}" if Path(source.name).is_dir() else "FOLDER"
        return (
            f"{source.place}: the Hugging Face hub cannot be reached, and this is no folder here; "
            f"from a copy on disk: fastrank data prepare {copy} --name {source.name}"
        )
    if "DatasetNotFoundError" in kinds:
        return (
            f"{source.place}: there is no such folder, and the Hugging Face hub has no such public data set; "
            f"short names: {', '.join(CATALOGUE)}"
        )
    if "EmptyDatasetError" in kinds or "DataFilesNotFoundError" in kinds:
        return f"{source.place}: holds no images and no Parquet files"
    if "Config name is missing" in text or "BuilderConfig" in text:
        known = re.search(r"\[.*\]", text)
        return f"{source.place}: choose one of its configurations with --config: {known[0] if known else text}"
    if "BatchSize must be greater than 0" in text:  # what the Parquet reader makes of a file without rows
        return f"{source.place}: holds a Parquet file without rows: leave it out"
    if "save_to_disk" in text:
        return f"{source.place}: was written by save_to_disk; write it with to_parquet instead"
    return f"{source.place}: cannot be read: {' '.join(text.split())}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__
