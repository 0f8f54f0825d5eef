"""The files that together hold one model: those that an index names, or those that lie in a folder."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .errors import AnalyzeError
from .files import SAFETENSORS, read_file

NUMBERED = re.compile(r"(.+)-(\d+)-of-(\d+)(\..+)")
FILES = (f"*{SAFETENSORS}", "*model*.bin")
"""What the parts of a model are called in a folder without an index; the first kind that is there counts."""
ON_HUB = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*?)(?:@([\w./-]+))?")
INDEX = f"*{SAFETENSORS}.index.json"
ENDINGS = (SAFETENSORS, ".pt", ".pth", ".bin", ".ckpt", ".npz", ".npy", ".json", ".gguf", ".h5")
"""Of files: what ends so is no name of a model."""


def local(checkpoint: str | os.PathLike[str]) -> Path:
    """The path of a checkpoint. What is no path here and looks like ``owner/model``, with or without ``@revision``, is
    a name on the Hugging Face Hub: its weights are fetched, unless they are in that library's cache already.

    Raises AnalyzeError where they cannot be fetched, ImportError without huggingface_hub.
    """
    path = Path(checkpoint).expanduser()
    found = ON_HUB.fullmatch(str(checkpoint))
    if found is None or path.suffix in ENDINGS or path.exists() or path.parent.exists():
        return path
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise ModuleNotFoundError(
            f"{path}: is not a file or folder here; to look for a model of that name on the Hugging Face Hub, "
            "huggingface_hub is needed: pip install huggingface_hub",
            name="huggingface_hub",
        ) from error
    try:
        folder = Path(snapshot_download(found[1], revision=found[2], allow_patterns=[f"*{SAFETENSORS}", INDEX]))
        if not any(folder.glob(f"*{SAFETENSORS}")):
            folder = Path(snapshot_download(found[1], revision=found[2], allow_patterns=["*.bin", "*.bin.index.json"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise AnalyzeError(
            f"{path}: is not a file or folder here, and cannot be had from the Hugging Face Hub: {reason[0]}"
        ) from error
    return folder


def files_of(checkpoint: Path) -> list[Path]:
    """The files that a checkpoint is in, and its index where it has one.

    Args:
        checkpoint: a file (see `read_file`); an index of parts (``model.safetensors.index.json``); or a folder, which
            is read by its index where it has one, and else holds the parts of one model, or all of it.

    Raises AnalyzeError where a part is missing, or it is not clear what is meant.
    """
    if checkpoint.suffix == ".json":
        return [checkpoint, *(checkpoint.parent / part for part in dict.fromkeys(_weight_map(checkpoint).values()))]
    if not checkpoint.is_dir():
        return [checkpoint]
    if (checkpoint / ".metadata").exists():
        raise AnalyzeError(
            f"{checkpoint}: is a checkpoint of torch.distributed: make one file of it, with "
            "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE"
        )
    indices = sorted(checkpoint.glob("*.index*.json"))
    # A model that is there in both formats has two indices; safetensors are read faster.
    indices = [path for path in indices if SAFETENSORS in path.name] or indices
    if len(indices) > 1:
        raise AnalyzeError(f"{checkpoint}: has several indices: name one of {', '.join(p.name for p in indices)}")
    if indices:
        return files_of(indices[0])
    files = next(filter(None, (sorted(checkpoint.glob(pattern)) for pattern in FILES)), [])
    if not files:
        raise AnalyzeError(
            f"{checkpoint}: a folder with no {SAFETENSORS} file in it, and no *model*.bin; name the checkpoint's file"
        )
    _check_numbers(files)
    return files


def read(checkpoint: Path) -> Any:
    """What a checkpoint holds: nested dictionaries and lists of tensors and plain values. For the argument see
    `files_of`.

    Raises AnalyzeError where a part is missing, where a name stands in two parts, and for what `read_file` refuses.
    """
    first, *more = files_of(checkpoint)
    if first.suffix != ".json":
        return _read_together([first, *more]) if more else read_file(first)
    tensors = _read_together(more)
    for name, part in _weight_map(first).items():
        if name not in tensors:
            raise AnalyzeError(f"{first}: names {name}, which is not in {part}: one of the two is of another model")
    return tensors


def _weight_map(index: Path) -> dict[str, str]:
    """In which file each tensor is, as an index says it."""
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise AnalyzeError(f"{index}: is not JSON: {error}") from error
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not names or not all(isinstance(part, str) for part in names.values()):
        raise AnalyzeError(f"{index}: is no index of a checkpoint: it has no weight_map that names files")
    outside = [part for part in names.values() if Path(part).is_absolute() or ".." in Path(part).parts or "\0" in part]
    if outside:
        raise AnalyzeError(f"{index}: names a file outside of its folder, which is not opened: {outside[0]!r}")
    missing = [part for part in dict.fromkeys(names.values()) if not (index.parent / part).is_file()]
    if missing:
        raise AnalyzeError(f"{index}: these parts of the model are missing: {', '.join(missing)}")
    return names


def _read_together(files: Iterable[Path]) -> dict[str, Any]:
    tensors: dict[str, Any] = {}
    holder: dict[str, str] = {}
    for file in files:
        held = read_file(file)
        if not isinstance(held, Mapping):
            raise AnalyzeError(f"{file}: is no part of a model: holds a {type(held).__name__}, not tensors by name")
        for name in held:
            if name in holder:
                raise AnalyzeError(
                    f"{file.parent}: {name} stands in two files, {holder[name]} and {file.name}: name one of them"
                )
        holder |= dict.fromkeys(held, file.name)
        tensors |= held
    return tensors


def _check_numbers(files: Iterable[Path]) -> None:
    """Raise AnalyzeError where one of the parts 1 to n, or 0 to n - 1, is missing."""
    series: dict[tuple[str, str, str], set[int]] = {}
    for file in files:
        if found := NUMBERED.fullmatch(file.name):
            series.setdefault((found[1], found[3], found[4]), set()).add(int(found[2]))
    for (stem, count, suffix), numbers in series.items():
        first = 0 if 0 in numbers else 1
        missing = next((i for i in range(first, first + int(count)) if i not in numbers), None)
        if missing is not None:
            raise AnalyzeError(
                f"{next(iter(files)).parent}: {stem}-{missing:0{len(count)}}-of-{count}{suffix} is missing: "
                f"{len(numbers)} of {int(count)} parts are there"
            )
