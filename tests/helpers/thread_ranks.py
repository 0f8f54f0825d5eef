"""Ranks that are threads of one process, or nobody: for tests of what `fastrank.sharing.Ranks` is asked to send."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import torch


class ThreadRanks:
    """One of several ranks that meet at a barrier; it stands for `fastrank.sharing.Ranks`, and counts what it sends."""

    def __init__(self, rank, size, mail, barrier):
        self.rank, self.size, self.doing, self.moved = rank, size, "", 0
        self._mail, self._barrier = mail, barrier

    def name(self, i):
        return f"rank {i}"

    def exchange(self, sent, sizes_sent, sizes_received):
        assert sum(sizes_sent) == sent.numel()
        for to, part in enumerate(torch.split(sent, list(sizes_sent))):
            self._mail[self.rank, to] = part.clone()
            self.moved += part.nbytes if to != self.rank else 0
        self._barrier.wait(30)
        came = [self._mail[source, self.rank] for source in range(self.size)]
        assert [part.numel() for part in came] == list(sizes_received)
        self._barrier.wait(30)
        return torch.cat(came)

    def sum_(self, tensor):
        self._mail[self.rank, None] = tensor.clone()
        self._barrier.wait(30)
        total = sum(self._mail[source, None] for source in range(self.size))
        self._barrier.wait(30)
        return tensor.copy_(total)


def in_threads(size, function):
    """What `function(ranks)` returns on each of so many ranks; the first error is raised."""
    mail, barrier = {}, threading.Barrier(size)

    def run(rank):
        try:
            return function(ThreadRanks(rank, size, mail, barrier))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        done = [pool.submit(run, rank) for rank in range(size)]
    errors = [error for future in done if (error := future.exception()) is not None]
    if errors:  # those of ranks that have only waited in vain come last
        raise min(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError))
    return [future.result() for future in done]


class CountingRanks:
    """One of several ranks, alone: it counts what it would send and receive, of tensors without numbers."""

    def __init__(self, rank, size):
        self.rank, self.size, self.doing = rank, size, ""
        self.moved = self.received = 0

    def exchange(self, sent, sizes_sent, sizes_received):
        assert sent.is_meta
        assert sum(sizes_sent) == sent.numel()
        self.moved += sent.element_size() * (sum(sizes_sent) - sizes_sent[self.rank])
        self.received += sent.element_size() * (sum(sizes_received) - sizes_received[self.rank])
        return sent.new_empty(sum(sizes_received))
