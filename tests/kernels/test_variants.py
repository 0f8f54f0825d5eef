"""What kernels are compiled for ahead of time: each has variants, and a variant names all that a launch is given."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

pytest.importorskip("triton")
from fastrank import kernels
from fastrank.kernels.lowrank import unit_gram
from fastrank.kernels.pointers import poke_cost
from fastrank.kernels.record import record_cost
from fastrank.kernels.variant import Variant


def kernels_of(module):
    """Names of the kernels that a module has itself, which are all that end like this."""
    own = {name: getattr(value, "fn", None) for name, value in vars(module).items() if name.endswith("_kernel")}
    return {name for name, function in own.items() if getattr(function, "__module__", None) == module.__name__}


FOUND = [found.name for found in pkgutil.walk_packages(kernels.__path__, "fastrank.kernels.") if not found.ispkg]
MODULES = [importlib.import_module(name) for name in FOUND if ".kernels.cpu." not in name]
WITH_KERNELS = [module for module in MODULES if kernels_of(module)]


def test_modules_are_found():
    assert len(WITH_KERNELS) > 15


@pytest.mark.parametrize("module", WITH_KERNELS, ids=lambda module: module.__name__.removeprefix("fastrank.kernels."))
def test_every_kernel_has_variants_that_name_all_of_its_arguments(module):
    found = [variant for variant in module.variants() if isinstance(variant, Variant)]
    assert {variant.name for variant in found} >= kernels_of(module)  # and those of a neighbour, launched otherwise
    for variant in found:
        assert sorted([*variant.signature, *variant.constexprs]) == sorted(variant.kernel.arg_names)
    assert len({(variant.key, variant.architectures) for variant in found}) == len(found)
    assert len({(variant.name, str(variant), variant.architectures) for variant in found}) == len(found)


def test_costs_are_bytes_and_flops():
    assert record_cost(5) == (2 * 5 * 8, 0)
    assert poke_cost([1] * 65) == (2 * 64 * 8, 0)
    rows = unit_gram.strip_of(16) + 1  # two strips: each is read once, and their sum three times
    assert unit_gram.unit_gram_cost([(rows, 50)], 16) == (8 * 16 * 16 * (2 + 3), 16 * 16 * (2 + 5))
