"""Checks of the options that networks are made with, and the error for one that cannot be."""

from ..errors import UserError

Shape = tuple[int, int, int]
"""Channels, height and width of one image."""


class NetworkError(UserError, ValueError):
    """A network that cannot be built as asked. The message starts with the name of the option."""


def at_least(minimum: int, **options: int) -> None:
    """Raise NetworkError for the first option that is no integer of at least ``minimum``."""
    for name, value in options.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise NetworkError(f"{name}: must be an integer of at least {minimum}, not {value!r}")


def side_at_least(minimum: int, network: str, shape: Shape, why: str) -> None:
    """Raise NetworkError where an image has a side shorter than ``minimum`` pixels."""
    height, width = shape[1:]
    if min(height, width) < minimum:
        raise NetworkError(
            f"name: {network} needs images of at least {minimum} x {minimum} pixels, not {height} x {width}: {why}; "
            "use larger images or another network"
        )
