"""Reading prepared sets: sizes, stratified parts, and files that are not what was written."""

import stat
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from full_disk import full_disk
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from fastrank.experiments.data import DataError, DataInfo, describe, digits, load_split, split_sizes
from fastrank.experiments.data.folder import command
from fastrank.experiments.data.splits import thin_out
from fastrank.experiments.data.store import Part, digest_of, write_set
from fastrank.experiments.sweeps.config import SweepConfig
from fastrank.experiments.sweeps.sweep import check_config


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FASTRANK_DATA", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def part(counts: list[int]) -> Part:
    """``counts[i]`` images of class i, shuffled; no two of a set are alike."""
    draw = np.random.default_rng(len(counts))
    labels = draw.permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int64)
    return Part(draw.integers(0, 256, (len(labels), 1, 3, 2), dtype=np.uint8), labels)


def write(cache: Path, name: str = "toy", source: str = "/a/folder", **counts: list[int]) -> DataInfo:
    """A prepared set with so many images of each class in ``train`` and, perhaps, ``test``."""
    parts = {key: part(value) for key, value in counts.items()}
    sizes = {key: sum(counts.get(key, [])) for key in ("train", "test")}
    classes = tuple(f"class {i}" for i in range(len(counts["train"])))
    fields = {"channels": 1, "height": 3, "width": 2, "mean": (0.5,), "std": (0.25,), "options": ("--size", "9")}
    info = DataInfo(name=name, source=source, digest="", classes=classes, **sizes, **fields)  # type: ignore[arg-type]
    info = replace(info, digest=digest_of(info, parts))
    (cache / ".scratch").mkdir(exist_ok=True)
    write_set(cache / f"{name}.safetensors", cache / ".scratch", info, parts)
    return info


def rows(y: torch.Tensor) -> dict[int, int]:
    return dict(sorted(Counter(y.tolist()).items()))


def test_what_is_written_is_read(cache: Path) -> None:
    info = write(cache, train=[5, 7], test=[2, 3])
    assert describe("toy") == info
    train, test = load_split("toy", test_fraction=None, train_examples=None, seed=0)
    for images, expected in ((train, part([5, 7])), (test, part([2, 3]))):
        assert np.array_equal(images.x.numpy(), expected.images)
        assert np.array_equal(images.y.numpy(), expected.labels)
    again = load_split("toy", test_fraction=None, train_examples=None, seed=0)
    assert again[0] is train  # kept, not read again


def test_a_set_that_is_prepared_anew_is_read_anew(cache: Path) -> None:
    write(cache, train=[5, 7], test=[2, 3])
    load_split("toy", test_fraction=None, train_examples=None, seed=0)
    write(cache, train=[6, 7], test=[2, 3])
    assert rows(load_split("toy", test_fraction=None, train_examples=None, seed=0)[0].y) == {0: 6, 1: 7}


def test_a_missing_set_is_named_with_the_folder_and_the_command(cache: Path) -> None:
    write(cache, train=[3, 3])
    with pytest.raises(DataError) as caught:
        describe("cifar10")
    assert str(caught.value) == (
        f"the data set 'cifar10' is not prepared: it is not in {cache} (there are: digits, toy); "
        "get it with: fastrank data prepare cifar10"
    )
    with pytest.raises(DataError, match="get it with: fastrank data prepare FOLDER_OR_HUB_ID --name pets"):
        load_split("pets", test_fraction=None, train_examples=None, seed=0)
    with pytest.raises(DataError, match=r"'\.\./toy' cannot be a data set's name"):
        describe("../toy")


def test_the_command_makes_a_set_as_it_was() -> None:
    assert command("mnist", "ylecun/mnist") == "fastrank data prepare mnist"
    assert command("mnist", "/my data", ["--size", "8"]) == "fastrank data prepare '/my data' --name mnist --size 8"


@pytest.mark.parametrize(
    ("test_fraction", "train_examples", "sizes"),
    [(None, None, (1437, 360)), (0.5, 10, (10, 899)), (0.1, 1617, (1617, 180))],
)
def test_sizes_are_known_without_loading(
    test_fraction: float | None, train_examples: int | None, sizes: tuple[int, int]
) -> None:
    assert split_sizes(describe("digits"), test_fraction, train_examples) == sizes
    parts = load_split("digits", test_fraction=test_fraction, train_examples=train_examples, seed=0)
    assert tuple(len(images.y) for images in parts) == sizes


