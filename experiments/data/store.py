"""The file of a prepared data set: safetensors, written whole or not at all, with a digest that is checked."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrank.files import sync

from .folder import command
from .info import DataError, DataInfo, Images

FORMAT = "1"  # of the file; goes up when its layout changes
_FIELDS = ("source", "digest", "classes", "mean", "std", "options")


@dataclass(frozen=True)
class Part:
    """The training or the test part, decoded. ``images``: (n, c, h, w) uint8; ``labels``: (n,) int64."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def digest_of(info: DataInfo, parts: Mapping[str, Part]) -> str:
    """SHA-256 of everything in the file that decides a number. Sets of equal digest give equal trainings."""
    sha = hashlib.sha256(json.dumps([info.classes, info.mean, info.std]).encode())
    for name, part in parts.items():
        for array, kind in ((part.images, "|u1"), (part.labels, "<i8")):
            sha.update(json.dumps([name, kind, array.shape]).encode())
            sha.update(np.ascontiguousarray(array, dtype=kind).data)
    return sha.hexdigest()


def write_set(path: Path, scratch: Path, info: DataInfo, parts: Mapping[str, Part]) -> None:
    """Put a data set at ``path``, whole or not at all, without a second copy of it in memory.

    Args:
        path: the file.
        scratch: a folder on the same disk, for the file while it is being written.
        info: what the header says.
        parts: ``train`` and, where there is one, ``test``.

    Raises DataError where the file cannot be written; an earlier one is then intact.
    """
    from importlib.metadata import version

    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    header = {key: json.dumps(getattr(info, key)) for key in ("name", *_FIELDS)}
    header |= {"fastrank_data": FORMAT, "fastrank": version("fastrank")}
    tensors: dict[str, NDArray[Any]] = {}
    for name, part in parts.items():
        tensors |= {f"{name}.images": part.images, f"{name}.labels": part.labels}
    fresh = scratch / path.name
    try:
        save_file(tensors, fresh, metadata=header)
        sync(fresh)
        fresh.chmod(0o644)
        fresh.replace(path)
        sync(path.parent)
    except SafetensorError as error:
        reason = str(error).rpartition("I/O error: ")[2].partition(" (os error")[0]
        raise cannot_write(path, reason) from None
    except OSError as error:
        raise cannot_write(path, error.strerror or str(error)) from None


def cannot_write(path: Path, reason: str) -> DataError:
    """The error for a cache that is full or closed."""
    return DataError(f"{path}: cannot be written: {reason}. Another folder: --cache DIR, or the variable FASTRANK_DATA")


def read_info(path: Path, name: str) -> DataInfo:
    """Read the header of a prepared data set, which is called ``name``; pixels and labels are not read.

    Raises FileNotFoundError, and DataError where the file is no data set, or one that is damaged.
    """
    import safetensors

    safe_open: Any = safetensors.safe_open  # its stub has no types
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118 (not a mapping)
        if header.get("fastrank_data") != FORMAT:
            raise DataError(f"{path}: holds no data set of this version of fastrank; make it with: {command(name)}")
        fields = {key: json.loads(header[key]) for key in _FIELDS}
        examples, channels, height, width = shapes["train.images"]
        return DataInfo(
            name=name,
            source=fields["source"],
            digest=fields["digest"],
            classes=tuple(fields["classes"]),
            channels=channels,
            height=height,
            width=width,
            train=examples,
            test=shapes["test.images"][0] if "test.images" in shapes else 0,
            mean=tuple(fields["mean"]),
            std=tuple(fields["std"]),
            options=tuple(fields["options"]),
        )
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: is damaged: {error}; make it again with: {command(name)}") from None


def read_parts(path: Path, info: DataInfo) -> dict[str, Images]:
    """Map a whole data set, ``train`` and perhaps ``test``, into memory, and check it against ``info.digest``.

    Raises DataError where even one bit that decides a number is not what was written.
    """
    import safetensors
    from safetensors.torch import load_file

    again = f"make it again with: {command(info.name, info.source, info.options)}"
    names = ("train", "test") if info.test else ("train",)
    try:
        tensors = load_file(path)
        images = {name: Images(tensors[f"{name}.images"], tensors[f"{name}.labels"]) for name in names}
    except (OSError, safetensors.SafetensorError, KeyError) as error:
        raise DataError(f"{path}: is damaged: {error}; {again}") from None
    check_digest(info, images, f"{path}: is damaged: its content does not have the digest it is sealed with; {again}")
    return images


def check_digest(info: DataInfo, images: Mapping[str, Images], message: str) -> None:
    """Raise DataError with ``message`` where the images are not those that ``info`` describes."""
    parts = {name: Part(held.x.numpy(), held.y.numpy()) for name, held in images.items()}
    if digest_of(info, parts) != info.digest:
        raise DataError(message)
