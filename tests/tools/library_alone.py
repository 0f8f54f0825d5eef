"""What `pip install fastrank` brings, with torch and numpy only: run in such an environment, prints JSON.

Arguments: a scratch folder, and the commands of the command line.
"""

import contextlib
import importlib
import importlib.metadata
import importlib.resources
import io
import json
import sys
from importlib.util import find_spec
from pathlib import Path

import torch

import fastrank

folder, commands = Path(sys.argv[1]), sys.argv[2:]
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.ReLU(), torch.nn.Linear(30, 4))
optimizer = fastrank.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-3)
tracker = fastrank.RankTracker(model, optimizer, spectrum=["singular_values"])
for _ in range(3):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(torch.randn(16, 20)), torch.randint(4, (16,))).backward()
    optimizer.step()
sigma = torch.linalg.svdvals(model[0].weight.detach().double())

planted = torch.randn(6, 12, 3, dtype=torch.float64) @ torch.randn(6, 3, 9, dtype=torch.float64)
bounds = fastrank.linalg.rank_bounds(planted)


def refused(call) -> str:
    try:
        call()
    except ImportError as error:
        return str(error)
    return "was not refused"


def said(*words: str) -> tuple[str, str]:
    """What `fastrank words...` prints, and what it leaves with."""
    sys.argv = ["fastrank", *words]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            sys.modules.pop("fastrank.experiments.cli", None)
            importlib.import_module("fastrank.experiments.cli").main()
        except SystemExit as left:
            return printed.getvalue(), str(left.code)
    return printed.getvalue(), ""


files = importlib.resources.files("fastrank")
answers = {
    "file": fastrank.__file__,
    "versions": [fastrank.__version__, importlib.metadata.version("fastrank")],
    "stray": [name for name in ("kernels", "experiments", "bench", "tests", "tools") if find_spec(name)],
    "extras": [name for name in ("pandas", "pyarrow", "numba", "matplotlib", "typer", "rich") if find_spec(name)],
    "typed": files.joinpath("py.typed").is_file(),
    "latest": tracker.latest()["0.weight"],
    "expected": {"rank": int((sigma > 1e-3 * sigma.norm()).sum()), "sigma": sigma.tolist()},
    "scalars": tracker.scalars(),
    "repr": repr(tracker),
    "planted": [bounds.lower.tolist(), bounds.upper.tolist()],
    "svd": fastrank.linalg.svd_lowrank(planted, 3).S.shape[-1],
    "refused": {
        "to_arrow": refused(tracker.to_arrow),
        "to_pandas": refused(tracker.to_pandas),
        "write_parquet": refused(lambda: tracker.write_parquet(folder / "history.parquet")),
        "directory": refused(lambda: fastrank.RankTracker(model, optimizer, directory=folder / "ranks")),
        "read_history": refused(lambda: fastrank.read_history(__file__)),
        "analyze": refused(lambda: fastrank.analyze(model)),
        "plot": refused(tracker.plot),
    },
    "commands": {command: said(*command.split()) for command in commands},
}
print(json.dumps(answers))
