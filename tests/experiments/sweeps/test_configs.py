"""The configurations that come with the project: each can be run, and says in its first lines what it is for."""

from pathlib import Path

import pytest

from fastrank.experiments import trial
from fastrank.experiments.data import DataInfo
from fastrank.experiments.sweeps.config import load_config
from fastrank.experiments.theory import rank_bound

CONFIGS = sorted((Path(__file__).parents[3] / "experiments" / "configs").glob("*.toml"))
SHAPES = {
    **dict.fromkeys(("cifar10", "cifar100", "svhn"), (3, 32, 32)),
    **dict.fromkeys(("mnist", "fashion_mnist"), (1, 28, 28)),
}
EXAMPLES = {"cifar10": 50_000, "cifar100": 50_000, "svhn": 73_257, "mnist": 60_000, "fashion_mnist": 60_000}


@pytest.fixture
def _prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every data set is, as far as its header goes."""
    describe = trial.describe

    def known(name: str) -> DataInfo:
        if name not in SHAPES:
            return describe(name)
        channels, height, width = SHAPES[name]
        classes = tuple(map(str, range(100 if name == "cifar100" else 10)))
        ones = (1.0,) * channels
        return DataInfo(name, name, "0" * 64, classes, channels, height, width, EXAMPLES[name], 10_000, ones, ones)

    monkeypatch.setattr(trial, "describe", known)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.usefixtures("_prepared")
def test_it_can_be_run(path: Path) -> None:
    config = load_config(path)
    assert config.name == path.stem
    assert path.read_text().startswith("# ")
    trials = config.trials()
    if path.stem.endswith("-quick"):
        assert sum(t.steps for t in trials) < 200_000
    elif config.data.name == "cifar10":  # the others differ in their data, and MLP-BN is in every quick one
        assert path.with_name(f"{path.stem}-quick.toml").exists() or path.stem == "mlp_bn"
    if 0.0 not in config.grid.weight_decay:  # the control is part of every grid, but where it could show nothing
        assert path.stem.startswith(("batch_size-lr", "bound"))


@pytest.mark.usefixtures("_prepared")
def test_the_bound_bites_where_its_configuration_says() -> None:
    (small,) = (load_config(path) for path in CONFIGS if path.stem == "bound-quick")
    bounds = [rank_bound(t.batch_size, 1, t.lr, t.weight_decay, eps=0.05) for t in small.trials() if t.seed == 0]
    assert [round(bound) for bound in bounds] == [2459, 1230, 615]
    assert min(bounds) < 784 < max(bounds)  # the full rank of the one matrix
