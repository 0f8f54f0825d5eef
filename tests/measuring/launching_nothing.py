"""A script for test_compilation.py: tracked steps above a driver that launches nothing, and what is compiled meanwhile.

Prints JSON: for each step its milliseconds and how many kernels the thread that steps has compiled in it, which kernels
this process has compiled or loaded twice, and how many columns sketches had and forms of a fused step at last.
"""

import json
import os
import threading
import time
from pathlib import Path

import fake_driver

fake_driver.install(Path(os.environ["TRITON_CACHE_DIR"]))
fake_driver.serve_the_cpu()

import torch  # noqa: E402
import triton.compiler  # noqa: E402
from torch import nn  # noqa: E402

import fastrank  # noqa: E402
from fastrank.measuring import sketch_measurer  # noqa: E402

torch.set_num_threads(1)
compiled, seen, twice = 0, set(), []
compile_ = triton.compiler.compile


def noted(source, **options):
    global compiled
    compiled += threading.current_thread() is threading.main_thread()
    key = source.hash(), str(options["options"])
    twice.extend([source.name] if key in seen else [])
    seen.add(key)
    return compile_(source, **options)


triton.compiler.compile = noted
# Nothing is launched, so nothing is measured: this is what the host hears of, that the second matrix' rank has grown.
sketch_measurer.to_host = lambda values: torch.tensor([0.0, 20.0])
model = nn.Sequential(nn.Linear(64, 40), nn.Linear(200, 100))
for parameter in model.parameters():
    parameter.grad = torch.zeros_like(parameter)
optimizer = fastrank.SGD(model.parameters(), lr=0.1, momentum=0.9)
tracker = fastrank.RankTracker(model, optimizer)
sketches = tracker._measurer._home._trained._sketches._bases
steps = []


def step():
    before, started = compiled, time.perf_counter()
    optimizer.step()
    steps.append([1e3 * (time.perf_counter() - started), compiled - before])


step()
deadline = time.monotonic() + 540
while sketches.columns != [64, 32] or not all(each.compiled for each in sketches._passes):
    assert time.monotonic() < deadline
    step()
    time.sleep(0.05)
for _ in range(2):
    step()
fused = [len(each.compiled) for each in sketches._passes]
print(json.dumps({"steps": steps, "columns": sketches.columns, "fused": fused, "twice": twice}))
