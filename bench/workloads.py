"""Workloads: named batches of matrices whose singular values are known.

Matrices of one shape share the orthogonal factors of their singular value decompositions, and differ in their singular
values: planting a network's worth of spectra then costs one QR factorisation a shape and side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import networks
import torch
from networks import Network
from torch import Tensor

import fastrank
from fastrank import testing

TOLERANCE = fastrank.Tolerance(1e-3, "frobenius")
"""The paper's, with which every rank is counted."""


class Matrices(NamedTuple):
    """A workload's matrices and the truth about them."""

    matrices: list[Tensor]
    """2-D, on the device that was asked for."""
    sigma: list[Tensor]
    """FP64, on the CPU, descending: singular values of the matrices as stored, up to `slack`."""
    slack: float
    """Relative to sigma_1: how far `sigma` may be off."""


def trained(r: int, generator: torch.Generator) -> Tensor:
    """As in a network in training: a decaying part, and 40 % that have collapsed below the threshold."""
    kept = math.ceil(0.6 * r)
    decaying = 0.03 ** (torch.arange(kept) / max(kept - 1, 1))
    collapsed = 10 ** (-5 + torch.rand(r - kept, generator=generator, dtype=torch.float64))
    jitter = 1 + 0.1 * torch.rand(kept, generator=generator, dtype=torch.float64)
    return torch.cat([decaying * jitter, collapsed]).sort(descending=True).values


def full(r: int, generator: torch.Generator) -> Tensor:
    """As at the start of training: of full rank, close to the spectrum of square Gaussian noise, largest one 1."""
    values = 1 - torch.arange(r, dtype=torch.float64) / max(r, 1)
    return (values * (1 + 0.01 * torch.rand(r, generator=generator, dtype=torch.float64))).sort(descending=True).values


def flat(r: int, generator: torch.Generator) -> Tensor:
    """No singular value less than half of the largest, 1: the rank is full, far from any threshold."""
    return full(r, generator).clamp(min=0) / 2 + 0.5


SPECTRA: dict[str, Callable[[int, torch.Generator], Tensor]] = {"trained": trained, "full": full, "flat": flat}


@dataclass(frozen=True)
class Workload:
    """A network's matrices, or just matrices.

    `spectrum` is one of `SPECTRA`, planted; or one whose truth is computed. `gaussian`: independent normal elements.
    `families`: each matrix of another family of `fastrank.testing`, on the scales 1, 1e-30 and 1e30 in turn.
    `clustered`: most singular values next to the threshold, 1e-3, 1e-4, 1e-5 and 1e-6 of it away in turn.
    """

    name: str
    network: Network
    spectrum: str = "trained"

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        return self.network.matrices

    def make(self, dtype: torch.dtype, device: torch.device) -> Matrices:
        """The matrices, the same in every process."""
        if self.spectrum == "families":
            rows, cols = self.shapes[0]
            cases = list(testing.cases(rows, cols, dtype=dtype))[: len(self.shapes)]
            return _measured([case.matrix for case in cases], device)
        if self.spectrum == "clustered":
            distances = [10.0 ** -(3 + i % 4) for i in range(len(self.shapes))]
            made = (
                testing.make("clustered", *shape, seed=i, dtype=dtype, tolerance=TOLERANCE, distance=distance)
                for i, (shape, distance) in enumerate(zip(self.shapes, distances, strict=True))
            )
            return _measured([case.matrix for case in made], device)
        generator = torch.Generator().manual_seed(0)
        if self.spectrum == "gaussian":
            drawn = [torch.randn(shape, generator=generator) / math.sqrt(shape[1]) for shape in self.shapes]
            return _measured([matrix.to(dtype) for matrix in drawn], device)
        factors: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        matrices, sigmas = [], []
        for m, n in self.shapes:
            r = min(m, n)
            if (m, n) not in factors:
                factors[m, n] = (orthonormal(m, r, generator, device), orthonormal(n, r, generator, device))
            left, right = factors[m, n]
            sigma = SPECTRA[self.spectrum](r, generator)
            matrices.append(((left * sigma.to(device)) @ right.mT).to(dtype))
            sigmas.append(sigma)
        largest = max(max(shape) for shape in self.shapes)
        return Matrices(matrices, sigmas, math.sqrt(largest) * torch.finfo(dtype).eps)


def _measured(matrices: list[Tensor], device: torch.device) -> Matrices:
    """With FP64 singular values, from the CPU, as the truth."""
    sigma = [testing.true_singular_values(matrix) for matrix in matrices]
    largest = max(max(matrix.shape) for matrix in matrices)
    return Matrices([matrix.to(device) for matrix in matrices], sigma, 2.0**-52 * (largest + 10))


def orthonormal(rows: int, columns: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Orthonormal columns of noise, FP64 `(rows, columns)`, on the device."""
    noise = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(noise.to(device)).Q


def square(r: int, spectrum: str = "trained") -> Workload:
    name = f"square-{r}" + ("" if spectrum == "trained" else f"-{spectrum}")
    return Workload(name, Network(((r, r),), ()), spectrum)


_MLP = networks.mlp_bn(depth=10, width=100, features=3072, classes=10)
_FAMILIES = len(testing.FAMILIES) * 3

WORKLOADS = {
    w.name: w
    for w in (
        Workload("resnet18-cifar", networks.resnet18_cifar()),
        Workload("mlp-bn-10-100", _MLP),
        Workload("mlp-bn-10-100-x64", _MLP.stacked(64)),
        Workload("batch-640x512", Network(((512, 512),) * 640, ())),
        square(4096),
        Workload("vit-b16", networks.vit_b16()),
        square(512),
        square(128),
        square(256),
        square(1024),
        square(2048),
        square(512, "gaussian"),
        square(512, "full"),
        square(512, "flat"),
        Workload("families-96x128", Network(((96, 128),) * _FAMILIES, ()), "families"),
        Workload("clustered-96x128", Network(((96, 128),) * 32, ()), "clustered"),
        Workload("vgg16-bn-cifar", networks.vgg16_bn_cifar()),
        Workload("resnet18-cifar-full", networks.resnet18_cifar(), "full"),
        Workload("gpt2-small", networks.gpt2_small()),
        Workload("llama-7b-layer", networks.llama_7b_layer()),
        square(8192),
    )
}
"""By name, the most telling first: where time is limited, the last ones go unmeasured."""
