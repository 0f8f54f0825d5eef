"""Traced: functions of matrices that `torch.compile`, `torch.export` and `torch.func` take as operators.

Called as ever, a function runs at once. While it is traced, and inside `torch.func.vmap`, `grad` and so on, the operator
of its name is called instead (`operators`), which is imported only then.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

_P, _R = ParamSpec("_P"), TypeVar("_R")


def traceable(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """`function`, which has a counterpart of the same name and arguments in `operators`."""
    name = function.__name__

    @wraps(function)
    def either(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None:
            from . import operators

            answer: _R = getattr(operators, name)(*args, **kwargs)
            return answer
        return function(*args, **kwargs)

    return either
