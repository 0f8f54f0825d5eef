"""Out of PyTorch's inference mode, in which a training may call the tracker."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


def outside_inference(function: Callable[P, T]) -> Callable[P, T]:
    """Decorates what makes or changes tensors that are kept: those made in inference mode cannot be changed outside it.

    PyTorch's own decorator would enter another mode at each call, which takes longer than to see that none is on.
    """

    @wraps(function)
    def outside(*args: P.args, **kwargs: P.kwargs) -> T:
        if not torch.is_inference_mode_enabled():
            return function(*args, **kwargs)
        with torch.inference_mode(False):
            return function(*args, **kwargs)

    return outside
