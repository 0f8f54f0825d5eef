"""Kernels for CPUs, compiled by Numba for the machine's own instructions: counts of a ragged batch, and SGD's step.

tiles         8 x 8 tiles in registers, by which all else is done
pack, gram, ldl     Grams, and how many of their eigenvalues are above a shift
shifts        where to count, and when to believe a count
tridiagonal, top    lambda_1 by Lanczos' iteration, and its proof
work, call    all of it, for a batch of matrices, and in one call
sgd           SGD's step of many parameters, in one pass over memory
keep, memory, openmp        what is kept on disk, addresses and counters, and threads
"""

from . import call, gram, sgd, shifts, tiles, work

__all__ = ["call", "gram", "sgd", "shifts", "tiles", "work"]
