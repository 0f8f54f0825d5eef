"""Compile: compiles kernels before they are launched, into Triton's cache on disk or into this process.

    store   writes the kernel of a variant, and its C launcher, into Triton's cache on disk; needs no GPU and no driver
    warm    puts a variant where a launch in this process looks for it; takes it from the cache on disk if it is there

Of a kernel in CUDA C++ both write the machine code into the same cache, where its first launch finds it.

As a command, `python -m fastrank.kernels.compile` stores the variants that it reads from its standard input (see
`packed`), in several threads. It ends when that input is closed, so that it does not outlive the process that started
it. It is a process of its own because compiling holds the lock of Python's interpreter for up to 0.1 s at a time.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import pickle
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import MockTensor

from .cuda import CudaVariant, build
from .device import capability, current
from .launch import AnyVariant
from .variant import Variant

NICENESS = 10
"""Niceness of the command's process (see `nice`): higher gives way to others more."""
_POINTERS = {
    "*fp16": torch.float16, "*bf16": torch.bfloat16, "*fp32": torch.float32, "*fp64": torch.float64,
    "*i8": torch.int8, "*i32": torch.int32, "*i64": torch.int64,
}  # fmt: skip


def target_of(device: torch.device) -> GPUTarget:
    """Triton's name for the architecture of `device`."""
    with current(device):
        return triton.runtime.driver.active.get_current_target()


def source_of(variant: Variant) -> ASTSource:
    """A variant in the form that Triton's compiler takes.

    Raises:
        ValueError: `signature` and `constexprs` together do not name exactly the kernel's arguments.
    """
    kernel = variant.kernel
    if sorted([*variant.signature, *variant.constexprs]) != sorted(kernel.arg_names):
        raise ValueError(
            f"signature {list(variant.signature)} and constexprs {list(variant.constexprs)} are together "
            f"not the arguments {kernel.arg_names}"
        )
    signature: dict[str, str] = {}
    attributes: dict[tuple[int], list[list[object]]] = {}
    for i, name in enumerate(kernel.arg_names):
        signature[name], _, divisor = variant.signature.get(name, "constexpr").partition(":")
        if divisor not in ("", "16"):
            raise ValueError(f"{name} is {variant.signature[name]!r}, but Triton knows divisibility by 16 only")
        if divisor:
            attributes[i,] = [["tt.divisibility", 16]]
    return ASTSource(fn=kernel, signature=signature, constexprs=dict(variant.constexprs), attrs=attributes)


def is_stored(variant: AnyVariant, target: GPUTarget) -> bool:
    """Whether Triton's cache on disk has the variant; False where this version of Triton cannot be asked like this."""
    if isinstance(variant, CudaVariant):
        return build.is_stored(variant, _capability(target))
    try:
        from triton._C.libtriton import get_cache_invalidating_env_vars
        from triton.compiler import get_cache_key, make_backend
        from triton.runtime.cache import get_cache_manager

        source, backend = source_of(variant), make_backend(target)
        options = backend.parse_options(dict(variant.options, **source.parse_options()))
        key = get_cache_key(source, backend, options, env_vars=get_cache_invalidating_env_vars())
        name = f"{source.name[:150]}.json"
        return name in (get_cache_manager(hashlib.sha256(key.encode()).hexdigest()).get_group(name) or {})
    except (ImportError, TypeError, AttributeError):
        return False


def _capability(target: GPUTarget) -> tuple[int, int]:
    return int(target.arch) // 10, int(target.arch) % 10


def store(variant: AnyVariant, target: GPUTarget) -> None:
    """Compiles a variant into Triton's cache on disk, and its C launcher where Triton makes one for each kernel."""
    if isinstance(variant, CudaVariant):
        build.cubin(variant, _capability(target))
        return
    compiled = triton.compile(source_of(variant), target=target, options=variant.options)
    # Making the launcher needs CUDA's library. Where that cannot be loaded, the first launch makes the launcher.
    with contextlib.suppress(Exception):
        from triton.backends.nvidia.driver import CudaLauncher

        CudaLauncher(compiled.src, compiled.metadata)


_binding = threading.Lock()


def warm(variant: AnyVariant, device: torch.device) -> None:
    """Compiles `variant` so that its launches on `device` need not. Nothing is loaded onto the device."""
    if isinstance(variant, CudaVariant):
        build.cubin(variant, capability(device))
        return
    kernel = variant.kernel
    values = [
        variant.constexprs[name] if name in variant.constexprs else _stand_in(variant.signature[name])
        for name in kernel.arg_names
    ]
    with current(device):
        driver = triton.runtime.driver.active
        with _binding:  # two threads would each begin a cache here, and the entries of one be lost
            _ = kernel.device_caches[driver.get_current_device()]
        compiled = kernel.warmup(*values, grid=(1,), **variant.options)
        driver.launcher_cls(compiled.src, compiled.metadata)


def _stand_in(kind: str) -> Any:
    """An argument that Triton takes to be of type `kind`, which is written as in `Variant.signature`."""
    name, _, divisor = kind.partition(":")
    if name in _POINTERS:
        return MockTensor(_POINTERS[name])  # its address is a multiple of 16
    return 1.0 if name.startswith("fp") else 16 if divisor else 3


def packed(variants: Iterable[AnyVariant], target: GPUTarget, threads: int) -> bytes:
    """Standard input of the command: a length in 8 bytes, then the pickled variants, target and number of threads."""
    named = [
        replace(v, kernel=(v.kernel.__module__, v.name)) if isinstance(v, Variant) else v for v in variants
    ]  # for pickle, which takes no kernel of Triton
    body = pickle.dumps((named, (target.backend, target.arch, target.warp_size), threads))
    return len(body).to_bytes(8, "little") + body


def _unpacked() -> tuple[list[AnyVariant], GPUTarget, int]:
    size = int.from_bytes(sys.stdin.buffer.read(8), "little")
    named, target, threads = pickle.loads(sys.stdin.buffer.read(size))
    return [_with_kernel(v) if isinstance(v, Variant) else v for v in named], GPUTarget(*target), threads


def _with_kernel(named: Variant) -> Variant:
    module, name = named.kernel
    return replace(named, kernel=getattr(importlib.import_module(module), name))


def _end_with_the_input() -> None:
    os.read(0, 1)  # waits without the interpreter's lock, so that the process can also end by itself
    os._exit(1)


def main() -> int:
    """Stores each variant of the standard input, and prints its index when it is stored, or cannot be."""
    import fcntl

    variants, target, threads = _unpacked()
    threading.Thread(target=_end_with_the_input, daemon=True).start()
    os.nice(NICENESS)
    folder = Path(triton.knobs.cache.dir)
    folder.mkdir(parents=True, exist_ok=True)
    # All processes of one training ask for the same variants: the first compiles them, and the others find them.
    with (folder / "fastrank.lock").open("w") as lock, ThreadPoolExecutor(threads) as pool:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for number, _ in enumerate(pool.map(partial(_store_once, target=target), variants)):
            print(number, flush=True)
    return 0


def _store_once(variant: AnyVariant, target: GPUTarget) -> None:
    with contextlib.suppress(Exception):  # the launch that needs this variant will raise the error
        if not is_stored(variant, target):
            store(variant, target)


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # without waiting for the thread that still reads the input
