"""Texts with a checksum at their end: SQLite has none, and would give back a flipped bit as another number.

The checksum is of the text and of what stands beside it in its row: of a result the trial, its status and so on. So a
text that has moved to another row is noticed, too.
"""

import json
import zlib
from typing import Any

_MARK = " crc32:"  # no JSON ends in this and a checksum


def sealed(value: Any, *of: object) -> str:
    """``value`` as JSON, with its checksum. of: what stands beside it in its row, the name of the row first."""
    text = json.dumps(value)
    return f"{text}{_MARK}{_sum(text, of)}"


def unsealed(text: str, *of: object) -> Any:
    """The value that `sealed` was given. Raises ValueError where it, or what stands beside it, has changed since.

    A text without a checksum is taken as it is: an earlier version of fastrank has written it.
    """
    content, mark, found = text.rpartition(_MARK)
    if not mark:
        return json.loads(text)
    if found != _sum(content, of):
        raise ValueError(f"the row of {of[0]} is not as it was written: its checksum is another")
    return json.loads(content)


def _sum(text: str, of: tuple[object, ...]) -> str:
    return f"{zlib.crc32(repr((text, *of)).encode()):08x}"
