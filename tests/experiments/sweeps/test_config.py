"""Configurations: what is refused, by which words, and what a trial's id depends on."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastrank.experiments.sweeps.config import ConfigError, SweepConfig, differences, load_config
from fastrank.experiments.trial import Trial

ConfigFile = Callable[..., Path]

GOOD: dict[str, Any] = {
    "name": "small",
    "epochs": 2,
    "model": {"name": "mlp_bn", "depth": 2, "width": 20},
    "data": {"name": "digits"},
    "grid": {"batch_size": [8, 16], "lr": [0.5], "weight_decay": [0.0, 0.01]},
}

MAIN = Path(__file__).parents[3] / "experiments" / "configs" / "digits.toml"

BAD = {
    "unknown key": ("epoch = 5", "epoch: unknown key; did you mean 'epochs'?"),
    "unknown nested key": ("model.widht = 5", "model.widht: unknown key; did you mean 'width'?"),
    "unknown far key": ("grid.zzz = [1]", "grid.zzz: unknown key"),
    "wrong type": ("epochs = 'ten'", "epochs: must be an integer (got 'ten')"),
    "float for int": ("epochs = 2.0", "epochs: must be an integer (got 2.0)"),
    "bool for float": ("grid.lr = [true]", "grid.lr[0]: must be a number (got True)"),
    "scalar for list": ("grid.lr = 0.5", "grid.lr: must be a list (got 0.5)"),
    "list for table": ("model = [1]", "model: must be a table (got [1])"),
    "empty axis": ("grid.batch_size = []", "grid.batch_size: must not be empty"),
    "empty name": ("name = ''", "name: must not be empty"),
    "duplicate": ("grid.batch_size = [8, 16, 8]", "grid.batch_size: 8 is there twice"),
    "duplicate as float": ("grid.weight_decay = [0, 0.0]", "grid.weight_decay: 0.0 is there twice"),
    "negative lr": ("grid.lr = [0.5, -0.1]", "grid.lr[1]: must be greater than 0 (got -0.1)"),
    "infinite lr": ("grid.lr = [inf]", "grid.lr[0]: must be a finite number (got inf)"),
    "nan decay": ("grid.weight_decay = [nan]", "grid.weight_decay[0]: must be a finite number (got nan)"),
    "momentum 1": ("grid.momentum = [1.0]", "grid.momentum[0]: must be less than 1 (got 1.0)"),
    "batch of one": ("grid.batch_size = [1]", "grid.batch_size[0]: must be greater than or equal to 2 (got 1)"),
    "batch too large": ("grid.batch_size = [8, 1438]", "grid.batch_size[1]: 1438 is more than the 1437 training"),
    "no epochs": ("epochs = 0", "epochs: must be greater than or equal to 1 (got 0)"),
    "unknown data": ("data.name = 'digit'", "data.name: the data set 'digit' is not prepared"),
    "unknown model": ("model.name = 'cnn'", "model.name: unknown name 'cnn'; known: mlp_bn, mlp, convnet, resnet18"),
    "too few examples": ("data.train_examples = 5", "data.train_examples: 5 is fewer than the 10 classes"),
    "too many test examples": ("data.test_examples = 500", "data.test_examples: 500 is more than the 360 test"),
    "tiny test part": ("data.test_fraction = 0.001", "data.test_fraction: 0.001 leaves 1795 training and 2 test"),
    "falling milestones": ("milestones = [3, 2]", "milestones: must be increasing (got [3, 2])"),
    "last step": (
        "tracking = { every = 89, spectrum_every_epochs = 0 }",
        "tracking.every: 89 does not divide the 358 steps of batch size 8, so the last would not be recorded",
    ),
    "huge network": ("model.width = 4000000000", "model.width: must be less than or equal to 100000 (got 4000000000)"),
    "spectrum": ("tracking.spectrum_every_epochs = 3", "tracking.spectrum_every_epochs: 3 does not divide the 2"),
    "tolerance": ("tracking.tolerances = [{value = 0}]", "tracking.tolerances[0].value: must be greater than 0"),
    "selection": ("tracking.select = 'some'", "tracking.select: must be 'paper' or 'all' (got 'some')"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_key_is_named_in_one_line(config_file: ConfigFile, change: str, message: str) -> None:
    path = config_file(GOOD, change)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert caught.value.exit_status == 2
    (line,) = caught.value.problems
    assert line.startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"depth": 3}, "model.name: is missing"),
        ({"name": "resnet18", "depth": 3}, "model.depth: unknown key"),
        ({"name": "convnet", "width": 8}, "model.depth: is missing"),
        ({"name": "vit", "patch": 3}, "model.patch: "),
        ({"name": "vgg16_bn"}, "model.name: vgg16_bn needs images of at least"),
    ],
)
def test_a_network_that_cannot_be_is_named(config_file: ConfigFile, model: dict[str, Any], message: str) -> None:
    path = config_file({**GOOD, "model": model})
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    (line,) = caught.value.problems
    assert line.startswith(f"{path}: {message}")


def test_every_problem_has_its_line(config_file: ConfigFile) -> None:
    path = config_file({**GOOD, "grid": {"batch_size": [0], "lr": []}}, "extra = 1")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    keys = {line.removeprefix(f"{path}: ").split(":")[0] for line in caught.value.problems}
    assert keys == {"grid.batch_size[0]", "grid.lr", "grid.weight_decay", "extra"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name = ", "is not valid TOML"),
        (b"epochs = " + b"9" * 5000, "is not valid TOML"),
        (b"name = '\xff'", "is not UTF-8 text"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "c.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


def test_the_main_job() -> None:
    trials = load_config(MAIN).trials()
    assert [(t.batch_size, t.weight_decay) for t in trials] == [
        (size, decay) for size in (8, 16, 32, 64) for decay in (0.0, 5e-3, 1e-2)
    ]
    assert {(t.epochs, t.lr, t.momentum, t.seed, t.model.depth, t.model.width) for t in trials} == {
        (60, 0.5, 0.0, 0, 5, 100)
    }
    assert [t.steps for t in trials[::3]] == [60 * (1437 // size) for size in (8, 16, 32, 64)]
    assert trials[2].spec == {
        "model": {"name": "mlp_bn", "depth": 5, "width": 100},
        "data": {
            **{"name": "digits", "test_fraction": 0.2, "train_examples": None, "test_examples": None},
            **{"seed": 0, "augment": False},
        },
        **{"batch_size": 8, "lr": 0.5, "weight_decay": 0.01, "momentum": 0.0, "seed": 0},
        **{"epochs": 60, "milestones": [30, 45], "gamma": 0.2},
        "tracking": {
            "tolerances": [{"value": 1e-3, "relative_to": "frobenius"}],
            **{"every": 1, "select": "paper", "spectrum_every_epochs": 1},
        },
    }


def test_an_id_depends_on_the_meaning_not_the_spelling() -> None:
    plain = SweepConfig.model_validate(GOOD).trials()[0]
    spelled = copy.deepcopy(GOOD)
    spelled["grid"] = {"weight_decay": [-0.0], "lr": [0.5], "batch_size": [8], "momentum": [0]}
    spelled["tracking"] = {"every": 1, "tolerances": [{"relative_to": "frobenius"}]}
    assert SweepConfig.model_validate(spelled).trials()[0].id == plain.id
    assert Trial.model_validate(dict(reversed(plain.spec.items()))).id == plain.id
    assert len(plain.id) == 12
    assert int(plain.id, 16) >= 0


def test_an_id_depends_on_every_key() -> None:
    plain = SweepConfig.model_validate(GOOD).trials()[0]
    changes: list[dict[str, Any]] = [
        {"batch_size": 9},
        {"lr": 1},
        {"weight_decay": 1e-9},
        {"momentum": 0.5},
        {"seed": 1},
        {"epochs": 3},
        {"milestones": [1]},
        {"gamma": 0.1},
        {"model": {**plain.spec["model"], "depth": 3}},
        {"data": {**plain.spec["data"], "seed": 1}},
        {"tracking": {**plain.spec["tracking"], "every": 2}},
    ]
    assert {key for change in changes for key in change} == plain.spec.keys()
    ids = {Trial.model_validate(plain.spec | change).id for change in changes}
    assert len(ids - {plain.id}) == len(changes)


def test_an_id_stays_the_same_between_releases() -> None:
    """A change here makes every folder there is unable to resume."""
    assert [trial.id for trial in load_config(MAIN).trials()[:2]] == ["1b2b9269ac1a", "8359a9fb5443"]


def test_differences_are_dotted() -> None:
    old = SweepConfig.model_validate(GOOD).canonical
    new = SweepConfig.model_validate({**GOOD, "epochs": 3, "grid": {**GOOD["grid"], "lr": [1]}}).canonical
    assert differences(old, new) == ["epochs: 2 -> 3", "grid.lr: [0.5] -> [1.0]"]
    assert differences(old, old) == []
    assert differences({"a": 1}, {"b": {"c": 2}}) == ["a: 1 -> (absent)", "b.c: (absent) -> 2"]
