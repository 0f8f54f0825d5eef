"""Families of `make truth` that are made of their elements: textbook matrices, gradings, singular values that are tau
exactly, what is hard for a factorisation without pivots, structures of singular matrices (the kinds that collections
such as San Jose State's hold: incidence and Laplacian matrices of networks, Vandermonde, Hankel and triangular ones,
repeated zeros), and the ends of the range of a dtype.

Every matrix has its own random numbers, and is made in FP64; what is exact in FP64 here is exact where it is used.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from truth_draw import Array, Draw

from fastrank import Tolerance


def _hilbert(d: Draw) -> Tensor:
    """1 / (i + j + x), for x in 1 to 3."""
    i, j = np.arange(d.rows)[:, None], np.arange(d.cols)
    return torch.from_numpy(1 / (i + j + d.random.uniform(1, 3, (d.batch, 1, 1))))


def _kahan(d: Draw) -> Tensor:
    i, j = np.arange(d.rows)[:, None], np.arange(d.cols)
    angle = d.random.uniform(0.7, 1.4, (d.batch, 1, 1))
    return torch.from_numpy(np.sin(angle) ** i * ((i == j) - np.cos(angle) * (i < j)))


def _noise(d: Draw) -> Tensor:
    return torch.from_numpy(d.normal(d.rows, d.cols))


def _integers(d: Draw) -> Tensor:
    """Whole numbers from -2 to 2, many of them 0; an absolute tau is a whole number or the root of one."""
    if d.tolerance.relative_to == "absolute":
        square = int(d.random.integers(0, 10))
        d.tolerance = Tolerance(square**0.5, "absolute")
    entries = d.random.integers(-2, 3, (d.batch, d.rows, d.cols)) * (d.random.random((d.batch, 1, 1)) < 0.9)
    return torch.from_numpy(entries * (d.random.random(entries.shape) < d.random.uniform(0.2, 1.0)) * 1.0)


def _graded(d: Draw) -> Tensor:
    """Rows and columns that get smaller over up to twelve decades each."""
    rows, cols = (np.linspace(0, 1, side)[None] * d.random.uniform(0, 12, (d.batch, 1)) for side in (d.rows, d.cols))
    return torch.from_numpy(d.normal(d.rows, d.cols) * 10.0 ** -(rows[:, :, None] + cols[:, None, :]))


def _side(d: Draw) -> int:
    """The largest power of four that fits."""
    return int(4 ** int(np.log(d.r) / np.log(4) + 1e-9))


def _hadamard(d: Draw) -> Tensor:
    """Hadamard's matrices, whose singular values all are the same power of two; with rows over powers of two, unless
    the tolerance is relative to ||W||_F. tau is one of them exactly, or the nearest FP64 number above or below."""
    side = _side(d)
    h = np.ones((1, 1))
    while len(h) < side:
        h = np.block([[h, h], [h, -h]])
    parts = np.zeros((d.batch, side)) if (kind := d.tolerance.relative_to) == "frobenius" else -d.random.integers(
        0, 4, (d.batch, side)
    )  # fmt: skip
    if kind != "frobenius":
        parts[:, 0] = 0
    value = {"frobenius": side**-0.5, "spectral": 2.0 ** -int(d.random.integers(1, 4)), "absolute": side**0.5 / 2}[kind]
    d.tolerance = Tolerance(_beside(d, value), kind)
    return d.shuffled(d.placed(2.0 ** parts[:, :, None] * h))


def _beside(d: Draw, value: float) -> float:
    """The value, or once in three times the number next to it, on either side."""
    near = value, np.nextafter(value, 0), np.nextafter(value, np.inf)
    return float(near[int(d.random.choice(3, p=[0.66, 0.17, 0.17]))])


def _pythagorean(d: Draw) -> Tensor:
    """Whole numbers whose singular values are whole numbers: reflections |v|^2 I - 2 v v^T on either side of a
    diagonal. tau is one of them exactly, or the nearest FP64 number above or below."""
    kind, whole, size = d.tolerance.relative_to, np.array([1.0, 2.0, 4.0, 8.0]), 1.0
    matrices = np.zeros((d.batch, d.rows, d.cols))
    diagonal = d.random.choice(whole, (d.batch, d.r)) * (d.random.random((d.batch, d.r)) < 0.9)
    diagonal[:, 0] = 8.0
    if kind == "frobenius":  # so many equal ones that the root of their number is a power of two
        diagonal = np.broadcast_to((np.arange(d.r) < _side(d)) * 1.0, (d.batch, d.r))
    matrices[:, range(d.r), range(d.r)] = diagonal
    for axis, side in enumerate((d.rows, d.cols)):
        v = np.zeros(side)
        v[: d.random.integers(1, 5)] = 1.0
        v[: d.random.integers(0, 2)] = 2.0
        v = v[np.argsort(d.random.random((d.batch, side)), axis=1)] * d.signs(side)
        length = float(v[0] @ v[0])
        reflection = length * np.eye(side) - 2 * v[:, :, None] * v[:, None, :]
        matrices = matrices @ reflection if axis else reflection @ matrices
        size *= length
    value = {"frobenius": _side(d) ** -0.5, "spectral": 0.5 ** int(d.random.integers(1, 4)),
             "absolute": size * float(d.random.choice(whole))}[kind]  # fmt: skip
    d.tolerance = Tolerance(_beside(d, value), kind)
    return torch.from_numpy(matrices)


def _minors(d: Draw) -> Tensor:
    """The first k rows alone have a singular value at tau: G - tau^2 I has a leading minor that is about 0."""
    value, shape = max(min(d.tolerance.value, 0.5), 1e-6), (d.rows, d.cols)
    d.tolerance = Tolerance(value, "absolute")
    k, off = int(d.random.integers(1, d.r)) if d.r > 1 else 1, d.off_by()
    sigma = value * d.log_uniform(-2, 2, k)
    sigma[:, -1] = value * (1 + off)
    d.rows, d.cols = k, max(shape)
    first = d.planted(sigma)
    d.rows, d.cols = shape
    others = torch.from_numpy(d.normal(d.r - k, max(shape)) * value * d.log_uniform(-2, 2, 1, 1))
    matrices = torch.cat([first, others], 1)
    return matrices if d.rows <= d.cols else matrices.mT.contiguous()


def _saddle(d: Draw) -> Array:
    """Symmetric [[0, B], [B^T, 0]] `(batch, r, r)`, or blocks [[eps, 1], [1, 0]] along the diagonal."""
    half, matrices = d.r // 2, np.zeros((d.batch, d.r, d.r))
    if d.random.random() < 0.5:
        matrices[:, :half, half : 2 * half] = d.normal(half, half) / max(half, 1) ** 0.5
    else:
        first = 2 * np.arange(half)
        matrices[:, first, first + 1] = d.random.choice([1.0, 0.5, 0.25], (d.batch, half))
        matrices[:, first, first] = d.log_uniform(-18, -6, half) / 2
    return matrices + matrices.transpose(0, 2, 1)


def _saddle_matrix(d: Draw) -> Tensor:
    return torch.from_numpy(d.placed(_saddle(d)))


def _saddle_shifted(d: Draw) -> Tensor:
    """G - tau^2 I itself is such a saddle, times a part of tau^2: every pivot is about 0."""
    s = torch.from_numpy(_saddle(d))
    value = max(min(d.tolerance.value, 0.5), 1e-6)
    d.tolerance = Tolerance(value, "absolute") if d.random.random() < 0.5 else Tolerance(d.r**-0.5)
    s = s / torch.linalg.matrix_norm(s, 2)[:, None, None].clamp(min=1e-300)
    values, vectors = torch.linalg.eigh(torch.eye(d.r) + s * torch.from_numpy(d.log_uniform(-3, -0.01, 1, 1)))
    roots = (vectors * values.clamp(min=0).sqrt()[:, None]) @ vectors.mT * value
    if d.rows <= d.cols:
        return roots @ d.orthonormal(d.cols, d.r).mT
    return d.orthonormal(d.rows, d.r) @ roots


def _edges(d: Draw) -> Array:
    """A random network: `(batch, rows, cols)`, each column with 1 and -1 at the ends of an edge; some are no edge."""
    ends = d.random.integers(0, d.rows, (2, d.batch, d.cols))
    b, j = np.arange(d.batch)[:, None], np.arange(d.cols)
    matrices = np.zeros((d.batch, d.rows, d.cols))
    np.add.at(matrices, (b, ends[0], j), 1.0)
    np.add.at(matrices, (b, ends[1], j), -1.0)
    return matrices


def _incidence(d: Draw) -> Tensor:
    return torch.from_numpy(_edges(d))


def _laplacian(d: Draw) -> Tensor:
    """Of a network with as many nodes as the smaller side, with weights over up to six decades."""
    shape = d.rows, d.cols
    d.rows, d.cols = d.r, int(d.r * d.random.uniform(0.5, 3)) + 1
    edges = _edges(d) * d.log_uniform(-3, 0, 1, d.cols) ** d.random.integers(0, 2)
    d.rows, d.cols = shape
    return torch.from_numpy(d.placed(edges @ edges.transpose(0, 2, 1)))


def _vandermonde(d: Draw) -> Tensor:
    nodes = d.random.uniform(-1, 1, (d.batch, d.rows, 1))
    nodes = np.where(d.random.random(nodes.shape) < 0.1, nodes[:, :1], nodes)  # some are the same
    return torch.from_numpy(nodes ** np.arange(d.cols))


def _hankel(d: Draw) -> Tensor:
    """Of a sum of few decaying exponentials: rank as many, but for noise over many decades."""
    terms = int(d.random.integers(1, d.r + 1))
    powers = np.arange(d.rows + d.cols - 1)
    sequence = (d.random.uniform(-1, 1, (d.batch, terms, 1)) ** powers * d.normal(terms, 1)).sum(1)
    sequence += d.normal(len(powers)) * d.log_uniform(-16, -3, 1)
    return torch.from_numpy(sequence[:, np.arange(d.rows)[:, None] + np.arange(d.cols)])


def _triangular(d: Draw) -> Tensor:
    """Ones on a diagonal of which some are small, and the same number above it: conditions that the diagonal hides."""
    i, j = np.arange(d.rows)[:, None], np.arange(d.cols)
    above = -d.random.uniform(0, 1, (d.batch, 1, 1)) * (i < j)
    pivots = np.where(d.random.random((d.batch, d.rows, 1)) < 0.2, d.log_uniform(-16, -2, d.rows, 1), 1.0)
    return torch.from_numpy(above + pivots * (i == j))


def _repeated_zeros(d: Draw) -> Tensor:
    """A low rank of few different singular values, exactly in FP64: a diagonal, shuffled, with gradings of rows."""
    sigma = 10.0 ** -d.random.integers(0, 8, (d.batch, d.r)) * (np.arange(d.r) < d.random.integers(0, d.r + 1))
    matrices = np.zeros((d.batch, d.rows, d.cols))
    matrices[:, range(d.r), range(d.r)] = sigma
    return d.shuffled(matrices * d.log_uniform(-8, 0, d.rows, 1) ** d.random.integers(0, 2))


def _end(peak: str) -> Callable[[Draw], Tensor]:
    def family(d: Draw) -> Tensor:
        d.peak = peak
        return _noise(d) if d.random.random() < 0.5 else d.planted(d.log_uniform(-4, 0, d.r))

    return family


FAMILIES: dict[str, Callable[[Draw], Tensor]] = {
    "hilbert": _hilbert,
    "kahan": _kahan,
    "noise": _noise,
    "integers": _integers,
    "graded": _graded,
    "hadamard": _hadamard,
    "pythagorean": _pythagorean,
    "leading minor 0": _minors,
    "saddle": _saddle_matrix,
    "saddle at tau": _saddle_shifted,
    "incidence": _incidence,
    "laplacian": _laplacian,
    "vandermonde": _vandermonde,
    "hankel": _hankel,
    "triangular": _triangular,
    "repeated zeros": _repeated_zeros,
    "subnormal": _end("least"),
    "near overflow": _end("largest"),
}
