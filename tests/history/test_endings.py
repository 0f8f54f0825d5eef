"""Rows are on disk when a script ends without `close()`, however it ends."""

from __future__ import annotations

import gc
import json
import re
import weakref

import pytest
from full_disk import full_disk
from made_history import Owner, make, record, start, steps_in

from fastrank.history import HistoryWarning

ENDINGS = """
import gc, json, multiprocessing, os, signal, sys, threading
from made_history import *

def end(name):
    owner = Owner(make(folder / name))
    record(owner.history, 1, 2, 3)
    if name == "exception":
        raise ValueError
    elif name == "sys.exit":
        sys.exit(3)
    elif name == "Ctrl-C":
        signal.raise_signal(signal.SIGINT)
    elif name == "closed":
        owner.history.close()
        record(owner.history, 4)
    elif name == "collected":
        del owner
        gc.collect()
        os._exit(0)
    elif name == "thread":
        threading.Thread(target=lambda: record(owner.history, 4)).start()
    elif name == "os._exit":
        os._exit(0)
    elif name == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)

folder = Path(sys.argv[1])
torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # which whoever runs the tests in the background ignores
owner = Owner(make(folder / "parent"))
record(owner.history, 1, 2, 3)
children = {}
for name in ["last line", "exception", "sys.exit", "Ctrl-C", "closed", "collected", "thread", "os._exit", "SIGKILL"]:
    child = os.fork()
    if child == 0:
        end(name)
        break
    children[name] = child
else:
    codes = {name: os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for name, child in children.items()}
    for way, fail in ("fork", False), ("fork", True), ("spawn", False):
        name = f"{way} {fail}"
        process = multiprocessing.get_context(way).Process(target=record_and_leave, args=(folder / name, fail))
        process.start()
        process.join()
        codes[name] = process.exitcode
    print(json.dumps([codes, steps_in(folder / "parent")]))
"""


def test_every_ending(tmp_path):
    """Of processes that one has started, which has a history of its own that none of them writes."""
    with start(ENDINGS, tmp_path) as process:
        out, errors = process.communicate()
    assert process.returncode == 0, errors
    codes, parent = json.loads(out.splitlines()[-1])
    assert parent == [], "the parent's rows are written at its own end"
    assert steps_in(tmp_path / "parent") == [1, 2, 3]
    assert {name: (code, steps_in(tmp_path / name)) for name, code in codes.items()} == {
        "last line": (0, [1, 2, 3]),
        "exception": (1, [1, 2, 3]),
        "sys.exit": (3, [1, 2, 3]),
        "Ctrl-C": (-2, [1, 2, 3]),  # as Python ends by a signal, but where code is executed at its end
        "closed": (0, [1, 2, 3, 4]),
        "collected": (0, [1, 2, 3]),
        "thread": (0, [1, 2, 3, 4]),
        "fork False": (0, [1, 2, 3]),
        "fork True": (1, [1, 2, 3]),
        "spawn False": (0, [1, 2, 3]),
        "os._exit": (0, []),  # nobody can do anything then, but for the alarm before
        "SIGKILL": (-9, []),
    }
    assert "Warning" not in errors.replace("DeprecationWarning: This process", "")  # Python 3.12, of every fork
    assert re.findall(r"^\w+(?:Error|Interrupt)", errors, re.M) == ["ValueError", "KeyboardInterrupt", "ValueError"]


def test_what_goes_wrong_at_the_end_is_a_warning(tmp_path):
    owners = [Owner(make(tmp_path))]
    record(owners[0].history, *range(1, 1000))
    owners[0].itself = None
    with full_disk(), pytest.warns(HistoryWarning, match=r"part-00000\.parquet: not written .*; its rows are lost"):
        owners.clear()
    assert list(tmp_path.glob("part-*")) == []


def test_what_goes_wrong_at_the_very_end_is_a_warning(tmp_path):
    script = """
import shutil, sys; from made_history import *
owner = Owner(make(Path(sys.argv[1]) / "gone")); record(owner.history, 1)
shutil.rmtree(Path(sys.argv[1]) / "gone")
"""
    with start(script, tmp_path) as process:
        _, errors = process.communicate()
    assert process.returncode == 0
    assert "HistoryWarning" in errors
    assert "its rows are lost" in errors
    assert "Traceback" not in errors


def test_an_owner_that_is_forgotten_while_a_graph_is_captured(tmp_path):
    """Its rows on the device may not be fetched then, so they are written at the very end."""
    script = """
import gc, sys; from made_history import *; from fastrank.history import ending, ring
owner = Owner(make(Path(sys.argv[1]))); record(owner.history, 1)
asks = ring.capturing
ending.capturing = ring.capturing = lambda device: True
owner.itself = owner = None
assert not steps_in(Path(sys.argv[1]))
ending.capturing = ring.capturing = asks
"""
    with start(script, tmp_path) as process:
        _, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    assert steps_in(tmp_path) == [1]


def test_without_a_folder_nothing_is_left_to_do(tmp_path):
    owner = Owner(make())
    record(owner.history, 1)
    left = weakref.ref(owner.history)
    del owner
    gc.collect()
    assert left() is None


def test_an_owner_that_is_forgotten_while_the_alarm_writes(tmp_path, monkeypatch):
    """Its history is closed afterwards, not in the midst of it."""
    owners = [Owner(make(tmp_path))]
    history = owners[0].history
    record(history, 1)
    write = history._parts.write

    def forget_and_write(table):
        owners.clear()
        gc.collect()
        assert history._pending.blocks
        write(table)

    monkeypatch.setattr(history._parts, "write", forget_and_write)
    history._on_alarm()
    gc.collect()
    assert history._pending.blocks == []
    assert steps_in(tmp_path) == [1]
    make(tmp_path).close()


STRUCK = """
import random, signal, sys, time
from made_history import *
from fastrank.history import ring

ring.CAPACITY = 8
folder, recorded, random = Path(sys.argv[1]), [], random.Random(0)
history = make(folder, rows_per_part=64)
owner = Owner(history)

def strike(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, strike)
end, step, strikes = time.time() + 3, 0, 0
while time.time() < end or strikes < 200:
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 1e-3))
        while True:
            step += 1
            record(history, step)
            recorded.append(step)
            if random.random() < 0.05:
                history.last()
            if random.random() < 0.01:
                history.flush()
    except KeyboardInterrupt:
        strikes += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
history.to_arrow()
signal.signal(signal.SIGALRM, signal.SIG_IGN)
print(*recorded)
"""


def test_ctrl_c_loses_no_row_and_doubles_none(tmp_path):
    """It strikes anywhere, hundreds of times. A row whose recording it interrupts is either there or not."""
    with start(STRUCK, tmp_path) as process:
        out, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    steps = steps_in(tmp_path)
    assert steps == sorted(set(steps))
    assert set(steps) >= set(map(int, out.split()))
