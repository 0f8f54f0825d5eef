"""Files that are no checkpoint of PyTorch: read where that is simple, and otherwise called by what they are."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fastrank.analysis import AnalyzeError
from fastrank.analysis.files import read_file


def zipped(*members: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for member in members:
            archive.writestr(member, b"")
    return content.getvalue()


FOREIGN = {
    "model.gguf": (b"GGUF\x03\0\0\0", "is a GGUF file, .* quantised"),
    "pointer.safetensors": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs .* 'git lfs pull'"),
    "pointer.bin": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs .* 'git lfs pull'"),
    "model.h5": (b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
    "script.pt": (
        zipped("script/data.pkl", "script/code/x.py", "script/constants.pkl"),
        "TorchScript .*torch.jit.load",
    ),
    "program.pt2": (zipped("program/archive_format", "program/models/model.json"), "is a program of torch.export"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_of_another_kind_is_called_what_it_is(tmp_path: Path, name: str) -> None:
    content, what = FOREIGN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AnalyzeError, match=what) as caught:
        read_file(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit as a whole
def test_what_torch_itself_writes_as_script_is_recognised(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "x.pt")
    with pytest.raises(AnalyzeError, match="is a TorchScript archive"):
        read_file(tmp_path / "x.pt")


def test_arrays_of_numpy_are_read(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.eye(3))
    np.savez_compressed(tmp_path / "many.npz", w=np.eye(2, dtype=np.float32), v=np.ones(4))
    assert torch.equal(read_file(tmp_path / "one.npy")["one.npy"], torch.eye(3, dtype=torch.float64))
    many = read_file(tmp_path / "many.npz")
    assert torch.equal(many["w"], torch.eye(2))
    assert many["v"].shape == (4,)


BAD: dict[str, Callable[[Path], None]] = {
    "objects": lambda path: np.save(path, np.array([{}], dtype=object)),  # reading them could run any code
    "texts": lambda path: np.save(path, np.array(["a"])),
    "other_end": lambda path: np.save(path, np.eye(3, dtype=">f8")),
    "half": lambda path: path.write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran") and None,
}


@pytest.mark.parametrize("name", BAD)
def test_arrays_that_are_no_numbers_are_refused_by_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.npy"
    BAD[name](path)
    with pytest.raises(AnalyzeError, match=rf"{name}\.npy: is not a whole NumPy file of numbers: "):
        read_file(path)


@pytest.mark.parametrize("name", ["model", "pytorch_model.bin", "x.pt"])
def test_safetensors_are_known_by_what_they_hold(tmp_path: Path, name: str) -> None:
    """A file of the hub's cache has no ending, and others have the wrong one."""
    save_file({"w": torch.eye(3)}, tmp_path / name)
    assert torch.equal(read_file(tmp_path / name)["w"], torch.eye(3))


def test_an_error_of_the_system_stays_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that goes while it is read is missing, and not damaged."""
    path = tmp_path / "x.pt"
    torch.save({"w": torch.eye(2)}, path)
    load = torch.load

    def late(name: Path, **options: object) -> object:
        path.unlink()
        return load(name, **options)

    monkeypatch.setattr(torch, "load", late)
    with pytest.raises(FileNotFoundError, match=r"x\.pt"):
        read_file(path)
