"""``fastrank data prepare``: decodes a data set once and puts it into the cache, from which trials read it."""

import math
import shlex
import tempfile
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .columns import find_columns, read_labels
from .decode import Decoder, Look
from .folder import BUILT_IN, file_of
from .info import DataError, DataInfo
from .source import Choice, Source, open_splits, resolve
from .store import Part, cannot_write, digest_of, read_info, read_parts, write_set

NO_CHOICE, AS_IT_IS = Choice(), Look()


@dataclass(frozen=True)
class Prepared:
    """A data set in the cache, its file, whether that was made now (``fresh``), and the seconds that all took."""

    info: DataInfo
    path: Path
    fresh: bool
    seconds: float


def prepare(
    text: str,
    *,
    name: str | None = None,
    look: Look = AS_IT_IS,
    choice: Choice = NO_CHOICE,
    folder: Path | None = None,
    force: bool = False,
) -> Prepared:
    """Decode a data set into the cache.

    Args:
        text: a short name of the catalogue, a folder of images or Parquet files, or an id of the hub.
        name: what configurations will call it; the last part of ``text`` if None.
        look: what the images are made to look like.
        choice: which splits and columns of the source to take, where that cannot be found out.
        folder: the cache; see `cache_folder`.
        force: make it again, and replace a set of this name that came from elsewhere.

    A set that is there already, intact and made from the same source with the same options, is left as it is.
    Raises DataError for everything that is wrong with the source or the cache.
    """
    started = time.perf_counter()
    source = resolve(text, choice)
    name = source.name if name is None else name
    if name == BUILT_IN:
        raise DataError(
            f"{BUILT_IN!r} is built in and needs no preparing; give another set of that name another one with --name"
        )
    path = file_of(name, folder)
    options = _options(look, choice)
    earlier = None if force else _already(path, name, source, options)
    if earlier is not None:
        return Prepared(earlier, path, False, time.perf_counter() - started)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".prepare-") as scratch:
            info = _prepare(path, name, source, look, options, Path(scratch))
    except OSError as error:
        raise cannot_write(path, error.strerror or str(error)) from None
    return Prepared(info, path, True, time.perf_counter() - started)


def _options(look: Look, choice: Choice) -> tuple[str, ...]:
    """The options as on the command line. They are kept with the data, and say how to make it again."""
    options = [] if look.size is None else ["--size", str(look.size)]
    options += {None: [], "RGB": ["--rgb"], "L": ["--grey"]}[look.mode]
    for key, value in vars(choice).items():
        options += [] if value is None else [f"--{key.replace('_', '-')}", value]
    return tuple(options)


def _already(path: Path, name: str, source: Source, options: tuple[str, ...]) -> DataInfo | None:
    try:
        info = read_info(path, name)
        same = (info.source, info.options) == (source.place, options)
        if same:
            read_parts(path, info)
    except (FileNotFoundError, DataError):  # not there, or damaged: it is made anew
        return None
    if not same:
        made = shlex.join([info.source, *info.options])
        raise DataError(
            f"{name!r} is prepared already, from {made}: --force replaces it, --name gives this another name"
        )
    return info


def _prepare(path: Path, name: str, source: Source, look: Look, options: tuple[str, ...], scratch: Path) -> DataInfo:
    console = Console(stderr=True, highlight=False)
    with console.status(f"reading {source.place}") if console.is_terminal else nullcontext():
        splits = open_splits(source, scratch)
        image_column, label_column = find_columns(source, splits["train"].features)
        classes, labels = read_labels(source, label_column, splits)
    decoder = Decoder(source.place, look)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("decoding images", total=sum(map(len, splits.values())))
        parts = {
            part: Part(
                decoder.decode(part, rows, image_column, lambda count: progress.advance(task, count)), labels[part]
            )
            for part, rows in splits.items()
        }
    info = _describe(name, source, options, classes, parts)
    write_set(path, scratch, info, parts)
    return info


def _describe(
    name: str, source: Source, options: tuple[str, ...], classes: tuple[str, ...], parts: Mapping[str, Part]
) -> DataInfo:
    train = parts["train"].images
    mean, std = statistics(train)
    if 0.0 in std:
        raise DataError(
            f"{source.place}: channel {std.index(0.0)} has the same value in every pixel of every training image: "
            "look at the images, or drop the colours with --grey"
        )
    info = DataInfo(
        name=name,
        source=source.place,
        digest="",
        classes=classes,
        channels=train.shape[1],
        height=train.shape[2],
        width=train.shape[3],
        train=len(train),
        test=len(parts["test"].labels) if "test" in parts else 0,
        mean=mean,
        std=std,
        options=options,
    )
    return replace(info, digest=digest_of(info, parts))


def statistics(images: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the pixels divided by 255, a value a channel.

    They come from sums of whole numbers, which are exact: the same on every machine, and without cancellation.

    Args:
        images: (n, c, h, w) uint8.
    """
    mean, std = [], []
    for channel in range(images.shape[1]):
        counts = np.zeros(256, dtype=np.int64)
        for start in range(0, len(images), 1000):
            counts += np.bincount(images[start : start + 1000, channel].ravel(), minlength=256)
        count = int(counts.sum())
        total = sum(value * int(n) for value, n in enumerate(counts))
        squares = sum(value * value * int(n) for value, n in enumerate(counts))
        mean.append(total / (255 * count))
        std.append(math.sqrt((count * squares - total * total) / (255 * count) ** 2))
    return tuple(mean), tuple(std)