@pytest.mark.parametrize(
    ("test_fraction", "train_examples", "message"),
    [
        (None, 9, "data.train_examples: 9 is fewer than the 10 classes of 'digits'"),
        (None, 1438, "data.train_examples: 1438 is more than the 1437 training examples of 'digits'"),
        (1.0, None, r"data.test_fraction: must be between 0 and 1 \(got 1.0\)"),
        (float("nan"), None, r"data.test_fraction: must be between 0 and 1 \(got nan\)"),
        (
            0.005,
            None,
            "data.test_fraction: 0.005 leaves 1788 training and 9 test examples of 'digits', fewer than its 10",
        ),
        (
            0.995,
            None,
            "data.test_fraction: 0.995 leaves 8 training and 1789 test examples of 'digits', fewer than its 10",
        ),
    ],
)
def test_keys_that_cannot_be_are_named(test_fraction: float | None, train_examples: int | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_split("digits", test_fraction=test_fraction, train_examples=train_examples, seed=0)


def test_a_test_part_of_its_own_is_not_made_anew(cache: Path) -> None:
    info = write(cache, train=[5, 7], test=[2, 3])
    with pytest.raises(
        DataError, match=r"data.test_fraction: the data set 'toy' has a test part of its own \(5 images\)"
    ):
        split_sizes(info, 0.2, None)
    assert split_sizes(info, None, 4) == (4, 5)
    train, test = load_split("toy", test_fraction=None, train_examples=4, seed=0)
    assert (rows(train.y), rows(test.y)) == ({0: 2, 1: 2}, {0: 2, 1: 3})


def test_a_class_that_a_split_would_lose_is_named(cache: Path) -> None:
    write(cache, train=[100, 100, 2])
    with pytest.raises(DataError, match="leaves no test example of 'class 2' of 'toy', which has too few of them"):
        load_split("toy", test_fraction=0.1, train_examples=None, seed=0)
    assert rows(load_split("toy", test_fraction=0.5, train_examples=None, seed=0)[1].y) == {0: 50, 1: 50, 2: 1}
    config = SweepConfig.model_validate(
        {
            "name": "toy",
            "epochs": 1,
            "model": {"name": "mlp_bn", "depth": 1, "width": 4},
            "data": {"name": "toy", "test_fraction": 0.1},
            "grid": {"batch_size": [8], "lr": [0.1], "weight_decay": [0.0]},
        }
    )
    with pytest.raises(DataError, match="leaves no test example"):
        check_config(config, cache / "sweep")  # before any trial is begun


def test_digits_are_scikit_learns_and_split_by_it() -> None:
    pixels, labels = load_digits(return_X_y=True)
    fitted, test = train_test_split(np.arange(1797), test_size=360, random_state=5, stratify=labels)
    for images, index in zip(
        load_split("digits", test_fraction=0.2, train_examples=None, seed=5), (fitted, test), strict=True
    ):
        assert images.x.dtype == torch.uint8
        assert np.array_equal(images.x.view(-1, 64).numpy(), pixels[index])
        assert np.array_equal(images.y.numpy(), labels[index])
    info = describe("digits")
    assert (info.mean[0] * 255, info.std[0] * 255) == pytest.approx((pixels.mean(), pixels.std()), rel=1e-4)  # 4 digits


def test_other_digits_are_not_taken_for_those_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "INFO", replace(digits.INFO, digest="0" * 64))
    with pytest.raises(DataError, match="the digits of the installed scikit-learn are not those that fastrank knows"):
        load_split("digits", test_fraction=None, train_examples=None, seed=0)


def test_subsets_are_stratified_nested_and_decided_by_the_seed_alone() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(4), [1000, 500, 100, 3]))
    for examples, counts in (
        (4, [1, 1, 1, 1]),
        (5, [2, 1, 1, 1]),
        (800, [498, 250, 50, 2]),
        (1603, [1000, 500, 100, 3]),
    ):
        taken = thin_out(labels, examples, seed=1)
        assert len(set(taken.tolist())) == examples
        assert np.abs(np.bincount(labels[taken]) - counts).max() <= 1  # ties go either way
        assert np.array_equal(taken, thin_out(labels, examples, seed=1))
        assert examples == 1603 or not np.array_equal(taken, thin_out(labels, examples, seed=2))
        assert set(taken.tolist()) <= set(thin_out(labels, min(examples + 1, 1603), seed=1).tolist())


def cut(content: bytes) -> bytes:
    return content[:-1]


def change(what: str) -> Callable[[bytes], bytes]:
    """Flip a bit of the pixels, of a label or of a class's name, or remove what marks the file."""

    def apply(content: bytes) -> bytes:
        (header,) = struct.unpack("<Q", content[:8])
        if what == "pixels":
            return content[:-1] + bytes([content[-1] ^ 1])
        if what == "label":
            return content[: 8 + header] + bytes([content[8 + header] ^ 1]) + content[9 + header :]
        old, new = {
            "class": (b"class 1", b"class 9"),
            "mean": (b"[0.5]", b"[0.6]"),
            "mark": (b"fastrank_data", b"fastrank_date"),
        }[what]
        assert old in content
        return content.replace(old, new)

    return apply


SEALED = "is damaged: its content does not have the digest it is sealed with"
DAMAGE = [
    (cut, "is damaged: .*"),
    (lambda content: b"", "is damaged: .*"),
    (lambda content: b"\xff" * len(content), "is damaged: .*"),
    (change("pixels"), SEALED),
    (change("label"), SEALED),
    (change("class"), SEALED),
    (change("mean"), SEALED),
    (change("mark"), "holds no data set of this version of fastrank"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_a_damaged_file_is_never_read(cache: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    write(cache, train=[5, 7], test=[2, 3])
    path = cache / "toy.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=f"{path}: {message}.*: fastrank data prepare .* --name toy"):
        load_split("toy", test_fraction=None, train_examples=None, seed=0)


def test_a_full_disk_leaves_the_old_file_and_says_so(cache: Path) -> None:
    write(cache, train=[5, 7])
    path = cache / "toy.safetensors"
    before = path.read_bytes()
    message = f"{path}: cannot be written: File too large. Another folder: --cache DIR"
    with pytest.raises(DataError, match=message), full_disk():
        write(cache, train=[500, 700])
    assert path.read_bytes() == before
    assert stat.S_IMODE(path.stat().st_mode) == 0o644  # others may read it
