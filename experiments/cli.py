"""The command line: ``fastrank sweep | status | report | compare | show | analyze | factorize | data | doctor``.

The commands are in `commands`. Here is what they leave behind: an exit status, and a line for what the user can mend.
"""

import os
import signal
import sys
from types import FrameType

_EXTRA = {
    "PIL",
    "datasets",
    "fsspec",
    "matplotlib",
    "pandas",
    "pyarrow",
    "pydantic",
    "rich",
    "safetensors",
    "sklearn",
    "typer",
}
_INTERRUPTED = 130


def _remedy(package: str | None) -> str:
    """What to say where a package of an extra is missing: which extra brings it, for the command that was given."""
    extra = "experiments" if sys.argv[1:2] in (["sweep"], ["data"]) else "cli"
    return f"fastrank: this command needs {package}, which is not installed: pip install 'fastrank[{extra}]'"


try:
    import typer

    from .commands import app
except ModuleNotFoundError as missing:
    if sys.argv[1:] == ["doctor"]:  # whoever has the library alone can say what he has: this takes no extra
        from .doctor import describe

        print(*describe(), sep="\n")
        sys.exit()
    sys.exit(_remedy(missing.name))
except KeyboardInterrupt:
    sys.exit(_INTERRUPTED)

__all__ = ["app", "main"]


def main() -> None:
    """Entry point of the ``fastrank`` command. What the user can mend is said in a line, without a traceback."""
    earlier = signal.signal(signal.SIGINT, _interrupt)
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRA:
            raise
        sys.exit(_remedy(package))
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        sys.exit(f"fastrank: {place}{error.strerror or error}")
    except Exception as error:
        status = _exit_status(error)
        if status is None:
            raise
        from fastrank.plotting import printable

        said = f"fastrank: {error}" if str(error) else f"fastrank: {type(error).__name__}"
        typer.echo("\n".join(map(printable, said.split("\n"))), err=True)
        sys.exit(status)
    finally:
        signal.signal(signal.SIGINT, earlier)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt on Ctrl-C; in the middle of an import, end the process instead.

    Packages catch the exception there, and go on without a part of themselves or raise another.
    """
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            os._exit(_INTERRUPTED)
        frame = frame.f_back
    raise KeyboardInterrupt


def _exit_status(error: Exception) -> int | None:
    """The exit status of an error that is the user's to mend; None for any other, which is a defect of ours."""
    import torch

    from fastrank import AnalyzeError, HistoryError

    from .errors import UserError

    match error:
        case UserError():
            return error.exit_status
        case AnalyzeError() | HistoryError() | MemoryError() | torch.OutOfMemoryError():
            return 1
        case RuntimeError() if "can't allocate memory" in str(error):  # of the host, as PyTorch says it
            return 1
    return None


if __name__ == "__main__":
    main()
