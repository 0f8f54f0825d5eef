"""CUDA C++ kernels on a CPU: compiled as C++ with the primitives of `cuda_on_cpu`, and launched as on a GPU.

`Compiled` is what `kernels.cuda.build.load` returns here; tests replace that function by `load`. `run_apart` launches
in a process of its own, in which a sanitizer watches every access.
"""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import struct
import subprocess
from pathlib import Path

import torch

HERE = Path(__file__).with_name("cuda_on_cpu")
BUILD = Path(__file__).parents[2] / "build" / "cuda-on-cpu"
COMPILER = shutil.which("g++")
WARP = 32

resident, seed = 3, 0
"""How many blocks are under way at a time, and what decides the order of their turns."""


class Compiled:
    """A kernel that has been compiled for the CPU."""

    def __init__(self, variant):
        name = f"{variant.name}.so"
        library = ctypes.CDLL(str(compiled(variant, name, "-O2", "-fPIC", "-shared")))
        self._variant, self._launch = variant, getattr(library, f"launch_{variant.name}")

    def launch(self, grid, words, stream):
        assert grid[1:] == (1, 1)
        values = (ctypes.c_uint64 * len(words))(*(word % 2**64 for word in words))
        failed = self._launch(values, grid[0], self._variant.threads, self._variant.shared, resident, seed)
        assert not failed, "every block waits for another"


_loaded: dict[object, Compiled] = {}


def load(variant, device):
    """In place of `kernels.cuda.build.load`."""
    if variant.key not in _loaded:
        _loaded[variant.key] = Compiled(variant)
    return _loaded[variant.key]


def compiled(variant, name, *options, edit=lambda file, text: text, main="launch.cpp"):
    """Path of what g++ makes of a variant. edit: changes the text of a source file, given its name."""
    source = {path.name: edit(path.name, path.read_text()) for path in variant.path.parent.glob("*.cu*")}
    source |= {path.name: path.read_text() for path in HERE.iterdir() if path.is_file()}
    macros = {"SOURCE": f'"{variant.path.name}"', "KERNELS": f"X({variant.name})", "LAUNCH": f"launch_{variant.name}"}
    defined = [f"-D{key}={value}" for key, value in (macros | dict(variant.macros)).items()]
    told = repr((source, defined, options, main))
    folder = BUILD / hashlib.sha256(told.encode()).hexdigest()[:24]
    if not (folder / name).exists():
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in source.items():
            (folder / file).write_text(text)
        command = [COMPILER, "-std=c++17", "-ffp-contract=off", *options, *defined, main, "-o", f"{name}.part"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        (folder / f"{name}.part").rename(folder / name)
    return folder / name


def run_apart(variant, sanitizer, arguments, blocks, file, *, resident, seed, edit=lambda file, text: text):
    """Launches a variant in a process of its own, watched by one of GCC's sanitizers.

    Args:
        arguments: by name, tensors and integers; what the kernel writes is copied into the tensors.
        file: path of a file for the arguments.

    Returns:
        What the process said, and its exit status.
    """
    options = ("-g", "-O1", f"-fsanitize={sanitizer}")
    program = compiled(variant, "main", *options, edit=edit, main="main.cpp")
    with file.open("wb") as out:
        for name in variant.signature:
            value = arguments[name]
            if isinstance(value, torch.Tensor):
                out.write(struct.pack("q", value.nbytes) + value.numpy().tobytes())
            else:
                out.write(struct.pack("qq", -1, value))
    numbers = (blocks, variant.threads, variant.shared, resident, seed)
    command = ["timeout", "60", str(program), str(file), *map(str, numbers)]
    done = subprocess.run(command, capture_output=True, text=True)
    content, at = file.read_bytes(), 0
    for name in variant.signature:
        value = arguments[name]
        if isinstance(value, torch.Tensor):
            raw = bytearray(content[at + 8 : at + 8 + value.nbytes])
            value.copy_(torch.frombuffer(raw, dtype=value.dtype).view(value.shape))
            at += 8 + value.nbytes
        else:
            at += 16
    return done.stderr, done.returncode
