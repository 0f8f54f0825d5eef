"""Checkpoint: the state of a tracker, in a form in which every way of saving keeps it.

`torch.distributed.checkpoint` takes a tracker for a `Stateful`, and loads what was saved into the state of the tracker
that is there: key by key, tensors into tensors of the same shape. So the keys of a state are always the same, and what
differs from one tracker to the next is packed into bytes. `torch.load` with `weights_only` accepts both.

Of a key that several processes give, it saves what any one of them has. So what a process has alone is under keys that
the others do not give: `packed`, with the history, is the first process's, and all others are equal.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..measuring import ANEW

VERSION = 3
Shape = tuple[int, int]


def pack(
    names: Sequence[str],
    columns: Sequence[str],
    shapes: Sequence[Shape],
    counts: Mapping[str, int],
    rules: Any,
    kept: Any,
) -> dict[str, Any]:
    """A state of numbers, strings and bytes.

    Args:
        names, columns: of the history.
        shapes: (rows, cols) of the tracked matrices, as they are now.
        counts: numbers of the tracker, by name.
        rules: what processes that measure together have all alike: tensors, numbers and strings in dicts, lists and
            tuples, of any structure.
        kept: what the first of them has alone, in the same form; None in the others.
    """
    own = {"names": list(names), "columns": list(columns), "shapes": list(map(_shape, shapes)), **counts}
    alone = {} if kept is None else {"packed": _bytes(kept)}
    return {"version": VERSION, **own, "rules": _bytes(rules), **alone}


def unpack(
    state: Mapping[str, Any], names: Sequence[str], columns: Sequence[str], shapes: Sequence[Shape], *, keeps: bool
) -> tuple[Any, Any]:
    """What `pack` was given as `rules` and as `kept`; None for rules that an older version has not saved.

    The matrices of the rows are in the order of `names`, whichever they had.

    Args:
        names, columns, shapes: as of `pack`.
        keeps: whether `kept` is needed; otherwise it may be None.

    Raises:
        ValueError: `state` is not one of the same matrices and columns, or that of a process that keeps no rows.
    """
    if isinstance(state, Mapping) and not state:
        raise ValueError("state_dict: it is that of a process that does not measure; load the one of the first")
    if not isinstance(state, Mapping) or state.get("version") != VERSION:
        found = f"version {state.get('version')!r}" if isinstance(state, Mapping) else f"a {type(state).__name__}"
        raise ValueError(f"state_dict: {found}, not one of version {VERSION}")
    missing = {"names", "columns", "shapes", "calls", "steps"} - set(state)
    if keeps and "packed" not in state:
        raise ValueError(
            "state_dict: it is that of another process than the first of those that measure together, and has no rows; "
            "load the first one's"
        )
    if missing:
        raise ValueError(f"state_dict: lacks {', '.join(sorted(missing))}")
    for key, there, own in (
        ("names", sorted(state["names"]), sorted(names)),
        ("columns", list(state["columns"]), list(columns)),
    ):
        if there != own:
            differing = sorted(set(there) ^ set(own))
            raise ValueError(f"state_dict: {key} differ from this tracker's: {', '.join(differing) or 'order'}")
    # The stages of a pipeline may be in another order than the layers of the whole model.
    places = {name: place for place, name in enumerate(state["names"])}
    order = [places[name] for name in names]
    for name, place, now in zip(names, order, map(_shape, shapes), strict=True):
        if state["shapes"][place] != now:
            raise ValueError(f"state_dict: {name} is {state['shapes'][place]} there, and {now} in this model")
    rules, kept = _object(state.get("rules")), _object(state.get("packed"))
    if kept is not None and order != list(range(len(order))):
        for key in ("blocks", "last"):
            kept["history"][key] = [_ordered(block, order) for block in kept["history"][key]]
        kept["measurer"] = dict(ANEW)
    return rules, kept


def _ordered(block: Mapping[str, Any], order: Sequence[int]) -> dict[str, Any]:
    """A `history.Block` as a dict, with its matrices in another order."""
    sides = [min(shape) for shape in block["shapes"]]
    spectra = {}
    for row, sigma in block["spectra"].items():
        pieces = torch.split(sigma, sides)
        spectra[row] = torch.cat([pieces[i] for i in order])
    shapes = tuple(block["shapes"][i] for i in order)
    return {**block, "values": block["values"][:, order], "spectra": spectra, "shapes": shapes}


def _bytes(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def _object(packed: bytes | None) -> Any:
    """What was packed. It is an archive with checksums, which `torch.load` does not verify; they are all zero where
    `torch.serialization.set_crc32_options(False)` was called. Raises ValueError where it is damaged."""
    if packed is None:
        return None
    try:
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            wrong = archive.testzip() if any(member.CRC for member in archive.infolist()) else None
        if wrong is None:
            return torch.load(io.BytesIO(packed), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # whatever unzipping and unpickling make of other bytes
        raise ValueError(f"state_dict: what is packed in it is damaged: {error}") from error
    raise ValueError(f"state_dict: what is packed in it is damaged: {wrong} is not what was written")


def _shape(shape: Shape) -> str:
    return "x".join(map(str, shape))
