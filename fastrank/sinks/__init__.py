"""Sinks: where the numbers of a training are watched, usable from any loop.

    sink = fastrank.sinks.TensorBoard("runs/ranks")
    sink.log(step, {"rank/mean": 0.6})
    sink.close()

A sink that is used like this raises where it cannot send. `Relay` stands between a loop and a sink where neither an
error nor a slow network may disturb the loop. The package of a sink is imported when the sink is made.
"""

from .background import Background, reason
from .mlflow import MLflow
from .open_sink import Function, open_sink
from .relay import Relay, Sink, SinkWarning
from .tensorboard import TensorBoard, Writer
from .trackio import Trackio
from .wandb import WeightsAndBiases

__all__ = [
    "Background",
    "Function",
    "MLflow",
    "Relay",
    "Sink",
    "SinkWarning",
    "TensorBoard",
    "Trackio",
    "WeightsAndBiases",
    "Writer",
    "open_sink",
    "reason",
]
