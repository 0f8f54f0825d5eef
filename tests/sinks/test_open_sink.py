"""What users name or have at hand becomes a sink, or an error that says what is expected."""

import sys
from collections.abc import Mapping
from typing import Any

import pytest

from fastrank.sinks import Relay, Sink, TensorBoard, Writer, open_sink


class Notes:
    def __init__(self) -> None:
        self.told: list[Any] = []

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.told.append((step, values))

    def close(self) -> None:
        pass


def test_a_sink_is_itself() -> None:
    notes = Notes()
    assert isinstance(notes, Sink)
    assert open_sink(notes) is notes


def test_a_function_is_called() -> None:
    told: list[Any] = []

    def tell(step: int, values: Mapping[str, float]) -> None:
        told.append((step, values))

    relay = Relay(open_sink(tell))
    relay.log(3, {"a": 1.0})
    relay.close()
    assert told == [(3, {"a": 1.0})]


def test_what_has_add_scalar_is_a_writer_which_is_left_open() -> None:
    class Like:
        def __init__(self) -> None:
            self.scalars: list[Any] = []
            self.flushed = self.closed = False

        def add_scalar(self, tag: str, value: float, step: int) -> None:
            self.scalars.append((tag, value, step))

        def flush(self) -> None:
            self.flushed = True

        def close(self) -> None:
            self.closed = True

    writer = Like()
    sink = open_sink(writer)
    assert isinstance(sink, Writer)
    sink.log(7, {"a": 1.0, "b": 2.0})
    sink.close()
    assert writer.scalars == [("a", 1.0, 7), ("b", 2.0, 7)]
    assert (writer.flushed, writer.closed) == (True, False)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("comet", ValueError, r"sink 'comet': expected one of 'tensorboard', 'wandb', 'mlflow', 'trackio', or a sink"),
        (TensorBoard, TypeError, r"expected a sink, not its class: TensorBoard\(\.\.\.\)"),
        (3, TypeError, r"or a function f\(step, values\), not 3"),
        (None, TypeError, "not None"),
    ],
)
def test_what_is_no_sink_is_an_error(spec: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        open_sink(spec)


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow", "trackio"])
def test_a_package_that_is_not_installed_is_named_with_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [m for m in sys.modules if f"{m}.".startswith((f"{name}.", "torch.utils.tensorboard."))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"needs {name}, which is not installed: pip install 'fastrank\[{name}\]'"):
        open_sink(name)
