"""Data that cannot be used: each in one line that names the set, the row or the column, and the remedy."""

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fastrank.experiments.data import DataError
from fastrank.experiments.data.decode import Look
from fastrank.experiments.data.prepare import prepare
from fastrank.experiments.data.source import Choice


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FASTRANK_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


def encoded(mode: str = "RGB", size: tuple[int, int] = (4, 4), kind: str = "PNG") -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    if mode == "I;16":
        image = Image.fromarray(noise[..., 0].astype(np.uint16) * 256)
    buffer = io.BytesIO()
    (image if image.mode == mode else image.convert(mode)).save(buffer, kind)
    return buffer.getvalue()


GOOD = [encoded()] * 4
LABELS = [0, 1, 0, 1]
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(folder: Path, names: list[str] | None = None, **parts: tuple[list[Any], list[Any]]) -> str:
    """Parquet files of images and labels, one a part; ``names`` are those of the classes, in the schema."""
    folder.mkdir()
    for part, (contents, labels) in parts.items():
        images = pa.array(
            [None if content is None else {"bytes": content, "path": None} for content in contents], _IMAGE
        )
        table = pa.table({"image": images, "label": labels})
        if names is not None:
            features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pq.write_table(table, folder / f"{part}-00000-of-00001.parquet")
    return str(folder)


