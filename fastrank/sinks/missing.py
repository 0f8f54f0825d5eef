"""What is said where a tracker's package is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Have a `ModuleNotFoundError` in this block name the extra of fastrank that has what is missing."""
    try:
        yield
    except ModuleNotFoundError as missing:
        package = (missing.name or extra).partition(".")[0]
        raise ModuleNotFoundError(
            f"sink {extra!r}: needs {package}, which is not installed: pip install 'fastrank[{extra}]'", name=package
        ) from missing
