"""Checkpoints: written whole or not at all, and used only if they are to the bit what was written.

A file is what ``torch.save`` writes, followed by the SHA-256 of that as a seal. PyTorch does not verify the checksums
of its own format, so a flipped bit would otherwise become a wrong number.
"""

import hashlib
import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ..files import write_atomically
from .events import Warned

_SEAL = hashlib.sha256().digest_size


class CheckpointError(Exception):
    """A checkpoint cannot be used. The message names the file and says why."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint at ``path``. Raises OSError with the earlier one intact."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    write_atomically(path, content + hashlib.sha256(content).digest())


def keep_checkpoint(path: Path, state: dict[str, Any]) -> Iterator[Warned]:
    """Replace the checkpoint at ``path``; yields `Warned` where that fails, because training goes on without it."""
    try:
        save_checkpoint(path, state)
    except OSError as error:
        yield Warned(f"{path}: cannot be written: {error.strerror}. Training goes on")


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint. Raises CheckpointError where it is not, to the bit, what was saved."""
    try:
        sealed = path.read_bytes()
        content, seal = sealed[:-_SEAL], sealed[-_SEAL:]
        if hashlib.sha256(content).digest() != seal:
            raise CheckpointError(f"{path}: the checkpoint is damaged ({len(sealed)} bytes)")
        state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path}: the checkpoint cannot be read: {error}") from error
    return state
