"""The files that together hold one model: those that an index names, or those that lie in a folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .errors import AnalyzeError
from .files import SAFETENSORS, read_file

NUMBERED = re.compile(r"(.+)-(\d+)-of-(\d+)(\..+)")
FILES = (f"*{SAFETENSORS}", "*model*.bin")
"""What the parts of a model are called in a folder without an index; the first kind that is there counts."""


def read(checkpoint: Path) -> Any:
    """What a checkpoint holds: nested dictionaries and lists of tensors and plain values.

    Args:
        checkpoint: a file (see `read_file`); an index of parts (``model.safetensors.index.json``); or a folder, which
            is read by its index where it has one, and else holds the parts of one model, or all of it.

    Raises AnalyzeError where a part is missing, where a name stands in two parts, and for what `read_file` refuses.
    """
    if checkpoint.suffix == ".json":
        return _read_indexed(checkpoint)
    if not checkpoint.is_dir():
        return read_file(checkpoint)
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
        return _read_indexed(indices[0])
    files = next(filter(None, (sorted(checkpoint.glob(pattern)) for pattern in FILES)), [])
    if not files:
        raise AnalyzeError(
            f"{checkpoint}: a folder with no {SAFETENSORS} file in it, and no *model*.bin; name the checkpoint's file"
        )
    _check_numbers(files)
    return read_file(files[0]) if len(files) == 1 else _read_together(files)


def _read_indexed(index: Path) -> dict[str, Any]:
    """All that is in the files that an index names."""
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
    tensors = _read_together(index.parent / part for part in dict.fromkeys(names.values()))
    for name, part in names.items():
        if name not in tensors:
            raise AnalyzeError(f"{index}: names {name}, which is not in {part}: one of the two is of another model")
    return tensors


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
