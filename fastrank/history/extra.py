"""What is said where the packages that tables and files of rows take are not installed."""

from __future__ import annotations

from importlib import import_module


def check_installed(purpose: str, package: str = "pyarrow") -> None:
    """Raise a `ModuleNotFoundError` that names the extra `history`, where a package is missing."""
    try:
        import_module(package)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{purpose} needs {package}, which is not installed: pip install 'fastrank[history]'", name=package
        ) from error
