"""``fastrank data``: what a user types, what is printed, and one line for what can be mended."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastrank.experiments.cli import main
from fastrank.experiments.data import describe


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FASTRANK_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve colour images of 6 x 6 pixels, two classes, a training and a test part."""
    draw = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / part / name).mkdir(parents=True)
            for i in range(3):
                pixels = draw.integers(0, 256, (6, 6, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "pets" / part / name / f"{i}.png")
    return tmp_path / "pets"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The exit status of ``fastrank data arguments...``."""
    monkeypatch.setattr(sys, "argv", ["fastrank", "data", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_prepare_and_list(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "prepare", folder) == 0
    digest = describe("pets").digest[:12]
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"pets: 6 training and 6 test images, 3 x 6 x 6, 2 classes, digest {digest}"
    assert second.startswith(f"{cache / 'pets.safetensors'}: 0.0 MB, made in ")
    assert run(monkeypatch, "prepare", folder) == 0
    assert "was there already; --force makes it anew" in capsys.readouterr().out

    grey = ("--name", "grey", "--size", 4, "--grey", "--test-split", "train", "--train-split", "test")
    assert run(monkeypatch, "prepare", folder, *grey) == 0
    assert "grey: 6 training and 6 test images, 1 x 4 x 4" in capsys.readouterr().out
    assert describe("grey").options == ("--size", "4", "--grey", "--train-split", "test", "--test-split", "train")

    (cache / "broken.safetensors").write_bytes(b"junk")
    assert run(monkeypatch, "list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["name", "digits", "grey", "pets"]
    assert " ".join(lines[3].split()) == f"pets 6 + 6 3 x 6 x 6 2 {digest} {cache / 'pets.safetensors'}"
    assert lines[4].startswith(f"{cache / 'broken.safetensors'}: is damaged")
    assert lines[-2:] == [
        f"folder: {cache}",
        "fastrank data prepare NAME adds cifar10, cifar100, fashion_mnist, mnist, svhn, "
        "a folder or a data set of the hub",
    ]


def test_another_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "prepare", folder, "--cache", tmp_path / "other") == 0
    assert f"trials find it with the variable FASTRANK_DATA={tmp_path / 'other'}" in capsys.readouterr().out
    assert run(monkeypatch, "list", "--cache", tmp_path / "other") == 0
    assert "pets" in capsys.readouterr().out
    assert run(monkeypatch, "list") == 0
    assert "pets" not in capsys.readouterr().out


def test_what_can_be_mended_is_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for arguments, message in (
        ([tmp_path / "none"], f"'{tmp_path / 'none'}': there is no such folder"),
        (
            ["digits"],
            "'digits' is built in and needs no preparing; give another set of that name another one with --name",
        ),
        (
            [folder, "--cache", tmp_path / "file"],
            f"{tmp_path / 'file' / 'pets.safetensors'}: cannot be written: File exists. "
            "Another folder: --cache DIR, or the variable FASTRANK_DATA",
        ),
        (
            [folder, "--cache", tmp_path / "file" / "below"],
            f"{tmp_path / 'file' / 'below' / 'pets.safetensors'}: cannot be written: Not a directory. "
            "Another folder: --cache DIR, or the variable FASTRANK_DATA",
        ),
    ):
        assert run(monkeypatch, "prepare", *arguments) == 1
        assert capsys.readouterr().err == f"fastrank: {message}\n"
    assert run(monkeypatch, "prepare", folder, "--size", 0) == 2


def fastrank(code: str, *arguments: object, **environment: str) -> tuple[int, str]:
    """Exit status and standard error of a process of its own."""
    code = f"import sys; {code}; from fastrank.experiments.cli import main; main()"
    command = [sys.executable, "-P", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def test_without_a_network_a_name_of_the_hub_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "cifar10").mkdir()
    environment = {"HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    code = f"import os; os.chdir({str(tmp_path)!r})"
    assert fastrank(code, "data", "prepare", "cifar10", **environment) == (
        1,
        "fastrank: uoft-cs/cifar10: the Hugging Face hub cannot be reached, and this is no folder here; "
        "from a copy on disk: fastrank data prepare ./cifar10 --name cifar10\n",
    )


@pytest.mark.parametrize("missing", ["datasets", "safetensors", "PIL"])
def test_a_missing_extra_is_said_in_one_line(folder: Path, cache: Path, missing: str) -> None:
    environment = {"FASTRANK_DATA": str(cache)}
    assert fastrank(f"sys.modules[{missing!r}] = None", "data", "prepare", folder, **environment) == (
        1,
        f"fastrank: this command needs {missing}, which is not installed: pip install 'fastrank[experiments]'\n",
    )
