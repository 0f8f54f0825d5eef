"""Launch: launches kernels, and replays the launches of a step without asking Triton anew what to launch.

    launch(variant, grid, arguments)     launches a kernel through Triton's JIT, which takes 8 to 20 us of the host
    tape = Tape(); tape(body)            the first call runs `body` and writes down what it launches; later calls launch
                                         the same again, in 1 us each

The JIT looks at every argument, to find the compiled kernel that serves its type and alignment. A measured step
launches the same kernels with the same arguments as the one before it, so a `Tape` keeps of each launch the compiled
kernel and the addresses. It is used like a CUDA graph: `body` calls launchers, which may only launch kernels, and
whatever differs from step to step has to be in the device's memory. Kernels in CUDA C++ (`kernels.cuda`) are launched
in the same ways, through CUDA's driver.

A compiled kernel is called here as `triton.runtime.jit.JITFunction.run` calls it in the versions of Triton named in
`VERSIONS`; in 3.6 the C function is called that Triton's own launcher would call. In any other version, in Triton's
interpreter, and as long as a profiler has hooked into Triton's launches, a tape launches through the JIT.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple

import torch
import triton

from .cuda import CudaVariant, Words, build
from .variant import Variant

VERSIONS = ("3.6.", "3.9.")
"""Beginnings of the versions of Triton whose compiled kernels are called directly."""

AnyVariant = Variant | CudaVariant
"""What can be launched, or compiled beforehand."""

_recorded: ContextVar[list[Launch] | None] = ContextVar("_recorded", default=None)


class Compiled(NamedTuple):
    """A kernel that Triton has compiled and loaded, for grids of one size."""

    run: Any
    grid: tuple[int, ...]
    function: int
    packed: Any
    kernel: Any
    """Triton's own object, kept because its end may unload the kernel."""

    def bound(self, stream: int) -> Callable[..., None]:
        """Launches on the raw CUDA `stream`, given all arguments in the kernel's order, tensors as addresses."""
        run = self.run
        if triton.__version__.startswith("3.6.") and type(run).__name__ == "CudaLauncher":
            scratch = run.global_scratch_size or run.profile_scratch_size
            if not scratch:  # then all that its `__call__` does is this call of a C function
                flags = (run.launch_cooperative_grid, run.launch_pdl, None, None)
                given = (*self.grid, stream, self.function, *flags, self.packed, None, None, None)
                return partial(run.launch, *given)
        return partial(run, *self.grid, stream, self.function, self.packed, None, None, None)


class Launch:
    """One launch of a kernel, which can be repeated.

    Args:
        variant: the kernel, its compile-time arguments and its options.
        grid: number of programs along each axis.
        arguments: all others, by name. Tensors have to stay where they are as long as the launch may be repeated.
    """

    def __init__(self, variant: AnyVariant, grid: tuple[int, ...], arguments: Mapping[str, Any]) -> None:
        self._variant: Any = variant
        self._grid, self._arguments = (*grid, 1, 1)[:3], arguments
        self.compiled: Compiled | None = None
        """The kernel, once it was launched, if it can be called directly; for arguments of the same types."""
        self._words: list[Any] = []
        self._stream = -1
        self._bound: Callable[[], None] | None = None

    def by_jit(self) -> None:
        """Launches through Triton's JIT, which may compile the kernel."""
        kernel, given = self._variant.kernel, self._arguments
        constexprs = {name: x for name, x in self._variant.constexprs.items() if name not in given}
        compiled = kernel[self._grid](**given, **constexprs, **self._variant.options)
        if compiled is not None and triton.__version__.startswith(VERSIONS):  # the interpreter returns None
            values = {**given, **constexprs}
            every = (values[name] for name in kernel.arg_names)
            self._words = [x.data_ptr() if isinstance(x, torch.Tensor) else x for x in every]
            self.compiled = Compiled(compiled.run, self._grid, compiled.function, compiled.packed_metadata, compiled)

    def again(self, stream: int) -> None:
        """Launches on the raw CUDA `stream` what `by_jit` has launched before."""
        if self.compiled is None:
            self.by_jit()
            return
        if self._bound is None or self._stream != stream:
            self._stream, self._bound = stream, partial(self.compiled.bound(stream), *self._words)
        self._bound()


class CudaLaunch(Launch):
    """One launch of a kernel in CUDA C++, which can be repeated."""

    def __init__(self, variant: CudaVariant, grid: tuple[int, ...], arguments: Mapping[str, Any]) -> None:
        super().__init__(variant, grid, arguments)
        self._packed = Words(variant.signature, arguments)
        device = next(x.device for x in arguments.values() if isinstance(x, torch.Tensor))
        self._function = build.load(variant, device)

    def by_jit(self) -> None:
        """Launches on the current stream. Triton's hooks, which only know kernels of Triton, do not hear of it."""
        self.again(current_stream())

    def again(self, stream: int) -> None:
        """Launches on the raw CUDA `stream`."""
        self._function.launch(self._grid, self._packed, stream)


def launch(variant: AnyVariant, grid: tuple[int, ...], arguments: Mapping[str, Any]) -> Launch:
    """Launches the kernel of a variant on the current device and stream.

    Args:
        variant: says which kernel, with which compile-time arguments and options.
        grid: number of programs, which are blocks in CUDA C++, along each axis.
        arguments: the kernel's other arguments by name. They must be of the types that the variant is compiled for.
    """
    if isinstance(variant, CudaVariant):
        made: Launch = CudaLaunch(variant, grid, arguments)
    else:
        made = Launch(variant, grid, arguments)
    made.by_jit()
    recorded = _recorded.get()
    if recorded is not None:
        recorded.append(made)
    return made


class Tape:
    """Launches that are written down at the first call and repeated by every later one."""

    def __init__(self) -> None:
        self._launches: list[Launch] | None = None

    def __call__(self, body: Callable[[], None]) -> None:
        """Launches on the current device and stream what `body` launches: by calling it, if nothing is written down."""
        if self._launches is None:
            with recording() as launches:
                body()
            self._launches = launches
        elif _hooked():
            for each in self._launches:
                each.by_jit()
        else:
            stream = current_stream()
            for each in self._launches:
                each.again(stream)

    def __len__(self) -> int:
        """Number of launches; 0 before the first call."""
        return len(self._launches or ())

    def forget(self) -> None:
        """Have the next call write down anew, because an argument of the launches has changed."""
        self._launches = None


@contextmanager
def recording() -> Iterator[list[Launch]]:
    """Collects what is launched meanwhile, in this thread, in the list that it gives."""
    launches: list[Launch] = []
    before = _recorded.set(launches)
    try:
        yield launches
    finally:
        _recorded.reset(before)


def watched() -> bool:
    """Whether a tape or a profiler wants to hear of launches: then they have to go through `launch`."""
    return _recorded.get() is not None or _hooked()


def _hooked() -> bool:
    """Whether a profiler wants to hear of launches."""
    runtime = triton.knobs.runtime
    return any(getattr(hook, "calls", hook) for hook in (runtime.launch_enter_hook, runtime.launch_exit_hook))


def current_stream() -> int:
    """The raw CUDA stream on which Triton would launch now; 0 in its interpreter."""
    if triton.knobs.runtime.interpret:
        return 0
    driver = triton.runtime.driver.active
    return int(driver.get_current_stream(driver.get_current_device()))
