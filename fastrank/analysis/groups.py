"""Where in a checkpoint the weights are, and what stands beside them: optimizers' state, averages, other groups."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from ..arguments import from_numpy
from ..weights import clean_name
from .errors import AnalyzeError

USUAL_KEYS = ("state_dict", "model_state_dict", "model")
OPTIMIZER = re.compile(r"optim(izer.*|s?|s?_.*)", re.IGNORECASE)
AVERAGE = re.compile(r"(.*_)?(ema|swa|averaged?)(_.*)?", re.IGNORECASE)
KNOWN = 10  # names that an error lists
DEEPEST, MOST = 100, 10_000_000
"""No checkpoint is nested deeper, or has as many values in its dictionaries and lists."""


class Chosen(NamedTuple):
    """A checkpoint's weights, and what of it is not among them."""

    tensors: dict[str, Tensor]
    """By their dotted names, without the parts that wrappers put in."""
    left_out: list[str]
    """Optimizers' states, each with its number of tensors, and arrays of NumPy that are no tensors."""
    not_looked_at: dict[str, str]
    """Groups of tensors beside the one that was chosen: by the key under which each is, what it holds."""


def choose(checkpoint: Path | str, state: Any, key: str | None) -> Chosen:
    """Find the weights in what `read` has read, or in a state dict.

    Args:
        checkpoint: the path, or another name, for messages.
        state: nested dictionaries and lists of tensors, arrays of NumPy and plain values.
        key: where to look, ``"a.0"`` for ``state["a"][0]``; a key may have dots itself, and the longest that fits is
            taken. None for under the first of `USUAL_KEYS` that holds tensors, otherwise everywhere.

    The state of an optimizer is left out, unless ``key`` leads to it or into it: a dictionary with ``state`` and
    ``param_groups``, or whatever is called optimizer. Raises AnalyzeError for a key that is not there, where there are
    no tensors, and where two tensors have the same dotted name.
    """
    check(checkpoint, state)
    where = _usual_key(state) if key is None else key
    beside = [(str(name), value) for name, value in _items(state) if name != where] if where != key else []
    left_out = [_optimizer(name, value) for name, value in beside if _is_optimizer(name, value)]
    others = {name: _other(name, value) for name, value in beside if _count(value) and not _is_optimizer(name, value)}
    tensors: dict[str, Tensor] = {}
    for name, value in _leaves(_under(checkpoint, state, where)):
        if name in tensors and isinstance(value, Tensor | np.ndarray):
            raise AnalyzeError(f"{checkpoint}: two tensors are called {name}: choose one by its key")
        if isinstance(value, Tensor):
            tensors[name] = value.detach()
        elif isinstance(value, np.ndarray):
            try:
                tensors[name] = from_numpy(value, name)
            except TypeError:
                left_out.append(f"{name} (dtype {value.dtype})")
        else:
            left_out.append(_optimizer(f"{where}.{name}" if where else name, value))
    if "" in tensors:  # there is nothing but this tensor
        tensors = {key or "tensor": tensors[""]}
    if not tensors and not left_out:
        raise AnalyzeError(f"{checkpoint}: holds no tensors{f' under {key}' if key else ''}")
    plain = [clean_name(name) for name in tensors]
    if len(set(plain)) == len(plain):
        tensors = dict(zip(plain, tensors.values(), strict=True))
    return Chosen(tensors, left_out, others)


def check(checkpoint: Path | str, state: Any) -> None:
    """Raise AnalyzeError for what would have no end if it were walked through: a container that holds itself, or that
    holds others so often that more than `MOST` values come of a few. And for names that are no text."""
    counts: dict[int, int] = {}  # of all values below a container
    open_: list[tuple[Any, Iterator[tuple[Any, Any]], int]] = [(state, _items(state), 0)]
    while open_:
        node, rest, found = open_.pop()
        for key, value in rest:
            try:
                str(key).encode()
            except UnicodeEncodeError as error:
                raise AnalyzeError(f"{checkpoint}: holds a name that is no text: {str(key)!a}") from error
            found += 1 + counts.get(id(value), 0)
            if isinstance(value, Mapping | list | tuple) and id(value) not in counts:
                if len(open_) >= DEEPEST:
                    raise AnalyzeError(f"{checkpoint}: is nested more than {DEEPEST} deep, or holds itself")
                open_ += [(node, rest, found), (value, _items(value), 0)]
                break
        else:
            counts[id(node)] = found
            if found > MOST:
                raise AnalyzeError(f"{checkpoint}: holds more values than can be looked through: {found}")
            if open_:
                above, others, before = open_.pop()
                open_.append((above, others, before + found))


def _usual_key(state: Any) -> str | None:
    if not isinstance(state, Mapping):
        return None
    return next((key for key in USUAL_KEYS if isinstance(state.get(key), Mapping) and _count(state[key])), None)


def _items(node: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(node, Mapping):
        yield from node.items()
    elif isinstance(node, list | tuple):
        yield from enumerate(node)


def _under(checkpoint: Path | str, state: Any, key: str | None) -> Any:
    rest = key
    while rest:
        below = {str(name): value for name, value in _items(state)}
        fits = [name for name in below if f"{rest}.".startswith(f"{name}.")]
        if not fits:
            known = ", ".join([*list(below)[:KNOWN], *(["..."] if len(below) > KNOWN else [])])
            raise AnalyzeError(
                f"{checkpoint}: has no {key!r}: there is no {rest.partition('.')[0]!r} among "
                f"{known or f'a {type(state).__name__}'}"
            )
        longest = max(fits, key=len)
        state, rest = below[longest], rest[len(longest) + 1 :]
    return state


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every tensor or array by its dotted name, and every optimizer's state, whole, by its own."""
    if isinstance(node, Tensor | np.ndarray):
        yield prefix, node
    for key, value in _items(node):
        name = f"{prefix}.{key}" if prefix else str(key)
        if _is_optimizer(key, value):
            yield name, value
        else:
            yield from _leaves(value, name)


def _is_optimizer(key: Any, value: Any) -> bool:
    group = not isinstance(value, Tensor | np.ndarray) and _count(value) > 0
    named = group and OPTIMIZER.fullmatch(str(key)) is not None
    return named or (isinstance(value, Mapping) and {"state", "param_groups"} <= value.keys())


def _count(node: Any) -> int:
    return int(isinstance(node, Tensor | np.ndarray)) + sum(_count(value) for _, value in _items(node))


def _tensors(node: Any) -> str:
    count = _count(node)
    return "1 tensor" if count == 1 else f"{count} tensors"


def _optimizer(name: str, value: Any) -> str:
    return f"{name} (optimizer state, {_tensors(value)})"


def _other(name: str, value: Any) -> str:
    return ("averaged weights, " if AVERAGE.fullmatch(name) else "") + _tensors(value)
