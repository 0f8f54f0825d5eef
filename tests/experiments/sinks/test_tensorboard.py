"""What TensorBoard reads back from the event files."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from fastrank.experiments.sinks.tracker import settings
from fastrank.experiments.training.events import Crashed, EpochEnd

pytestmark = pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")


def read(folder: Path, trial: str) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder / "tensorboard" / trial)).Reload()


def points(run: Any, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in run.Scalars(tag)]


def hyperparameters(run: Any) -> Mapping[str, str | float]:
    from tensorboard.plugins.hparams import metadata

    content = run.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    found = metadata.parse_session_start_info_plugin_data(content).hparams
    return {key: value.string_value or value.number_value for key, value in found.items()}


def test_two_trials_one_of_them_in_two_sessions(
    trained: Any, session: Callable[..., None], printed: Callable[[], str]
) -> None:
    first, second = (trained.told[trial.id] for trial in trained.trials)
    ids = [trial.id for trial in trained.trials]
    session("tensorboard", {ids[0]: first[:2], ids[1]: second})
    session("tensorboard", {ids[0]: first[1:]})  # the second epoch once more

    assert f"tensorboard --logdir {trained.folder / 'tensorboard'}" in printed()
    assert {path.name for path in (trained.folder / "tensorboard").iterdir()} == set(ids)
    for trial in trained.trials:
        run, (*epochs, finished) = read(trained.folder, trial.id), trained.told[trial.id]
        for tag, field in {"rank/average": "average_rank", "accuracy/test": "test_accuracy"}.items():
            # TensorBoard keeps numbers in single precision.
            expected = [(event.epoch, pytest.approx(getattr(event, field), rel=2**-23)) for event in epochs]
            assert points(run, tag) == expected
        assert points(run, "accuracy/train") == [(3, pytest.approx(finished.result["train_accuracy"], rel=2**-23))]
        assert hyperparameters(run) == settings(trial)
        (image,) = run.Images("rank/by_matrix")
        assert image.encoded_image_string.startswith(b"\x89PNG")
        assert (image.step, image.width > image.height > 100) == (3, True)
        (status,) = run.Tensors("status/text_summary")
        assert list(status.tensor_proto.string_val) == [b"done"]


def test_a_trial_that_starts_over_has_only_what_it_writes_then(trained: Any, session: Callable[..., None]) -> None:
    trial = trained.trials[0].id
    again = EpochEnd(trial, 1, 8.0, 0.25, 0.5)
    session("tensorboard", {trial: [*trained.told[trial][:3], again]})
    assert points(read(trained.folder, trial), "accuracy/test") == [(1, 0.25)]


def test_a_session_that_hears_the_end_only_keeps_the_points(trained: Any, session: Callable[..., None]) -> None:
    trial = trained.trials[0].id
    *epochs, finished = trained.told[trial]
    session("tensorboard", {trial: epochs})
    session("tensorboard", {trial: [finished]})
    run = read(trained.folder, trial)
    assert [step for step, _ in points(run, "loss/train")] == [1, 2, 3]
    assert len(points(run, "seconds")) == 1


def test_a_resumed_trial_that_fails_before_an_epoch_keeps_what_came_before(
    trained: Any, session: Callable[..., None]
) -> None:
    trial = trained.trials[0].id
    first, *_ = trained.told[trial]
    session("tensorboard", {trial: trained.told[trial][:3]})
    session("tensorboard", {trial: [Crashed("cursed")]})
    session("tensorboard", {trial: [replace(first, epoch=4)]})
    assert [step for step, _ in points(read(trained.folder, trial), "loss/train")] == [1, 2, 3, 4]


def test_no_file_stays_open(
    trained: Any, session: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whoever trains a stack of hundreds has but a thousand files to open."""
    from fastrank.experiments.sinks.tensorboard import TensorBoard

    ids, held = [trial.id for trial in trained.trials], []

    def close(tracker: TensorBoard) -> None:
        paths = [path.resolve() for path in Path("/proc/self/fd").iterdir() if path.exists()]
        held.append([path for path in paths if "tfevents" in path.name])

    monkeypatch.setattr(TensorBoard, "close", close)
    session("tensorboard", {trial: [*trained.told[trial][:2], Crashed("cursed")] for trial in ids})
    assert held == [[]]
