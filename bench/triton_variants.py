"""Triton kernels, found and compiled ahead of time: modules -> variants -> builds.

A kernel is a `@triton.jit` function named `..._kernel`; what a module must say of its kernels is in
`fastrank.kernels.variant`.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import triton
from cubin import Build, disassemble, read_ptx, read_report, read_sass
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime import JITFunction

from fastrank.kernels.compile import source_of
from fastrank.kernels.variant import Variant

INSTALLED = Path(__file__).resolve().parents[1] / "kernels"


def load(path: Path) -> ModuleType:
    """The module in a file: by the name its siblings import it by, if it is one of fastrank.kernels."""
    if path.resolve().is_relative_to(INSTALLED):
        parts = path.resolve().relative_to(INSTALLED).with_suffix("").parts
        return importlib.import_module(".".join(("fastrank.kernels", *parts)))
    spec = importlib.util.spec_from_file_location(f"kernels_in_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def variants(module: ModuleType) -> tuple[list[Variant], list[str]]:
    """The module's launch configurations, and the names of its kernels that have none."""
    found = list(module.variants()) if hasattr(module, "variants") else []
    covered = {id(jit(variant.kernel)) for variant in found}
    kernels = [
        jit(value)
        for name, value in vars(module).items()
        if name.endswith("_kernel") and getattr(jit(value), "__module__", None) == module.__name__
    ]
    missing = [k.__name__ for k in kernels if isinstance(k, JITFunction) and id(k) not in covered]
    return found, missing


def jit(value: Any) -> Any:
    """The jit function inside whatever decorators (autotune, heuristics) stand around it."""
    while not isinstance(value, JITFunction) and hasattr(value, "fn"):
        value = value.fn
    return value


def build(variant: Variant, architecture: str, disassembled: bool = True) -> Build:
    """Compiles one variant; raises whatever Triton raises where that does not go.

    disassembled: whether to look into the binary for its tensor-core instructions, by which nothing is refused, and
        which takes a third of the time.
    """
    source = source_of(replace(variant, kernel=jit(variant.kernel)))
    target = GPUTarget("cuda", int(architecture.removeprefix("sm_")), 32)
    compiled, report = _compile(source, target, variant.options)
    sass = _cache_folder(compiled) / "sass.txt"
    if disassembled and not sass.exists():
        _write(sass, disassemble(compiled.kernel))
    return Build(
        compiler=f"triton {triton.__version__}",
        resources=read_report(report)[compiled.metadata.name],
        warps=compiled.metadata.num_warps,  # with those that warp specialisation has added
        dynamic_shared=compiled.metadata.shared,
        tensor_memory=compiled.metadata.tmem_size or 0,
        sass=read_sass(sass.read_text())[compiled.metadata.name] if disassembled else None,
        ptx=read_ptx(compiled.asm["ptx"]),
    )


def _compile(source: ASTSource, target: GPUTarget, options: dict[str, Any]) -> tuple[Any, str]:
    """The compiled kernel and ptxas's report of it.

    Triton prints the report when asked to, but only when it compiles: it is kept beside the kernel in Triton's cache,
    and a kernel that came from the cache without one is compiled again.
    """
    for again in (False, True):
        printed = io.StringIO()
        with knobs.nvidia.scope(), knobs.compilation.scope(), contextlib.redirect_stdout(printed):
            knobs.nvidia.dump_ptxas_log = True
            knobs.compilation.always_compile = again
            compiled = triton.compile(source, target=target, options=options)
        report = _cache_folder(compiled) / "ptxas.txt"
        if "Compiling entry function" in printed.getvalue():
            _write(report, printed.getvalue())
        if report.exists():
            return compiled, report.read_text()
    raise RuntimeError("ptxas has reported nothing")


def _cache_folder(compiled: Any) -> Path:
    return Path(next(iter(compiled.metadata_group.values()))).parent


def _write(path: Path, text: str) -> None:
    """Writes all of it or nothing: half a disassembly would be believed."""
    part = path.with_suffix(f".{os.getpid()}")
    part.write_text(text)
    part.replace(path)
