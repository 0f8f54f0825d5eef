"""The house's plan: the rooms of each package, and who may import whom. `tests/test_architecture.py` holds it."""

from __future__ import annotations

ROOMS = {
    "fastrank": {
        "alerts": [],
        "arguments": [],
        "backend": [],
        "device": [],
        "files": [],
        "guard": [],
        "metrics": [],
        "schedules": ["arguments"],
        "sinks": [],
        "device_table": ["device"],
        "streams": ["device"],
        "reference": ["metrics"],
        "testing": ["metrics", "reference"],
        "counting": ["device", "metrics", "reference"],
        "linalg": ["arguments", "backend", "counting", "device", "device_table", "metrics", "reference"],
        "optim": ["backend", "device", "device_table", "guard", "reference"],
        "history": ["backend", "device", "files", "metrics", "streams"],
        "plotting": ["history", "metrics"],
        "weights": ["device", "guard"],
        "measuring": [
            *("backend", "counting", "device", "device_table", "metrics", "optim", "reference", "streams", "weights"),
        ],
        "tracking": [
            *("alerts", "arguments", "backend", "device", "history", "measuring", "metrics", "optim", "plotting"),
            *("schedules", "sinks", "streams", "weights"),
        ],
        "analysis": ["arguments", "metrics", "tracking", "weights"],
        "__init__": [
            *("alerts", "analysis", "history", "linalg", "metrics", "optim", "plotting", "schedules"),
            *("sinks", "tracking"),
        ],
    },
    "kernels": {
        "limits": [],
        "device": [],
        "variant": [],
        "cpu": [],
        "cuda": ["device"],
        "launch": ["cuda", "variant"],
        "compile": ["cuda", "device", "launch", "variant"],
        "pointers": ["launch", "variant"],
        "record": ["launch", "variant"],
        "inertia": ["cuda", "device", "launch", "variant"],
        "count": ["cuda", "device", "inertia", "launch", "limits", "variant"],
        "sketch": ["count", "device", "inertia", "launch", "limits", "variant"],
        "step": ["count", "device", "launch", "limits", "sketch", "variant"],
        "lowrank": ["count", "device", "inertia", "launch", "limits", "sketch", "variant"],
        "__init__": [],
    },
    "experiments": {
        "errors": [],
        "files": [],
        "terminal": [],
        "provenance": [],
        "theory": ["errors"],
        "data": ["errors", "terminal"],
        "networks": ["errors"],
        "trial": ["data"],
        "records": ["errors"],
        "training": ["data", "errors", "files", "networks", "records", "trial"],
        "engines": ["errors", "records", "training"],
        "reports": ["errors", "files", "records", "theory", "trial"],
        "sinks": ["errors", "records", "reports", "training", "trial"],
        "sweeps": [
            *("data", "engines", "errors", "files", "networks", "provenance", "records", "sinks", "terminal"),
            *("training", "trial"),
        ],
        "analyze": ["errors", "files", "sweeps", "terminal"],
        "show": ["errors", "records", "terminal"],
        "doctor": ["provenance", "terminal"],
        "commands": ["analyze", "data", "doctor", "errors", "reports", "show", "sweeps"],
        "cli": ["commands", "errors"],
        "__init__": [],
    },
}
"""The rooms of each package, files and folders, from the ground up, and which others each may use."""

KERNELS_FOR = {
    "backend": ["cuda"],
    "device_table": ["pointers"],
    "counting": ["count", "cpu"],
    "history": ["device", "launch", "record"],
    "linalg": ["limits", "lowrank", "sketch"],
    "optim": ["cpu", "device", "launch", "limits", "step"],
    "measuring": ["compile", "count", "device", "launch", "limits", "sketch", "step", "variant"],
    "tracking": ["count", "launch", "limits", "pointers", "record", "sketch", "step"],
}
"""Which rooms of the library launch which kernels."""
