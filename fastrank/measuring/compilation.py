"""Compilation: kernels are compiled in the background from a tracker's construction on, so that no step waits long.

    urgent   kernels that the first step launches: compiled by threads of this process
    later    kernels that sketches launch, for every number of columns k that may come: compiled by a second process,
             whose results are loaded here as they arrive. Compiling them here would hold up the training's own Python
             for 0.1 s at a time

No step waits for a kernel of the second kind. Until the kernels of the sketches are compiled, every matrix is counted;
and an optimizer's step is fused with a sketch only when the kernel that does both is compiled. The ranks are the same.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import cache, partial
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from ..kernels.launch import AnyVariant

THREADS = 2
"""Threads of this process for urgent kernels. A third is no faster: for a fifth of its work Triton holds the
interpreter's lock."""
PAUSE = 0.02
"""Seconds from one variant that is looked up or loaded in the background, in some 5 ms, to the next."""
AHEAD = True
"""False: no kernel is compiled before it is launched, and every variant counts as ready."""

Tasks = queue.SimpleQueue[Callable[[], None] | None]


class Compilation:
    """The kernel variants of one device that are compiled or being compiled.

    `request` asks for variants, `ready` says whether they are compiled, and `wait` waits for them. Each variant has a
    future, and is compiled once.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._lock = threading.Lock()
        self._done: dict[object, Future[None]] = {}
        self._taken: set[object] = set()  # keys of the variants that a thread has begun
        self._urgent: Tasks = queue.SimpleQueue()
        self._later: Tasks = queue.SimpleQueue()
        self._tasks = [*[self._urgent] * THREADS, self._later]
        self._threads: list[threading.Thread] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._hurry = threading.Event()  # set while somebody waits: then the background makes no pauses
        self._over = False  # whether the program is ending

    def request(self, urgent: Iterable[AnyVariant], later: Iterable[AnyVariant] = ()) -> None:
        """Has those variants compiled that have not been requested before, in their order. Returns at once."""
        if not _is_compiled():
            return
        with self._lock:
            now, then = self._new(urgent), self._new(later)
            if (now or then) and not self._threads:
                self._threads = [threading.Thread(target=self._work, args=(own,), daemon=True) for own in self._tasks]
                for thread in self._threads:
                    thread.start()
                atexit.register(self._stop)
        for variant in now:
            self._urgent.put(partial(self._warm, variant))
        if then:
            self._later.put(partial(self._compile_apart, now, then))

    def ready(self, variants: Sequence[AnyVariant]) -> bool:
        """Whether all are compiled, or have failed to: their launch will say why. Requests new ones for later."""
        self.request((), variants)
        return not _is_compiled() or all(self._done[variant.key].done() for variant in variants)

    def wait(self, variants: Sequence[AnyVariant], *, here: bool = True) -> None:
        """Waits until all are `ready`; new ones are requested as urgent.

        here: the calling thread compiles those that no other thread has begun (default True).
        """
        self.request(variants)
        if not _is_compiled():
            return
        self._hurry.set()
        for variant in variants if here else ():
            self._warm(variant)
        for variant in variants:
            self._done[variant.key].exception()
        self._hurry.clear()

    def _new(self, variants: Iterable[AnyVariant]) -> list[AnyVariant]:
        """Gives a future to each variant that has none yet, and returns these variants: they are to be compiled."""
        found = {v.key: v for v in variants if v.key not in self._done}
        for key in found:
            self._done[key] = Future()
            if self._over:  # the program ends: nobody is kept waiting
                self._done[key].set_result(None)
                self._taken.add(key)
        return [] if self._over else list(found.values())

    def _work(self, tasks: Tasks) -> None:
        while (task := tasks.get()) is not None:  # None comes from `_stop`; tasks before it then compile nothing more
            task()

    def _warm(self, variant: AnyVariant) -> None:
        """Compiles a variant, or loads it from Triton's cache, unless another thread has begun to.

        Its future is settled in any case, by an exception if the compilation fails.
        """
        with self._lock:
            if variant.key in self._taken:
                return
            self._taken.add(variant.key)
        done = self._done[variant.key]
        try:
            from ..kernels.compile import warm

            if not self._over:
                warm(variant, self._device)
        except BaseException as error:  # the launch that needs this kernel will say it again
            done.set_exception(error)
            if not isinstance(error, Exception):
                raise
        else:
            done.set_result(None)

    def _compile_apart(self, first: Sequence[AnyVariant], variants: Sequence[AnyVariant]) -> None:
        """Has `variants` compiled by a second process and loads each when it is stored; compiles here what is missing.

        first: urgent variants, which are waited for before anything else is done.
        """
        for variant in first:
            self._done[variant.key].exception()  # until then the urgent ones need the cores
        with contextlib.suppress(Exception):  # what the second process does not deliver is compiled below
            for variant in self._stored(variants):
                self._warm(variant)
                self._hurry.wait(PAUSE)
        for variant in variants:
            self._warm(variant)

    def _stored(self, variants: Sequence[AnyVariant]) -> Iterator[AnyVariant]:
        """Yields variants that are in Triton's cache on disk, then the others as a second process puts them there."""
        from ..kernels.compile import is_stored, packed, target_of

        target = target_of(self._device)
        missing = []
        for variant in variants:
            if is_stored(variant, target):
                yield variant
            else:
                missing.append(variant)
                self._hurry.wait(PAUSE)
        if missing:
            threads = max(1, min(4, len(os.sched_getaffinity(0)) // 2))
            yield from (missing[i] for i in self._run_apart(packed(missing, target, threads)))

    def _run_apart(self, given: bytes) -> Iterator[int]:
        """Runs the second process on what `packed` made; yields the index of each variant that it has stored."""
        # It imports from the folders that this process imports from, and not (-P) from its working directory.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        with self._lock:
            if self._over:
                return
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "fastrank.kernels.compile"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
        with self._process as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(given)
            process.stdin.flush()
            yield from (int(line) for line in process.stdout if line.strip().isdigit())

    def _stop(self) -> None:
        """At the end of the program: kills the second process, begins nothing new, and waits for what has begun."""
        with self._lock:
            self._over = True
            if self._process is not None:
                self._process.kill()
        self._hurry.set()
        for tasks in self._tasks:
            tasks.put(None)
        for thread in self._threads:
            thread.join()


def _is_compiled() -> bool:
    """Whether kernels are compiled ahead of their launch at all: Triton's interpreter compiles nothing."""
    import triton

    return AHEAD and not triton.knobs.runtime.interpret


@cache
def compilation_of(device: torch.device) -> Compilation:
    """The `Compilation` of a device: one for the whole process."""
    return Compilation(device)
