"""Compilation: kernels are compiled in the background from a tracker's construction on, so that no step waits long.

    urgent   what the first step launches: by threads of this process
    later    what sketches launch, for every number of columns there may be: by a process of its own, whose results are
             then loaded here; compiling them here would hold the training's own Python up for 0.1 s at a time

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
from functools import cache
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from fastrank.kernels.variant import Variant

THREADS = 2
"""Of this process. A third is no faster: a fifth of Triton's work holds the interpreter's lock."""
PAUSE = 0.02
"""Seconds between two variants that are looked up or loaded, some 5 ms each, while training goes on."""
AHEAD = True
"""False: nothing is compiled before it is launched, and everything counts as ready."""


class Compilation:
    """Variants of kernels for one device, compiled or on their way."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._done: dict[object, Future[None]] = {}
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._over = False
        self._hurry = threading.Event()

    def request(self, urgent: Iterable[Variant], later: Iterable[Variant] = ()) -> None:
        """Has variants compiled that nobody has asked for yet. Returns at once."""
        if not _is_compiled():
            return
        now, then = self._new(urgent), self._new(later)
        for variant in now:
            self._tasks.put(lambda v=variant: self._warm(v))  # type: ignore[misc]
        if then:
            self._tasks.put(lambda: self._compile_apart(now, then))
        if (now or then) and not self._threads:
            self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(THREADS)]
            for thread in self._threads:
                thread.start()
            atexit.register(self._stop)

    def ready(self, variants: Sequence[Variant]) -> bool:
        """Whether all are compiled, or cannot be: a launch will say why. Those nobody asked for are, from now on."""
        self.request((), variants)
        return not _is_compiled() or all(self._done[variant.key].done() for variant in variants)

    def wait(self, variants: Sequence[Variant]) -> None:
        """Waits until they are `ready`."""
        self.request(variants)
        self._hurry.set()
        for variant in variants if _is_compiled() else ():
            self._done[variant.key].exception()
        self._hurry.clear()

    def _new(self, variants: Iterable[Variant]) -> list[Variant]:
        found = {v.key: v for v in variants if v.key not in self._done}
        self._done |= {key: Future() for key in found}
        return list(found.values())

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None and not self._over:
            task()

    def _warm(self, variant: Variant) -> None:
        from fastrank.kernels.compile import warm

        done = self._done[variant.key]
        try:
            if not self._over:
                warm(variant, self._device)
            done.set_result(None)
        except Exception as error:  # whoever launches it is told
            done.set_exception(error)

    def _compile_apart(self, first: Sequence[Variant], variants: Sequence[Variant]) -> None:
        from fastrank.kernels.compile import is_stored, packed, target_of

        for variant in first:
            self._done[variant.key].exception()  # the cores are theirs
        with contextlib.suppress(Exception):  # whatever is not in Triton's cache then is compiled here
            target = target_of(self._device)
            missing = [variant for variant in self._at_leisure(variants) if not is_stored(variant, target)]
            if missing and not self._over:
                cores = len(os.sched_getaffinity(0))
                self._run_apart(packed(missing, target, max(1, min(4, cores // 2))))
        for variant in self._at_leisure(variants):
            self._warm(variant)

    def _at_leisure(self, variants: Sequence[Variant]) -> Iterator[Variant]:
        """One after the other, with pauses for the steps that go on meanwhile, unless somebody waits."""
        for variant in variants:
            yield variant
            self._hurry.wait(PAUSE)

    def _run_apart(self, given: bytes) -> None:
        # The folders that this process imports from, and not the one it happens to stand in.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "fastrank.kernels.compile"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        with self._process as process:
            assert process.stdin is not None
            process.stdin.write(given)
            process.stdin.flush()
            process.wait()

    def _stop(self) -> None:
        """At the end of the program: nothing new is begun, and what has begun is waited for."""
        self._over = True
        self._hurry.set()
        for _ in self._threads:
            self._tasks.put(None)
        if self._process is not None:
            self._process.kill()
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
