"""Texts with a checksum at their end: SQLite has none, and would give back a flipped bit as another number."""

import json
import zlib
from typing import Any

_MARK = " crc32:"  # which ends no JSON


def sealed(value: Any, *of: object) -> str:
    """``value`` as JSON, sealed together with what stands beside it in its row."""
    text = json.dumps(value)
    return f"{text}{_MARK}{_sum(text, of)}"


def unsealed(text: str, *of: object) -> Any:
    """What was sealed. Raises ValueError where it, or what stands beside it, is not what was written.

    A text without a seal is one that an earlier fastrank has written.
    """
    content, mark, found = text.rpartition(_MARK)
    if not mark:
        return json.loads(text)
    if found != _sum(content, of):
        raise ValueError(f"what is written of {of[0]} is not what was written")
    return json.loads(content)


def _sum(text: str, of: tuple[object, ...]) -> str:
    return f"{zlib.crc32(repr((text, *of)).encode()):08x}"
