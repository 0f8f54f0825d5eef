"""The result of a trial as the ledger keeps it, made in the same way for a trial alone and for one in a stack."""

import hashlib
import socket
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..records import Status
from ..trial import Trial
from .events import Finished


def finish(
    trial: Trial,
    parameters: Mapping[str, Tensor],
    *,
    average_rank: float | None,
    train_accuracy: float | None,
    test_accuracies: list[float],
    steps: int,
    seconds: float,
    full_rank: float,
    patches: dict[str, int],
    device: torch.device,
    stacked: int = 1,
    diverged: bool = False,
) -> Finished:
    """Make the last event of a trial, with its result.

    The trial counts as ``diverged`` if the caller says so, or if ``average_rank`` is None: parameters that are not
    finite have no rank. The result of a diverged trial is without average rank and train accuracy at the end, but has
    the test accuracies of the epochs until then.
    """
    done = not diverged and average_rank is not None
    result = {
        "steps": steps,
        "average_rank": average_rank if done else None,
        "full_rank": full_rank,
        "train_accuracy": train_accuracy if done else None,
        "test_accuracy": test_accuracies[-1] if test_accuracies else None,
        "test_accuracies": test_accuracies,
        "patches": patches,
        "host": socket.gethostname(),
        "device": str(device),
        "stacked": stacked,
        "digest": digest(parameters),
    }
    return Finished(trial.id, Status.DONE if done else Status.DIVERGED, result, seconds)


def digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of parameters and buffers: equal for two runs exactly when they ended in the same bits."""
    sha = hashlib.sha256()
    for value in state.values():
        sha.update(value.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()


def middle_rank(rows: list[dict[str, Any]]) -> float | None:
    """Mean rank over the rows of one step, at the first tolerance. Where bounds differ, their middle is taken.

    None where a matrix is not finite: a mean over the others would be another quantity.
    """
    if not rows or any(row["rank_lower"] is None for row in rows):
        return None
    total: int = sum(row["rank_lower"] + row["rank_upper"] for row in rows)
    return total / (2 * len(rows))
