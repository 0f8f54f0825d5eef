"""Opening the sinks that the user has named."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from rich.console import Console

from fastrank.sinks import reason

from ..errors import UserError
from ..training import Event
from ..trial import Trial
from .relay import Relay
from .tracker import SinkError, Sweep, Tracker, read_sweep

__all__ = ["TITLES", "Sink", "SinkError", "check_sinks", "open_sinks"]

TITLES = {"tensorboard": "TensorBoard", "wandb": "Weights & Biases", "mlflow": "MLflow"}


class Sink(Protocol):
    """Is told of every event of a trial, as the driver is. Nothing that goes wrong in a sink stops the sweep."""

    def record(self, trial: Trial, event: Event) -> None:
        """Something has happened to a trial."""

    def close(self) -> None:
        """This session of the sweep is over."""


def check_sinks(names: Sequence[str]) -> None:
    """Raise SinkError for a name that is not known, and for one whose package is not installed. Nothing is imported."""
    for name in names:
        _check_name(name)
        if find_spec(name) is None:
            raise _needs(name, name)


def _check_name(name: str) -> None:
    if name not in TITLES:
        raise SinkError(f"--log {name}: expected one of {', '.join(TITLES)}")


def _needs(name: str, package: str) -> SinkError:
    return SinkError(f"--log {name}: needs {package}, which is not installed: pip install 'fastrank[{name}]'")


@contextmanager
def open_sinks(names: Sequence[str], folder: Path, console: Console) -> Iterator[list[Sink]]:
    """Open the sinks of these names; they are closed at the end of the context.

    Args:
        names: keys of `TITLES`; each is opened once.
        folder: the sweep's folder, with its ledger.
        console: where it is said that a sink fails; it is then left out, and the sweep goes on.

    Raises SinkError for a name that is not known, a package that is not installed, or a key that is not there.
    """

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    with ExitStack() as stack:
        sinks: list[Sink] = []
        for name in dict.fromkeys(names):
            tracker = _open(name, folder, say)
            if tracker is not None:
                sinks.append(Relay(TITLES[name], tracker, folder, say))
                stack.callback(sinks[-1].close)
        yield sinks


def _open(name: str, folder: Path, say: Callable[[str], None]) -> Tracker | None:
    _check_name(name)
    try:
        return _maker(name)(read_sweep(folder), say)
    except ModuleNotFoundError as missing:
        raise _needs(name, (missing.name or "").partition(".")[0]) from None
    except UserError:
        raise
    except Exception as error:  # whatever the tracker's package has against this machine
        say(f"{TITLES[name]} is left out: {reason(error)}")
        return None


def _maker(name: str) -> Callable[[Sweep, Callable[[str], None]], Tracker]:
    """The class of the tracker with this name.

    It is imported only now, because that takes a second or more, and the tracker's package.
    """
    match name:
        case "tensorboard":
            from .tensorboard import TensorBoard

            return TensorBoard
        case "wandb":
            from .wandb import WeightsAndBiases

            return WeightsAndBiases
        case _:
            from .mlflow import MLflow

            return MLflow
