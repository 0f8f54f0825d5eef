"""Imports all modules of an installed fastrank, and prints how many, which packages were missing, and its sweeps."""

import importlib
import importlib.resources
import json
import pkgutil

import fastrank
from fastrank.experiments.commands.paths import config_of
from fastrank.experiments.sweeps import load_config

imported, asked_for = 0, []
for module in pkgutil.walk_packages(fastrank.__path__, "fastrank."):
    try:
        importlib.import_module(module.name)
    except ImportError as error:
        asked_for.append(error.name.partition(".")[0] if error.name else module.name)
    else:
        imported += 1
assert load_config(config_of("digits")).name == "digits"
configs = importlib.resources.files("fastrank.experiments") / "configs"
names = sorted(config.name.removesuffix(".toml") for config in configs.iterdir())
print(json.dumps({"imported": imported, "asked_for": asked_for, "configurations": names}))
