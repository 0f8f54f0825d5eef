"""The settings that a sweep may vary: in which order they are shown, and how they are written."""

from typing import Any, Protocol

AXES = ("batch_size", "lr", "weight_decay", "momentum")  # the order of importance; seeds are averaged over
WORDS = {"batch_size": "batch size", "lr": "learning rate", "weight_decay": "weight decay", "momentum": "momentum"}
SHORT = {"batch_size": "B", "lr": "lr", "weight_decay": "wd", "momentum": "momentum"}


class Settings(Protocol):
    """A value for every axis: a mapping, or a row of a table."""

    def __getitem__(self, axis: str, /) -> Any: ...


def number(value: float) -> str:
    """A setting as people write it: 8, 0.5, 0.005, 1e-05."""
    return f"{value:g}"


def said(settings: Settings, *axes: str, short: bool = False) -> str:
    """These axes of `settings` in words: "batch size 8, weight decay 0.005", or "B 8, wd 0.005"."""
    names = SHORT if short else WORDS
    return ", ".join(f"{names[axis]} {number(settings[axis])}" for axis in axes)


def enumeration(parts: list[str]) -> str:
    """Join the parts as a sentence does: "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
