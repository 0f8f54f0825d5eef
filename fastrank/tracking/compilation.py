"""Compilation: kernels are compiled in the background from a tracker's construction on, so that no step waits long.

    urgent   what the first step launches: by threads of this process
    later    what sketches launch, for every number of columns there may be: by a process of its own, whose results are
             loaded here as they come; compiling them here would hold the training's own Python up for 0.1 s at a time

What is not ready is not waited for: until the kernels of the sketches are, every matrix is counted, and an optimizer's
step is fused with a sketch only when the kernel of both is there. The ranks are the same.
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
    from ..kernels.variant import Variant

THREADS = 2
"""Of this process, for what is urgent. A third is no faster: a fifth of Triton's work holds the interpreter's lock."""
PAUSE = 0.02
"""Seconds between two variants that are looked up or loaded, some 5 ms each, while training goes on."""
AHEAD = True
"""False: nothing is compiled before it is launched, and everything counts as ready."""

Tasks = queue.SimpleQueue[Callable[[], None] | None]


class Compilation:
    """Variants of kernels for one device, compiled or on their way."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._lock = threading.Lock()
        self._done: dict[object, Future[None]] = {}
        self._taken: set[object] = set()
        self._urgent: Tasks = queue.SimpleQueue()
        self._later: Tasks = queue.SimpleQueue()
        self._tasks = [*[self._urgent] * THREADS, self._later]
        self._threads: list[threading.Thread] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._hurry = threading.Event()
        self._over = False

    def request(self, urgent: Iterable[Variant], later: Iterable[Variant] = ()) -> None:
        """Has variants compiled that nobody has asked for yet, in their order. Returns at once."""
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

    def ready(self, variants: Sequence[Variant]) -> bool:
        """Whether all are compiled, or cannot be: a launch will say why. Those nobody asked for are, from now on."""
        self.request((), variants)
        return not _is_compiled() or all(self._done[variant.key].done() for variant in variants)

    def wait(self, variants: Sequence[Variant], *, here: bool = True) -> None:
        """Waits until they are `ready`. here: what nobody has begun yet is compiled by the caller."""
        self.request(variants)
        if not _is_compiled():
            return
        self._hurry.set()
        for variant in variants if here else ():
            self._warm(variant)
        for variant in variants:
            self._done[variant.key].exception()
        self._hurry.clear()

    def _new(self, variants: Iterable[Variant]) -> list[Variant]:
        found = {v.key: v for v in variants if v.key not in self._done}
        for key in found:
            self._done[key] = Future()
            if self._over:  # the program ends: nobody is kept waiting
                self._done[key].set_result(None)
                self._taken.add(key)
        return [] if self._over else list(found.values())

    def _work(self, tasks: Tasks) -> None:
        while (task := tasks.get()) is not None:  # at the end of the program the others are done at once
            task()

    def _warm(self, variant: Variant) -> None:
        """Compiles it, or loads it from Triton's cache, unless somebody has begun to. It is done in any case."""
        with self._lock:
            if variant.key in self._taken:
                return
            self._taken.add(variant.key)
        done = self._done[variant.key]
        try:
            from ..kernels.compile import warm

            if not self._over:
                warm(variant, self._device)
        except BaseException as error:  # whoever launches it is told
            done.set_exception(error)
            if not isinstance(error, Exception):
                raise
        else:
            done.set_result(None)

    def _compile_apart(self, first: Sequence[Variant], variants: Sequence[Variant]) -> None:
        """One after the other as they come from the other process, and at last whatever has not come."""
        for variant in first:
            self._done[variant.key].exception()  # the cores are theirs
        with contextlib.suppress(Exception):  # what cannot be had in this way is compiled here
            for variant in self._stored(variants):
                self._warm(variant)
                self._hurry.wait(PAUSE)
        for variant in variants:
            self._warm(variant)

    def _stored(self, variants: Sequence[Variant]) -> Iterator[Variant]:
        """Those in Triton's cache on disk; then the others, as soon as a process of its own has put them there."""
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
        """Numbers of the variants that the process has stored, as it tells them."""
        # The folders that this process imports from, and not the one it happens to stand in.
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
        """At the end of the program: nothing new is begun, and what has begun is waited for."""
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
    """Triton's interpreter compiles nothing."""
    import triton

    return AHEAD and not triton.knobs.runtime.interpret


@cache
def compilation_of(device: torch.device) -> Compilation:
    """The one of a device."""
    return Compilation(device)
