"""OpenMP: a function of C is called once in each thread, and once alone where there is no OpenMP."""

from __future__ import annotations

import ctypes
import threading

import pytest

from fastrank.kernels.cpu import openmp

seen: list[tuple[int, int]] = []


@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def note(argument):
    seen.append((argument, threading.get_ident()))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_each_thread_calls_it_once(threads):
    seen.clear()
    openmp.in_team(note, 77, threads)
    assert [argument for argument, _ in seen] == [77] * threads
    assert len({thread for _, thread in seen}) == threads
    assert threading.get_ident() in {thread for _, thread in seen}


def test_alone_without_openmp(monkeypatch):
    monkeypatch.setattr(openmp, "_parallel", lambda: None)
    seen.clear()
    openmp.in_team(note, 5, 4)
    assert seen == [(5, threading.get_ident())]
