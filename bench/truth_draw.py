"""What the families of `make truth` draw from: random numbers, orthogonal factors and spectra, a batch at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastrank import Tolerance

Array = NDArray[np.float64]


@dataclass
class Draw:
    """A batch that is to be made of one family. A family may set `tolerance` and `peak` to others.

    Attributes:
        batch, rows, cols: the shape, all at least 1.
        tolerance: the batch's. One that is absolute is meant for matrices as the family makes them, before they are
            scaled.
        peak: where the largest element of each matrix is to lie, in the range of its dtype: "usual" is where the
            batch's scale puts it, "least" next to the smallest number, "largest" next to the largest.
    """

    random: np.random.Generator
    batch: int
    rows: int
    cols: int
    tolerance: Tolerance
    peak: str = "usual"

    @property
    def r(self) -> int:
        return min(self.rows, self.cols)

    def normal(self, *shape: int) -> Array:
        return self.random.standard_normal((self.batch, *shape))

    def log_uniform(self, low: float, high: float, *shape: int) -> Array:
        """10 to powers that are uniform from `low` to `high`, `(batch, *shape)`."""
        return 10.0 ** self.random.uniform(low, high, (self.batch, *shape))

    def signs(self, *shape: int) -> Array:
        return self.random.choice([-1.0, 1.0], (self.batch, *shape))

    def orthonormal(self, rows: int, columns: int) -> Tensor:
        """`(batch, rows, columns)` with orthonormal columns."""
        return torch.linalg.qr(torch.from_numpy(self.normal(rows, columns))).Q

    def planted(self, sigma: Array) -> Tensor:
        """Matrices with singular values `sigma` `(batch, r)`, of any order."""
        left, right = self.orthonormal(self.rows, self.r), self.orthonormal(self.cols, self.r)
        return (left * torch.from_numpy(np.array(sigma))[:, None]) @ right.mT

    def each(self, function: object) -> Array:
        """What a function makes, called for each matrix of the batch."""
        return np.stack([function() for _ in range(self.batch)])  # type: ignore[operator]

    def shuffled(self, matrices: Array) -> Tensor:
        """Rows and columns of each matrix in another order and with other signs; no singular value changes."""
        b = np.arange(self.batch)[:, None, None]
        order = [np.argsort(self.random.random((self.batch, side)), axis=1) for side in matrices.shape[1:]]
        moved = matrices[b, order[0][:, :, None], order[1][:, None, :]]
        moved = moved * self.signs(matrices.shape[1], 1) * self.signs(1, matrices.shape[2])
        return torch.from_numpy(moved)

    def placed(self, blocks: Array) -> Array:
        """Blocks `(batch, p, q)` in the corner of matrices of zeros."""
        matrices = np.zeros((self.batch, self.rows, self.cols))
        matrices[:, : blocks.shape[1], : blocks.shape[2]] = blocks
        return matrices

    def off_by(self) -> Array:
        """Relative distances `(batch,)` of either sign, 1e-16 to 1e-4, and now and then 0."""
        off = self.log_uniform(-16, -4) * self.signs()
        return np.where(self.random.random(self.batch) < 0.1, 0.0, off)
