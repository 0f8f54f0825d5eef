"""What preparing makes of folders of images and of Parquet files."""

import io
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from fastrank.experiments.data import DataError, describe, load_split
from fastrank.experiments.data.catalogue import CATALOGUE
from fastrank.experiments.data.decode import Look
from fastrank.experiments.data.folder import cache_folder, prepared
from fastrank.experiments.data.prepare import prepare, statistics
from fastrank.experiments.data.source import Choice, resolve

SHARED = Path(__file__).parents[3].parent / "shared" / "data"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FASTRANK_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


def pixels(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def image_folder(folder: Path, parts: tuple[str, ...] = ("train", "test"), channels: int = 3) -> Path:
    """Three images of 6 x 5 pixels (width x height) a class and part, as PNG."""
    for part in parts:
        for label, name in enumerate(("cat", "dog")):
            (folder / part / name).mkdir(parents=True)
            for i in range(3):
                values = pixels(i + 10 * label + 100 * len(part), 5, 6, channels)
                Image.fromarray(values.squeeze()).save(folder / part / name / f"{i}.png")
    return folder


def parquet(folder: Path, split: str, table: dict[str, object]) -> Path:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(table), folder / f"{split}-00000-of-00001.parquet")
    return folder


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(seed, 4, 4)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_folder_of_images(tmp_path: Path, cache: Path) -> None:
    folder = image_folder(tmp_path / "pets")
    done = prepare(str(folder))
    info = describe("pets")
    assert (done.info, done.path, done.fresh) == (info, cache / "pets.safetensors", True)
    assert (info.name, info.source, info.classes, info.options) == ("pets", str(folder), ("cat", "dog"), ())
    assert (info.channels, info.height, info.width, info.train, info.test) == (3, 5, 6, 6, 6)
    train, test = load_split("pets", test_fraction=None, train_examples=None, seed=0)
    assert (train.x.dtype, train.y.dtype, train.x.shape) == (torch.uint8, torch.int64, (6, 3, 5, 6))
    for images, part in ((train, "train"), (test, "test")):
        assert images.y.tolist() == [0, 0, 0, 1, 1, 1]
        expected = [pixels(i + 10 * label + 100 * len(part), 5, 6, 3) for label in (0, 1) for i in range(3)]
        assert np.array_equal(images.x.numpy(), np.stack(expected).transpose(0, 3, 1, 2))
    scaled = train.x.double() / 255
    assert np.allclose(info.mean, scaled.mean(dim=(0, 2, 3)), rtol=1e-14, atol=0)
    assert np.allclose(info.std, scaled.std(dim=(0, 2, 3), correction=0), rtol=1e-14, atol=0)
    assert [path.name for path in cache.iterdir()] == ["pets.safetensors"]  # nothing temporary is left


def test_without_a_test_part_the_trials_split(tmp_path: Path) -> None:
    prepare(str(image_folder(tmp_path / "pets", parts=(".",))))
    assert (describe("pets").train, describe("pets").test) == (6, 0)
    train, test = load_split("pets", test_fraction=0.3, train_examples=None, seed=0)
    assert (sorted(train.y.tolist()), sorted(test.y.tolist())) == ([0, 0, 1, 1], [0, 1])


def test_parquet_without_anybodys_marks(tmp_path: Path) -> None:
    """Bytes alone, or with a path; classes by number or by name; grey images have one channel."""
    contents = [png(seed) for seed in range(4)]
    structs = [{"bytes": content, "path": None} for content in contents]
    parquet(tmp_path / "a", "train", {"image": contents, "label": [1, 0, 1, 0]})
    parquet(tmp_path / "b", "train", {"image": structs, "label": ["u", "t", "u", "t"]})
    a, b = prepare(str(tmp_path / "a")).info, prepare(str(tmp_path / "b")).info
    assert (a.classes, b.classes, a.channels) == (("0", "1"), ("t", "u"), 1)
    assert a.digest != b.digest  # the names of the classes are part of it
    for name in ("a", "b"):
        train, test = load_split(name, test_fraction=0.5, train_examples=None, seed=3)
        for x, y in zip(torch.cat([train.x, test.x]), torch.cat([train.y, test.y]), strict=True):
            row = next(i for i in range(4) if np.array_equal(pixels(i, 4, 4), x[0].numpy()))
            assert y == (1, 0, 1, 0)[row]


