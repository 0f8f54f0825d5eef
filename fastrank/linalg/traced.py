"""Traced: functions of matrices that `torch.compile`, `torch.export` and `torch.func` take as operators.

Called as ever, a function runs at once. While it is traced, and inside `torch.func.vmap`, `grad` and so on, the
operator of its name is called instead (`operators`), which is imported only then.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import torch

_Function = TypeVar("_Function", bound=Callable[..., Any])


def traceable(function: _Function) -> _Function:
    """`function`, which has a counterpart of the same name and arguments in `operators`."""
    name = function.__name__

    @wraps(function)
    def either(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None:
            from . import operators

            return getattr(operators, name)(*args, **kwargs)
        return function(*args, **kwargs)

    return cast(_Function, either)
