"""Measuring: what is measured of the tracked matrices after a step, and how.

devices             `Measurer`: the matrices of each device where they are; the values come to one device
device_measurer     `DeviceMeasurer`: of one device, those that are trained at each step, `frozen` ones when they
                    change. It chooses one of four ways: by `sketch_measurer` (which stands on `bases`, `basis_passes`,
                    `basis_size` and `plan`), by `count_measurer`, by `compiled_measurer` or by `stack_measurer`
plan                what a measured step launches: one list
copies              lasting memory for matrices that are no views of a parameter
row                 the columns of the history, made from what was measured
compilation         has the kernels compiled in the background, before they are launched
"""

from . import compilation
from .basis_size import basis_sizes
from .compiled_measurer import compile_for_cpu
from .devices import ANEW, Measurer, by_device, home_of
from .frozen import SETTLING, Unchanged
from .row import check_spectrum, check_tolerances, columns, row_of
from .stack_measurer import measure_grams, measure_stack

__all__ = [
    "ANEW",
    "SETTLING",
    "Measurer",
    "Unchanged",
    "basis_sizes",
    "by_device",
    "check_spectrum",
    "check_tolerances",
    "columns",
    "compilation",
    "compile_for_cpu",
    "home_of",
    "measure_grams",
    "measure_stack",
    "row_of",
]
