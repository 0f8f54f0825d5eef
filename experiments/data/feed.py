"""Batches of images for training, made on the device: images stay bytes there until they are asked for."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .info import DataError, DataInfo, Images

PADDING = 4  # black pixels added on each side, before a random window is cut out


class Feed:
    """Gives batches of a part of a data set, normalised and, if wanted, augmented, on a device.

    All randomness comes from one generator on that device, whose state can be saved.

    Args:
        images: the part of the data set; it stays uint8.
        info: the data set, for the mean and the standard deviation of its training part.
        device: where images, batches and the generator are.
        seed: of the generator, 0 <= seed < 2**63.
        augment: a random crop, after 4 pixels of padding, and a random horizontal flip for every image of a batch.
    """

    def __init__(
        self, images: Images, info: DataInfo, device: torch.device | str, seed: int, augment: bool = False
    ) -> None:
        self.x, self.y = images.x.to(device), images.y.to(device)
        self.augment = augment
        self.generator = torch.Generator(device).manual_seed(seed)
        self._shift, self._scale = (
            torch.tensor([255 * value for value in values], dtype=torch.float32, device=device).view(1, -1, 1, 1)
            for values in (info.mean, info.std)
        )

    def __len__(self) -> int:
        return len(self.y)

    def order(self, batch_size: int, generator: torch.Generator | None = None) -> Tensor:
        """A random order of the examples for one epoch, drawn from ``generator`` (default: the feed's own).

        Returns (steps, batch_size) int64, each example at most once; the last, incomplete batch is dropped.
        Raises DataError where the examples do not make one batch.
        """
        steps = len(self) // batch_size
        if not steps:
            raise DataError(f"grid.batch_size: {batch_size} is more than the {len(self)} training examples")
        order = torch.randperm(len(self), generator=generator or self.generator, device=self.y.device)
        return order[: steps * batch_size].view(steps, batch_size)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The examples at ``indices``, (B,) int64 on the device: x (B, c, h, w) float32, normalised, and y (B,) int64.

        With augmentation every call draws from the generator.
        """
        x = self.x.index_select(0, indices)  # copies whole rows, which indexing does not
        if self.augment:
            x = self._augmented(x)
        return self._normalised(x), self.y.index_select(0, indices)

    def all(self, chunk: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All examples in their own order, ``chunk`` at a time, with a smaller chunk at the end; never augmented."""
        for start in range(0, len(self), chunk):
            part = slice(start, start + chunk)
            yield self._normalised(self.x[part]), self.y[part]

    def state_dict(self) -> dict[str, Any]:
        """The generator's state: all that later orders and batches depend on."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken, to the bit.

        Raises KeyError, TypeError or RuntimeError for a state that is none of a generator on this device.
        """
        self.generator.set_state(state["generator"].cpu())

    def _normalised(self, x: Tensor) -> Tensor:
        return x.float().sub_(self._shift).div_(self._scale)

    def _augmented(self, x: Tensor) -> Tensor:
        count, _, height, width = x.shape
        top, left, flip = self._draw(2 * PADDING + 1, count), self._draw(2 * PADDING + 1, count), self._draw(2, count)
        padded = torch.nn.functional.pad(x, (PADDING,) * 4)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: (B, c, 9, 9, h, w)
        cropped = windows[torch.arange(count, device=x.device), :, top, left]
        return torch.where(flip.bool().view(-1, 1, 1, 1), cropped.flip(3), cropped)

    def _draw(self, below: int, count: int) -> Tensor:
        return torch.randint(below, (count,), generator=self.generator, device=self.y.device)
