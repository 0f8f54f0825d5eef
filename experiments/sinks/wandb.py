"""Weights & Biases: a run for each trial, all runs of a sweep in one group. A run is open while its trial trains."""

import io
import os
from collections.abc import Callable, Mapping
from typing import Any

import wandb
from PIL import Image

from fastrank import sinks

from ..trial import Trial
from .tracker import HEAT_MAP, Outcome, SinkError, Sweep, settings

PROJECT = "fastrank"  # unless WANDB_PROJECT names another
INIT, UPLOAD = 30.0, 60.0  # seconds that a run's begin and end may take; what is not sent stays for `wandb sync`

SETTINGS: dict[str, Any] = {
    "console": "off",  # it would catch what the sweep prints
    "silent": True,  # its lines, for each run, would tear the live table
    "x_disable_stats": True,  # of this process, which does not train
    "disable_git": True,  # it would be read again for each run, and the ledger has the commit
    "init_timeout": float(os.environ.get("WANDB_INIT_TIMEOUT", INIT)),
    "finish_timeout": UPLOAD,
}


class WeightsAndBiases:
    """A tracker that leaves project, entity, mode and key to the user's environment.

    Raises SinkError where it would have to ask for a key.
    """

    def __init__(self, sweep: Sweep, say: Callable[[str], None]) -> None:
        wandb.setup(settings=wandb.Settings(silent=True))
        if not sinks.WeightsAndBiases.has_key():
            raise SinkError("--log wandb: there is no API key: run 'wandb login' once, or set WANDB_MODE=offline")
        self._sweep, self._say, self._announced = sweep, say, False
        self._runs: dict[str, Any] = {}

    def epoch(self, trial: Trial, epoch: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve, unless the run has this epoch: a second point would be refused, with a warning."""
        run = self._run(trial)
        if epoch >= run.step:
            run.log(dict(values), step=epoch)

    def end(self, trial: Trial, outcome: Outcome) -> None:
        """Put numbers and status into the run's summary and the heat map at its last epoch, and end the run."""
        run = self._run(trial)
        if outcome.heat_map is not None:
            run.log({HEAT_MAP: wandb.Image(Image.open(io.BytesIO(outcome.heat_map)))}, step=run.step)
        run.summary.update({**outcome.values, "status": outcome.status})
        run.finish(exit_code=int(outcome.status == "failed"))
        del self._runs[trial.id]

    def close(self) -> None:
        """Mark open runs as failed, until a later session goes on with them."""
        while self._runs:
            self._runs.popitem()[1].finish(exit_code=1)

    def _run(self, trial: Trial) -> Any:
        if trial.id not in self._runs:
            self._runs[trial.id] = wandb.init(
                id=f"{trial.id}-{self._sweep.key}",
                name=trial.id,
                group=self._sweep.name,
                project=os.environ.get("WANDB_PROJECT") or PROJECT,
                dir=os.environ.get("WANDB_DIR") or str(self._sweep.folder),
                config=settings(trial),
                allow_val_change=True,
                resume="allow",
                reinit="create_new",
                settings=wandb.Settings(**SETTINGS),
            )
            self._announce(self._runs[trial.id])
        return self._runs[trial.id]

    def _announce(self, run: Any) -> None:
        if not self._announced and not run.disabled:
            place = "offline, to be sent by 'wandb sync'" if run.offline else run.project_url
            self._say(f"Weights & Biases: group {self._sweep.name}, {place}")
            self._announced = True
