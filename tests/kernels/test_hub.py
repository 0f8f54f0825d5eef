"""The example of the card of the kernels hub, run with the package that `hub/assemble.py` makes."""

from __future__ import annotations

import importlib.util
import re
import runpy
import sys
import types
from pathlib import Path

import torch

HUB = Path(__file__).parents[2] / "hub"


def test_the_example_of_the_card(device, tmp_path, monkeypatch):
    package = runpy.run_path(str(HUB / "assemble.py"))["assemble"](tmp_path / "hub")
    spec = importlib.util.spec_from_file_location("_kernels_of_the_hub", package / "__init__.py")
    kernels = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, kernels)
    spec.loader.exec_module(kernels)
    assert Path(kernels.step.sgd_.__code__.co_filename).is_relative_to(package)
    hub = types.ModuleType("kernels")  # the library of this name, which would download the package
    hub.get_kernel = lambda name, **options: kernels
    monkeypatch.setitem(sys.modules, "kernels", hub)

    (example,) = re.findall(r"```python\n(.*?)```", (HUB / "CARD.md").read_text(), re.S)
    made, rest = example.split("pointers = ")
    names: dict[str, torch.Tensor] = {}
    exec(made.replace('"cuda"', repr(device.type)), names)
    w, g, b = (names[name].clone() for name in "wgb")
    exec(("pointers = " + rest).replace('"cuda"', repr(device.type)), names)
    parameter = torch.nn.Parameter(w)
    parameter.grad = g
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9, weight_decay=5e-4)
    optimizer.state[parameter]["momentum_buffer"] = b
    optimizer.step()
    assert torch.equal(names["w"], parameter.detach())
    assert torch.equal(names["b"], b)
