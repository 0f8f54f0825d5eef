"""Reading one file of PyTorch, safetensors or NumPy. Others that people mistake for one are named, with a way out."""

from __future__ import annotations

import warnings
from pathlib import Path
from pickle import UnpicklingError
from tokenize import TokenError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .archives import UNREADABLE, names_in
from .errors import AnalyzeError

SAFETENSORS = ".safetensors"
NUMPY = b"\x93NUMPY"
ARCHIVE = b"PK\x03\x04"

BEGINNINGS = {
    b"version https://git-lfs": "a pointer of git-lfs to a file that was not fetched: run 'git lfs pull' in its folder",
    b"GGUF": "a GGUF file, whose weights are packed and mostly quantised: give the checkpoint that it was made from, "
    "or load it (transformers: from_pretrained with gguf_file) and save that",
    b"\x89HDF": "an HDF5 file, as of Keras: load it there, and save its arrays with numpy.savez",
}
MEMBERS = {
    "/constants.pkl": "a TorchScript archive, which holds code: save the weights alone, "
    "torch.save(torch.jit.load(FILE).state_dict(), ...)",
    "/archive_format": "a program of torch.export: save the weights alone, "
    "torch.save(torch.export.load(FILE).state_dict, ...)",
}
"""What other files begin with, or archives contain, and what they are."""


def read_file(path: Path) -> Any:
    """What a file holds: nested dictionaries and lists of tensors and plain values. No code in it is run.

    Raises AnalyzeError for a file that is damaged, of another kind or not plain, OSError for one that cannot be read,
    ImportError for one of safetensors where that package is missing.
    """
    with path.open("rb") as file:
        start = file.read(32)
    if not start:
        raise AnalyzeError(f"{path}: is not a whole checkpoint: it is empty")
    for beginning, what in BEGINNINGS.items():
        if start.startswith(beginning):
            raise AnalyzeError(f"{path}: is {what}")
    # A file of safetensors begins with the length of its header, which is JSON.
    begins_as = start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size
    if begins_as or path.suffix == SAFETENSORS:
        return _safetensors(path)
    members = names_in(path)
    if start.startswith(ARCHIVE) and not members:
        raise AnalyzeError(
            f"{path}: is not a whole checkpoint: it begins as an archive, as torch.save and numpy.savez write it, and "
            "its end is missing: copy or download it again"
        )
    for member, what in MEMBERS.items():
        if any(name.endswith(member) for name in members):
            raise AnalyzeError(f"{path}: is {what}")
    if start.startswith(NUMPY) or (members and all(name.endswith(".npy") for name in members)):
        return _numpy(path)
    return _torch(path, archive=bool(members))


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise missing(f"{path}: to read it", error) from error
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise AnalyzeError(f"{path}: is not a whole {SAFETENSORS} file: {error}") from error
    return tensors


def _numpy(path: Path) -> dict[str, Tensor]:
    """The arrays of a `.npz` by their names, or the one of a `.npy` by the name of its file."""
    try:
        # A file of one array is mapped: one that says it is larger than its file is then refused, not made room for.
        loaded = np.load(path, mmap_mode="c")
        if isinstance(loaded, np.ndarray):
            arrays = {path.name: loaded}
        else:
            with loaded:
                arrays = dict(loaded)
        return {name: torch.from_numpy(array) for name, array in arrays.items()}
    except (*UNREADABLE, TypeError, LookupError, SyntaxError, TokenError, MemoryError) as error:
        raise AnalyzeError(f"{path}: is not a whole NumPy file of numbers: {error}") from error


def _torch(path: Path, archive: bool) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch warns of pickles that it then refuses
            return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except (UnpicklingError, LookupError, AttributeError, TypeError, AssertionError) as error:
        raise AnalyzeError(
            f"{path}: holds more than tensors and plain values, or is no checkpoint, and is not unpickled, since that "
            f"could run any code. Save model.state_dict() instead"
        ) from error
    except Exception as error:  # whatever unpickling makes of bytes that are no checkpoint
        if isinstance(error, OSError) and error.filename:  # an error of the system; those of torch do not name the file
            raise
        raise AnalyzeError(f"{path}: is not a whole checkpoint of torch.save: {error}") from error


def missing(purpose: str, error: ImportError) -> ModuleNotFoundError:
    """What is to be raised where a package of the extra ``history`` cannot be imported, which serves `purpose`."""
    package = (error.name or "").partition(".")[0]
    return ModuleNotFoundError(f"{purpose}, {package} is needed: pip install 'fastrank[history]'", name=package)
