"""Every command that the extra `cli` is enough for, on files that the library writes: prints what each has left with.

Arguments: a scratch folder.
"""

import contextlib
import io
import json
import sys
from importlib.util import find_spec
from pathlib import Path

assert find_spec("numba")
sys.modules["numba"] = None  # its kernels would be compiled here, for half a minute

import torch  # noqa: E402

import fastrank  # noqa: E402
from fastrank.experiments.cli import main  # noqa: E402

folder = Path(sys.argv[1])
model = torch.nn.Sequential(torch.nn.Linear(8, 12), torch.nn.ReLU(), torch.nn.Linear(12, 3))
torch.save(model.state_dict(), folder / "model.pt")
optimizer = fastrank.SGD(model.parameters(), lr=0.1)
with fastrank.RankTracker(model, optimizer, directory=folder / "ranks"):
    for _ in range(3):
        model(torch.randn(4, 8)).sum().backward()
        optimizer.step()


def left(*words: str) -> list[str]:
    """What `fastrank words...` prints, and the message or status that it leaves with."""
    sys.argv = ["fastrank", *words]
    printed, errors = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(errors),
        contextlib.suppress(KeyboardInterrupt),
    ):
        try:
            main()
        except SystemExit as end:
            return [printed.getvalue(), errors.getvalue(), str(end.code)]
    return [printed.getvalue(), errors.getvalue(), "0"]


answers = {
    "analyze": left("analyze", str(folder / "model.pt"), "--csv"),
    "factorize": left("factorize", str(folder / "model.pt"), "--error", "0.5", "--csv"),
    "show": left("show", str(folder / "ranks")),
    "report": left("report", str(folder / "ranks")),
    "doctor": left("doctor"),
    "status": left("status", str(folder)),
    "compare": left("compare", str(folder), str(folder / "ranks")),
    "sweep": left("sweep", "digits", "--out", str(folder / "sweep"), "--plan"),
    "data": left("data", "prepare", str(folder)),
}
print(json.dumps(answers))
