"""A finished sweep's folder with planted numbers: what figures and reports are checked against."""

import hashlib
import itertools
import json
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fastrank.experiments.cli import main
from fastrank.experiments.records.layout import Layout
from fastrank.experiments.records.ledger import MAX_ATTEMPTS, Ledger, Status

EVERY = 30  # steps from one recorded step to the next
LAYERS = {"layers.0.weight": (100, 64), "layers.1.weight": (100, 100), "layers.2.weight": (100, 100)}
DATA = {"name": "digits", "digest": "0" * 64, "source": "planted", "classes": 10, "train": 1437, "test": 360}
META = {"commit": "0123abcd4567", "versions": {"fastrank": "0.1.0", "torch": "2.13.0"}}
GRID: dict[str, list[Any]] = {
    "batch_size": [8, 32],
    "lr": [0.5],
    "weight_decay": [0.0, 0.01],
    "momentum": [0.0],
    "seed": [0],
}


@dataclass(frozen=True)
class PlantedTrial:
    """A trial as a ledger has it; `steps` in all."""

    spec: dict[str, Any]

    def __getattr__(self, key: str) -> Any:
        try:
            return self.__dict__["spec"][key]
        except KeyError:
            raise AttributeError(key) from None

    @property
    def id(self) -> str:
        return hashlib.sha256(json.dumps(self.spec, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def steps(self) -> int:
        return int(self.spec["epochs"] * (DATA["train"] // self.spec["batch_size"]))  # type: ignore[operator]

    @property
    def recorded(self) -> list[int]:
        """Steps in the history: so many, and the last."""
        return [*range(EVERY, self.steps, EVERY), self.steps]


class Sweep:
    """A folder under construction: training on 1,437 digits, of which every 30th step and the last are recorded."""

    def __init__(
        self,
        folder: Path,
        tolerances: tuple[float, ...] = (1e-3,),
        layers: dict[str, tuple[int, int]] = LAYERS,
        model: dict[str, Any] | None = None,
        epochs: int = 12,
        milestones: tuple[int, ...] = (),
        name: str = "planted",
        **grid: list[Any],
    ) -> None:
        self.folder, self.layers = folder, layers
        self.suffixes = ["", *(f"@{value:g}" for value in tolerances[1:])]
        self.full_rank = float(np.mean([min(shape) for shape in layers.values()]))
        shared = {
            "epochs": epochs,
            "milestones": list(milestones),
            "gamma": 0.2,
            "model": model or {"name": "mlp_bn", "depth": 3, "width": 100},
            "data": {"name": "digits", "test_fraction": 0.2, "train_examples": None, "seed": 0, "augment": False},
            "tracking": {
                "tolerances": [{"value": value, "relative_to": "frobenius"} for value in tolerances],
                "every": EVERY,
                "select": "paper",
                "spectrum_every_epochs": 1,
            },
        }
        axes = GRID | grid
        points = [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]
        self.trials = [PlantedTrial(shared | point) for point in points]
        meta = {"config": {"name": name, **shared, "grid": axes}, "data": DATA, **META}
        folder.mkdir()
        self.ledger = Ledger.create(folder, meta, {trial.id: trial.spec for trial in self.trials})

    def finish_all(self, **results: Any) -> "Sweep":
        """Every trial is done, with its history."""
        for trial in self.trials:
            self.finish(trial, **results)
        return self

    def finish(self, trial: PlantedTrial, test_accuracy: float = 0.975, **more: Any) -> None:
        """The trial is done: its history, and the result that goes with it (`more` is laid over it)."""
        self.write_history(trial, self.history(trial))
        average = float(np.mean([self.rank(trial, min(shape), trial.steps) for shape in self.layers.values()]))
        result = {"steps": trial.steps, "average_rank": average, "full_rank": self.full_rank}
        result |= {"train_accuracy": 1.0, "test_accuracy": test_accuracy, "device": "cpu", "host": "planted"}
        result |= {"patches": dict.fromkeys(self.layers, 1)} | more
        self.ledger.start([trial.id])
        self.ledger.finish(trial.id, Status.DONE, result, seconds=61.5)

    def fail(self, trial: PlantedTrial, error: str) -> None:
        """The trial has crashed as often as it may."""
        for _ in range(MAX_ATTEMPTS):
            self.ledger.start([trial.id])
            self.ledger.crash([trial.id], error)

    def diverge(self, trial: PlantedTrial) -> None:
        """The trial's loss became non-finite."""
        self.ledger.start([trial.id])
        result = {"steps": 60, "average_rank": None, "full_rank": self.full_rank}
        result |= {"train_accuracy": None, "test_accuracy": None}
        self.ledger.finish(trial.id, Status.DIVERGED, result, seconds=2.0)

    @staticmethod
    def rank(trial: PlantedTrial, full: int, step: int, suffix: str = "") -> int:
        """The planted rank: it falls with training, the further the smaller the batch, the larger lr and the decay."""
        depth = 0.45 * (8 / trial.batch_size) ** 0.5 * (trial.lr / 0.5) ** 0.3 * trial.weight_decay / 0.01
        depth = min(depth * (1 - 0.1 * trial.seed), 0.9)
        fallen = depth * (1 - np.exp(-4 * step / trial.steps)) / (1 - np.exp(-4))
        return round(full * (1 - fallen)) - (10 if suffix else 0)

    def history(self, trial: PlantedTrial) -> pa.Table:
        """The history table, with spectra at the first and the last recorded step."""
        steps = trial.recorded
        columns: dict[str, list[Any]] = {key: [] for key in ("step", "name", "rows", "cols", "singular_values")}
        columns |= {f"rank_{side}{suffix}": [] for suffix in self.suffixes for side in ("lower", "upper")}
        for step in steps:
            for name, (rows, cols) in self.layers.items():
                rank = self.rank(trial, min(rows, cols), step)
                spectral = step in (steps[0], steps[-1])
                values = {"step": step, "name": name, "rows": rows, "cols": cols}
                values |= {"singular_values": spectrum(rank, min(rows, cols)) if spectral else None}
                for suffix in self.suffixes:
                    planted = self.rank(trial, min(rows, cols), step, suffix)
                    values |= {f"rank_lower{suffix}": planted, f"rank_upper{suffix}": planted}
                for key, column in columns.items():
                    column.append(values[key])
        table = pa.table(columns)
        ones = pa.array(np.ones(len(table)))
        for key in ("frobenius_norm", "spectral_norm", "stable_rank"):
            table = table.append_column(key, ones)
        return table.append_column("status", pa.array(["OK"] * len(table)))

    def write_history(self, trial: PlantedTrial, table: pa.Table) -> None:
        """Replace the trial's history by `table`, in two parts."""
        folder = Layout(self.folder).history(trial.id)
        folder.mkdir(parents=True, exist_ok=True)
        half = len(table) // 2
        for number, part in enumerate((table.slice(0, half), table.slice(half))):
            types = {"name": pa.dictionary(pa.int32(), pa.string()), "status": pa.dictionary(pa.int32(), pa.string())}
            ranks = {key: pa.int32() for key in part.column_names if key.startswith("rank_") or key in ("rows", "cols")}
            schema = pa.schema([(field.name, (types | ranks).get(field.name, field.type)) for field in part.schema])
            pq.write_table(part.cast(schema), folder / f"part-{number:05d}.parquet")


def spectrum(rank: int, full: int) -> list[float]:
    """Singular values of which `rank` lie above 1e-3, for a matrix of Frobenius norm 1."""
    return [*np.geomspace(0.3, 2e-3, rank), *np.geomspace(1e-5, 1e-6, full - rank)]


@pytest.fixture(scope="session")
def make_sweep(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Sweep]:
    """`make_sweep(tolerances=(1e-3,), batch_size=[...], ...)`: a sweep with every trial pending."""

    def make(**kwargs: Any) -> Sweep:
        return Sweep(tmp_path_factory.mktemp("made") / "sweep", **kwargs)

    return make


@pytest.fixture
def config_file(tmp_path: Path) -> Callable[..., Path]:
    """`config_file(content, *changes)`: a TOML file of `content`, each change (a line of TOML) laid over it."""

    def write(content: dict[str, Any], *changes: str) -> Path:
        for change in changes:
            content = _laid_over(content, tomllib.loads(change))
        path = tmp_path / "config.toml"
        path.write_text("\n".join(f"{key} = {_toml(value)}" for key, value in content.items()))
        return path

    return write


def _laid_over(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = {key: _laid_over(under.get(key, {}), v) if isinstance(v, dict) else v for key, v in over.items()}
    return under | merged


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value) if isinstance(value, str | bool) else repr(value)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """`run(*arguments)`: the exit status of `fastrank arguments...` and a message it may leave with."""

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["fastrank", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        code = caught.value.code
        return (code, "") if isinstance(code, int) else (1 if code else 0, str(code or ""))

    return call
