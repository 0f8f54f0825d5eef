"""From what a user names or has at hand to a sink."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .mlflow import MLflow
from .relay import Sink
from .tensorboard import TensorBoard, Writer
from .trackio import Trackio
from .wandb import WeightsAndBiases

BY_NAME: dict[str, Callable[[], Sink]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
    "trackio": Trackio,
}


class Function:
    """A sink that calls `function(step, values)`."""

    def __init__(self, function: Callable[[int, Mapping[str, float]], object]) -> None:
        self._function = function
        self.title = getattr(function, "__qualname__", type(function).__name__)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Call the function."""
        self._function(step, values)

    def close(self) -> None:
        """Nothing is open."""


def open_sink(spec: Any) -> Sink:
    """The sink that `spec` stands for.

    Args:
        spec: `"tensorboard"`, `"wandb"`, `"mlflow"` or `"trackio"`; a sink: any object with `log(step, values)` and
            `close()`; a `torch.utils.tensorboard.SummaryWriter`; a run of W&B or of trackio; or a function
            `f(step, values)`.

    Raises:
        ValueError: a name that is not known. TypeError: none of these.
        ImportError: the package of a named sink is not installed.
    """
    if isinstance(spec, str):
        if spec not in BY_NAME:
            raise ValueError(f"sink {spec!r}: expected one of {', '.join(map(repr, BY_NAME))}, or a sink")
        return BY_NAME[spec]()
    if isinstance(spec, type):
        raise TypeError(f"sink {spec.__name__}: expected a sink, not its class: {spec.__name__}(...)")
    if isinstance(spec, Sink):
        return spec
    if hasattr(spec, "add_scalar"):
        return Writer(spec)
    if hasattr(spec, "log") and hasattr(spec, "id"):
        return WeightsAndBiases(spec) if hasattr(spec, "define_metric") else Trackio(spec)
    if callable(spec):
        return Function(spec)
    raise TypeError(
        f"sink: expected a name, a sink with log(step, values) and close(), a SummaryWriter, a run of W&B or trackio, "
        f"or a function f(step, values), not {spec!r}"
    )
