"""Sinks send a sweep's numbers, while it runs, to where people watch their trainings: TensorBoard, W&B, MLflow.

`open_sinks` opens those that the user named (``--log``), and the driver tells each `Sink` what happens. A sink that
fails is left out, and the sweep goes on.
"""

from .sink import Sink, check_sinks, open_sinks

__all__ = [
    "Sink",
    "check_sinks",
    "open_sinks",
]
