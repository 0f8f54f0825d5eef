"""Damage to a file: cut off, or with one bit that is another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


def cut(content: bytes, stride: int) -> Iterator[bytes]:
    """The beginnings of a file: nothing, a byte, half, all but one byte, and some between."""
    lengths = {0, 1, len(content) // 2, len(content) - 8, len(content) - 1, *range(0, len(content), stride)}
    return (content[:length] for length in sorted(lengths) if 0 <= length < len(content))


def flipped(content: bytes, stride: int) -> Iterator[bytes]:
    """The file with one bit flipped: of every so many bytes one, and each time the next bit."""
    for i, place in enumerate(range(0, len(content), stride)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << (i * 3 % 8)
        yield bytes(damaged)


def outcome(run: Callable[[], Any], *errors: type[Exception]) -> tuple[Any, str | None]:
    """What `run` returns, and None; or None, and what one of the `errors` says."""
    try:
        return run(), None
    except errors as caught:
        return None, str(caught)
