"""How a sweep is run, as the command line says it, and which of that cannot be."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from ..errors import UsageError
from ..records import check_scheme
from ..sinks import check_sinks
from ..training import RUN
from .devices import check_device, kind

ENGINES = ("local", "ray")
STACK_LIMIT = {"cpu": 32, "cuda": 512}  # trials of a stack, unless the user says otherwise


@dataclass(frozen=True)
class Options:
    """How a sweep is run. Nothing here changes its results by more than rounding.

    Attributes:
        workers: slots; None for one a core, or as many as fit on the GPUs.
        device: ``auto``, ``cpu`` or ``cuda``.
        stack: most perceptrons that are trained as one program; None for 32 on a CPU and 512 on a GPU, 1 for none.
        engine: ``local`` or ``ray``.
        storage: URL of a folder for histories and checkpoints, as fsspec has it; None for the sweep's own.
        sinks: ``tensorboard``, ``wandb``, ``mlflow``.
        function: ``module:name`` of what runs a job, with the signature of `job.run`.
    """

    workers: int | None = None
    device: str = "auto"
    stack: int | None = None
    engine: str = "local"
    storage: str | None = None
    sinks: Sequence[str] = ()
    function: str = RUN


DEFAULT = Options()


def check_options(options: Options) -> None:
    """Raise UsageError for an engine, a device, a sink or a kind of storage that is not known, or not installed."""
    if options.engine not in ENGINES:
        raise UsageError(f"--engine: expected {' or '.join(ENGINES)}, not {options.engine!r}")
    if options.engine == "local":
        kind(options.device)
    elif find_spec("ray") is None:
        raise UsageError("--engine ray: Ray is not installed: pip install 'fastrank[ray]'")
    else:
        check_device(options.device)  # whether a cluster has a GPU, it will say itself
    check_sinks(options.sinks)
    check_scheme(options.storage)
