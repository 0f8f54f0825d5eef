"""Checkpoint: the state of a tracker, in a form in which every way of saving keeps it.

`torch.distributed.checkpoint` takes a tracker for a `Stateful`, and loads what was saved into the state of the tracker
that is there: key by key, tensors into tensors of the same shape. So the keys of a state are always the same, and what
differs from one tracker to the next is packed into bytes. `torch.load` with `weights_only` accepts both.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import torch

VERSION = 3
Shape = tuple[int, int]


def pack(
    names: Sequence[str], columns: Sequence[str], shapes: Sequence[Shape], counts: Mapping[str, int], kept: Any
) -> dict[str, Any]:
    """A state of numbers, strings and bytes.

    Args:
        names, columns: of the history.
        shapes: (rows, cols) of the tracked matrices, as they are now.
        counts: numbers of the tracker, by name.
        kept: tensors, numbers and strings in dicts, lists and tuples, of any structure.
    """
    packed = io.BytesIO()
    torch.save(kept, packed)
    own = {"names": list(names), "columns": list(columns), "shapes": list(map(_shape, shapes))}
    return {"version": VERSION, **own, **counts, "packed": packed.getvalue()}


def unpack(state: Mapping[str, Any], names: Sequence[str], columns: Sequence[str], shapes: Sequence[Shape]) -> Any:
    """What `pack` was given as `kept`; raises `ValueError` if `state` is not one of the same matrices and columns."""
    if not isinstance(state, Mapping) or state.get("version") != VERSION:
        found = f"version {state.get('version')!r}" if isinstance(state, Mapping) else f"a {type(state).__name__}"
        raise ValueError(f"state_dict: {found}, not one of version {VERSION}")
    missing = {"names", "columns", "shapes", "calls", "steps", "packed"} - set(state)
    if missing:
        raise ValueError(f"state_dict: lacks {', '.join(sorted(missing))}")
    for key, own in (("names", names), ("columns", columns)):
        if list(state[key]) != list(own):
            differing = sorted(set(state[key]) ^ set(own))
            raise ValueError(f"state_dict: {key} differ from this tracker's: {', '.join(differing) or 'order'}")
    for name, shape, now in zip(names, state["shapes"], map(_shape, shapes), strict=True):
        if shape != now:
            raise ValueError(f"state_dict: {name} is {shape} there, and {now} in this model")
    return torch.load(io.BytesIO(state["packed"]), map_location="cpu", weights_only=True)


def _shape(shape: Shape) -> str:
    return "x".join(map(str, shape))
