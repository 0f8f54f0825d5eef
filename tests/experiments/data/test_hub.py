"""Names of the hub: what is asked of it, and what its refusals become. Its answers are played by a local folder."""

import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fastrank.experiments.data import DataError
from fastrank.experiments.data.catalogue import CATALOGUE
from fastrank.experiments.data.prepare import prepare
from fastrank.experiments.data.source import Choice


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FASTRANK_DATA", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def answer(folder: Path, **columns: list[Any]) -> datasets.DatasetDict:
    """What the hub would send: these columns, in a training and a test part, beside images."""
    draw = np.random.default_rng(0)
    contents = []
    for _ in range(4):
        buffer = io.BytesIO()
        Image.fromarray(draw.integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(buffer, "PNG")
        contents.append(buffer.getvalue())
    folder.mkdir()
    for part in ("train", "test", "extra"):
        table = pa.table({"image": contents, "img": contents, **columns})
        pq.write_table(table, folder / f"{part}.parquet")
    files = {part: str(folder / f"{part}.parquet") for part in ("train", "test", "extra")}
    return datasets.load_dataset("parquet", data_files=files, cache_dir=str(folder / "arrow"))


@pytest.mark.parametrize("name", CATALOGUE)
def test_short_names_ask_for_what_the_catalogue_says(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, asked = CATALOGUE[name], []
    sent = answer(tmp_path / "hub", label=[0, 1, 0, 1], fine_label=[0, 1, 2, 3], coarse_label=[0, 0, 1, 1])

    def load_dataset(*arguments: Any, **keywords: Any) -> datasets.DatasetDict:
        asked.append((arguments, keywords))
        return sent

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    info = prepare(name).info
    assert asked == [((known.hub_id, known.config), {"cache_dir": None})]  # into the hub's own cache, to be kept
    assert (info.name, info.source, info.train, info.test) == (name, known.hub_id, 4, 4)
    assert len(info.classes) == (4 if known.label_column == "fine_label" else 2)
    prepare(name)
    assert len(asked) == 1


REFUSALS = [
    (
        datasets.exceptions.DatasetNotFoundError("Dataset 'you/birds' doesn't exist on the Hub or cannot be accessed."),
        "you/birds: there is no such folder, and the Hugging Face hub has no such public data set; short names: "
        "cifar10, cifar100, fashion_mnist, mnist, svhn",
    ),
    (
        ConnectionError("Couldn't reach 'you/birds' on the Hub (LocalEntryNotFoundError)"),
        "you/birds: the Hugging Face hub cannot be reached, and this is no folder here; "
        "from a copy on disk: fastrank data prepare FOLDER --name birds",
    ),
    (
        ValueError(
            "Config name is missing.\nPlease pick one among the available configs: ['small', 'large']\nExample:"
        ),
        "you/birds: choose one of its configurations with --config: ['small', 'large']",
    ),
    (
        ValueError("BuilderConfig 'tiny' not found. Available: ['small', 'large']"),
        "you/birds: choose one of its configurations with --config: ['small', 'large']",
    ),
    (
        RuntimeError("Dataset scripts are no\nlonger supported"),
        "you/birds: cannot be read: Dataset scripts are no longer supported",
    ),
]


@pytest.mark.parametrize(("error", "message"), REFUSALS, ids=lambda value: type(value).__name__)
def test_refusals_are_one_line(error: Exception, message: str, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    def refuse(*arguments: Any, **keywords: Any) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    bars = datasets.are_progress_bars_disabled()
    with pytest.raises(DataError) as caught:
        prepare("you/birds", choice=Choice(config="tiny"))
    assert str(caught.value) == message
    assert datasets.are_progress_bars_disabled() == bars
    assert list(cache.iterdir()) == []
