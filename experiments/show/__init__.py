"""A history in the terminal: `show` draws it as it is, or again and again as it grows."""

from .show import ShowError, show

__all__ = ["ShowError", "show"]