def test_splits_and_columns_can_be_chosen(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    for split in ("train", "test", "validation"):
        columns = {"photo": [png(i) for i in range(4)], "mask": [png(9)] * 4, "kind": [0, 1, 0, 1], "id": [3, 2, 1, 0]}
        parquet(folder, split, columns)
    choice = Choice(test_split="validation", image_column="photo", label_column="kind")
    info = prepare(str(folder), choice=choice).info
    assert info.options == (*("--test-split", "validation", "--image-column", "photo", "--label-column", "kind"),)
    assert (info.classes, info.train, info.test) == (("0", "1"), 4, 4)


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
def test_every_image_is_made_alike(tmp_path: Path, mode: str, channels: int) -> None:
    """Sizes, palettes and transparency: what is transparent becomes black, the middle of a wide image is kept."""
    wide = Image.new("RGB", (30, 10), (255, 0, 0))
    wide.paste((0, 255, 0), (10, 0, 20, 10))
    glass = Image.new("RGBA", (8, 8), (255, 255, 255, 0))
    palette = wide.quantize(4)
    (tmp_path / "alike" / "x").mkdir(parents=True)
    (tmp_path / "alike" / "y").mkdir()
    for i, image in enumerate((wide, glass, palette, Image.fromarray(pixels(0, 20, 12)))):
        image.save(tmp_path / "alike" / "xy"[i % 2] / f"{i}.png")
    prepare(str(tmp_path / "alike"), look=Look(10, mode))
    assert describe("alike").options == ("--size", "10", "--rgb" if mode == "RGB" else "--grey")
    train, test = load_split("alike", test_fraction=0.5, train_examples=None, seed=0)
    images = {tuple(x[:, 5, 5].tolist()) for x in torch.cat([train.x, test.x])}
    green = (0, 255, 0) if mode == "RGB" else (150,)  # 0.587 of 255, the weight of green in grey
    assert train.x.shape[1:] == (channels, 10, 10)
    assert {green, (0,) * channels} < images


def test_a_photograph_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    upright = Image.new("L", (6, 4))
    upright.paste(255, (0, 0, 6, 2))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    for i in range(4):
        (tmp_path / "photos" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        upright.save(tmp_path / "photos" / "ab"[i % 2] / f"{i}.png", exif=exif)
    prepare(str(tmp_path / "photos"))
    train, _ = load_split("photos", test_fraction=0.5, train_examples=None, seed=0)
    assert train.x[0, 0, :, 0].tolist() == [0, 0, 255, 255]


def test_what_is_there_is_left_alone_and_never_replaced_by_chance(tmp_path: Path, cache: Path) -> None:
    folder = image_folder(tmp_path / "pets")
    first = prepare(str(folder))
    stamp = first.path.stat().st_mtime_ns
    again = prepare(str(folder))
    assert (again.info, again.fresh, again.path.stat().st_mtime_ns) == (first.info, False, stamp)
    other = image_folder(tmp_path / "other" / "pets", channels=1)
    for arguments in ({"text": str(other)}, {"text": str(folder), "look": Look(4)}):
        with pytest.raises(DataError, match=r"'pets' is prepared already, from .*: --force replaces it, --name"):
            prepare(**arguments)  # type: ignore[arg-type]
    assert prepare(str(other), name="others").info.channels == 1
    assert prepare(str(other), force=True).info.source == str(other)
    assert prepared() == ["others", "pets"]
    assert prepare(str(folder), force=True).info == first.info
    content = first.path.read_bytes()
    first.path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert prepare(str(folder)).fresh
    assert load_split("pets", test_fraction=None, train_examples=None, seed=0)  # which checks the digest


def test_the_digest_is_of_the_content_alone(tmp_path: Path) -> None:
    one = prepare(str(image_folder(tmp_path / "one"))).info
    assert prepare(one.source, name="two").info.digest == one.digest
    changed = tmp_path / "one" / "train" / "cat" / "0.png"
    values = np.asarray(Image.open(changed)).copy()
    values[0, 0, 0] ^= 1
    Image.fromarray(values).save(changed)
    assert prepare(one.source, force=True).info.digest != one.digest


def test_statistics_are_exact_where_floating_point_would_cancel() -> None:
    images = np.full((1500, 1, 8, 8), 255, dtype=np.uint8)
    images[0, 0, 0, 0] = 254
    n = images.size
    (mean,), (std,) = statistics(images)
    assert mean == (255 * n - 1) / (255 * n)
    assert math.isclose(std, (n - 1) ** 0.5 / (255 * n), rel_tol=4 * 2**-53)  # two roundings here, two there


def test_short_names_win_over_folders_and_folders_over_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("cifar100", "me/birds"):
        (tmp_path / name).mkdir(parents=True)
    known = resolve("cifar100", Choice(label_column="coarse_label"))
    assert (known.place, known.local, known.name) == (CATALOGUE["cifar100"].hub_id, False, "cifar100")
    assert (known.choice.config, known.choice.image_column, known.choice.label_column) == (
        *("cifar100", "img", "coarse_label"),
    )
    assert resolve("./cifar100", Choice()).place == str(tmp_path / "cifar100")
    assert (resolve("me/birds", Choice()).local, resolve("you/birds", Choice()).local) == (True, False)
    assert resolve("you/birds", Choice()).name == "birds"


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == tmp_path / "cache"
    assert cache_folder(tmp_path / "given") == tmp_path / "given"
    monkeypatch.delenv("FASTRANK_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "fastrank" / "data"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "fastrank" / "data"


def test_a_folder_needs_no_network_and_leaves_nothing_at_home(tmp_path: Path) -> None:
    code = "import socket, sys; from fastrank.experiments.cli import main\n"
    code += "def refuse(*a): raise AssertionError(f'asks the network: {a}')\n"
    code += "socket.socket.connect = socket.getaddrinfo = refuse\n"
    code += "sys.argv[1:] = ['data', 'prepare', sys.argv[1]]; main()"
    home = tmp_path / "home"
    home.mkdir()
    environment = {"HOME": str(home), "PATH": ""}
    command = [sys.executable, "-P", "-c", code, str(image_folder(tmp_path / "pets"))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    files = [path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()]
    assert files == [".cache/fastrank/data/pets.safetensors"]


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10"])
@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared real images are not on this machine")
def test_real_images_come_out_as_pillow_reads_them(tmp_path: Path, name: str) -> None:
    tables = {}
    (tmp_path / name).mkdir()
    for split in ("train", "test"):
        source = pq.ParquetFile(SHARED / name / f"{split}-00000-of-00001.parquet")
        tables[split] = next(source.iter_batches(batch_size=300))
        table = pa.Table.from_batches([tables[split]]).replace_schema_metadata(source.schema_arrow.metadata)
        pq.write_table(table, tmp_path / name / f"{split}-00000-of-00001.parquet")
    info = prepare(str(tmp_path / name)).info
    assert (info.train, info.test, len(info.classes)) == (300, 300, 10)
    for images, table in zip(
        load_split(name, test_fraction=None, train_examples=None, seed=0), tables.values(), strict=True
    ):
        assert images.y.tolist() == table["label"].to_pylist()
        for x, encoded in zip(images.x, table["image"].to_pylist(), strict=True):
            expected = np.asarray(Image.open(io.BytesIO(encoded["bytes"]))).reshape(*x.shape[1:], -1)
            assert np.array_equal(x.permute(1, 2, 0).numpy(), expected)