def refused(folder: str, **arguments: Any) -> str:
    """What is wrong with the folder, as the user reads it."""
    with pytest.raises(DataError) as caught:
        prepare(folder, **arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix(f"{folder}: ")


IMAGES = {
    "junk": (b"no image", r"test row 2 cannot be decoded: its bytes are no image: .*"),
    "cut PNG": (encoded()[:-30], r"test row 2 cannot be decoded: .+: leave it out, or mend it"),
    "cut JPEG": (
        encoded(size=(64, 64), kind="JPEG")[:-200],
        r"test row 2 cannot be decoded: image file is truncated.*",
    ),
    "nothing": (b"", r"test row 2 cannot be decoded: its bytes are no image: .*"),
    "null": (None, r"test row 2 has no image: leave it out"),
    "other size": (encoded(size=(5, 4)), r"train row 0 has 4 x 4 pixels, but test row 2 5 x 4: --size N makes .*"),
    "grey": (
        encoded("L"),
        r"train row 0 has pixels of mode RGB, but test row 2 of mode L: --rgb or --grey converts .*",
    ),
    "alpha": (
        encoded("RGBA"),
        r"test row 2 has pixels of mode RGBA, not RGB or L \(grey\): --rgb or --grey converts .*",
    ),
    "palette": (encoded("P"), r"test row 2 has pixels of mode P, not RGB or L \(grey\): --rgb or --grey converts .*"),
    "16 bits": (encoded("I;16"), r"test row 2 has pixels of mode I;16, not RGB or L \(grey\): save it as 8-bit"),
}


@pytest.mark.parametrize("case", IMAGES)
def test_an_image_that_does_not_fit(tmp_path: Path, cache: Path, case: str) -> None:
    content, message = IMAGES[case]
    folder = write(tmp_path / "set", train=(GOOD, LABELS), test=([*GOOD[:2], content, GOOD[3]], LABELS))
    assert re.fullmatch(message, refused(folder))
    assert list(cache.iterdir()) == []


def test_what_converting_can_and_cannot_mend(tmp_path: Path) -> None:
    mixed = [encoded(), encoded("RGBA"), encoded("L", (9, 5)), encoded("P")]
    folder = write(tmp_path / "mixed", train=(mixed, LABELS))
    for mode in ("RGB", "L"):
        assert prepare(folder, name=mode, look=Look(4, mode)).info.train == 4
        deep = write(tmp_path / f"deep{mode}", train=([*GOOD[:3], encoded("I;16")], LABELS))
        assert refused(deep, look=Look(4, mode)) == (
            "train row 3 has pixels of mode I;16, which 8 bits cannot hold: save it as 8-bit"
        )
    assert "train row 1 has pixels of mode RGBA" in refused(folder, look=Look(4))


LABEL_CASES = {
    "missing": ([0, None, 0, 1], LABELS, None, "train row 1 has no label: leave it out, or label it"),
    "hidden": (
        *(LABELS, [0, 1, -1, 1], ["cat", "dog"]),
        "test row 2 has the label -1, which is that of no class: they go from 0 to 1 "
        "(-1 often stands for a hidden label: another split with --test-split?)",
    ),
    "negative": (
        *([0, 1, -2, 1], LABELS, None),
        "train row 2 has the label -2, which is that of no class: they go from 0 to 1",
    ),
    "too large": (
        *([0, 1, 0, 2], LABELS, ["cat", "dog"]),
        "train row 3 has the label 2, which is that of no class: they go from 0 to 1",
    ),
    "not counted": (
        *([0, 1, 0, 907], LABELS, None),
        "the label column 'label' goes up to 907, more than there are examples: "
        "labels count from 0; choose another column with --label-column",
    ),
    "fractions": (
        *([0.0, 1.0, 0.5, 1.0], [0.0, 1.0, 0.0, 1.0], None),
        "the label column 'label' holds Value('float64'): whole numbers or names are wanted; "
        "choose with --label-column",
    ),
    "never learnt": ([0, 0, 2, 2], [0, 1, 2, 1], None, "too few training examples of '1'"),
    "never tested": (
        *([0, 1, 2, 3], [0, 0, 1, 1], ["cat", "dog", "emu", "fox"]),
        "too few test examples of 'emu', 'fox'",
    ),
}


@pytest.mark.parametrize("case", LABEL_CASES)
def test_labels_that_cannot_be(tmp_path: Path, case: str) -> None:
    train, test, names, message = LABEL_CASES[case]
    assert refused(write(tmp_path / "set", names, train=(GOOD, train), test=(GOOD, test))) == message


def test_without_a_test_part_every_class_is_needed_twice(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", train=(GOOD * 4, [*range(7), *range(7), 8, 9]))
    assert refused(folder) == (
        "two examples of each class are needed, one to train on and one to test on; "
        "too few training examples of '7', '8', '9'"
    )
    many = write(tmp_path / "many", train=(GOOD * 4, list(range(16))))
    assert refused(many).endswith("of '0', '1', '2', '3', '4' and 11 more classes")


def test_pictures_that_show_nothing(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (7, 7, 7)).save(buffer, "PNG")
    folder = write(tmp_path / "set", train=([buffer.getvalue()] * 4, LABELS))
    assert "channel 0 has the same value in every pixel of every training image" in refused(folder)


COLUMNS: dict[str, tuple[dict[str, list[Any]], Choice, str]] = {
    "no image": (
        *({"pixels": [[1, 2], [3, 4]], "label": [0, 1]}, Choice()),
        "has no image column; the columns are 'pixels', 'label': choose with --image-column",
    ),
    "no label": (
        *({"image": GOOD, "fine": LABELS, "coarse": LABELS}, Choice()),
        "has no label column; the columns are 'image', 'fine', 'coarse': choose with --label-column",
    ),
    "two images": (
        *({"left": GOOD, "right": GOOD, "label": LABELS}, Choice()),
        "'left', 'right' could each be the image column: choose with --image-column",
    ),
    "unknown": (
        *({"image": GOOD, "label": LABELS}, Choice(label_column="kind")),
        "has no column 'kind'; the columns are 'image', 'label': choose with --label-column",
    ),
    "no picture": (
        *({"image": GOOD, "label": LABELS}, Choice(image_column="label")),
        "the column 'label' does not hold encoded images (Value('int64'))",
    ),
    "no split": (
        *({"image": GOOD, "label": LABELS}, Choice(test_split="dev")),
        "has no split 'dev'; there are 'train': choose with --test-split",
    ),
    "one for both": (
        *({"image": GOOD, "label": LABELS}, Choice(test_split="train")),
        "the split 'train' cannot be the training and the test part at once",
    ),
    "no examples": (
        {"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())},
        Choice(),
        "holds a Parquet file without rows: leave it out",
    ),
}


@pytest.mark.parametrize("case", COLUMNS)
def test_columns_and_splits_that_are_not_there(tmp_path: Path, case: str) -> None:
    table, choice, message = COLUMNS[case]
    (tmp_path / "set").mkdir()
    pq.write_table(pa.table(table), tmp_path / "set" / "train.parquet")
    assert refused(str(tmp_path / "set"), choice=choice) == message


def test_folders_that_hold_no_data(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "empty").mkdir()
    assert refused(str(tmp_path / "empty")) == "holds no images and no Parquet files"
    for flat in range(3):
        (tmp_path / "flat").mkdir(exist_ok=True)
        (tmp_path / "flat" / f"{flat}.png").write_bytes(GOOD[0])
    assert refused(str(tmp_path / "flat")).startswith("has no label column; the columns are 'image'")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "notes.txt").write_text("one\ntwo\n")
    assert refused(str(tmp_path / "text")).startswith("has no image column; the columns are 'text'")
    cut = Path(write(tmp_path / "cut", train=(GOOD, LABELS)))
    file = cut / "train-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:-40])
    assert refused(str(cut)).startswith("cannot be read: Parquet magic bytes not found in footer")
    assert refused(str(file)) == "is a file: give the folder that it lies in"
    assert caplog.records == []  # the reader's own lines are not for the user
    assert refused("./none") == "'./none': there is no such folder"
    assert refused("") == "'': there is no such folder"


def test_names_that_cannot_be(tmp_path: Path) -> None:
    folder = write(tmp_path / "my set", train=(GOOD, LABELS))
    for name in (None, "../up", "", ".hidden"):
        assert "cannot be a data set's name" in refused(folder, name=name)
    assert refused(folder, name="digits").startswith("'digits' is built in")
