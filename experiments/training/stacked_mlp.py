"""Many perceptrons of one architecture as one batched program: every parameter has a leading axis of models.

The state of member e is slice e of every parameter and buffer, under the names that `MLP` has for them.

Tried and given up: activations of shape (E, features, B), which batch-norm takes without a copy. On one core a
trial-step of MLP-10-100 at B = 64 took 5.4 instead of 4.7 ms, and no less at 16 and 8. Nor does it help to have layers
write into the memory of (B, E, features): products then go through the models one by one.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import batch_norm

from ..networks import MLP


class LinearOfStack(Function):
    """``x @ weight.mT + bias`` (E, B, out) of x (E, B, in), weight (E, out, in) and bias (E, out).

    PyTorch's own gradient of ``weight`` would be the transpose of what it has computed, and would be copied.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.baddbmm(bias[:, None], x, weight.mT)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        of_x = torch.bmm(gradient, weight) if ctx.needs_input_grad[0] else None
        return of_x, torch.bmm(gradient.mT, x), gradient.sum(1)


class StackedLinear(nn.Module):
    """``weight`` (E, out, in) and ``bias`` (E, out): E linear layers."""

    def __init__(self, members: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([member.weight.detach() for member in members]))
        self.bias = nn.Parameter(torch.stack([member.bias.detach() for member in members]))

    def forward(self, x: Tensor) -> Tensor:
        """(E, B, in) to (E, B, out)."""
        y: Tensor = LinearOfStack.apply(x, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return y


class StackedNorm(nn.Module):
    """E batch-norms of C features, with parameters and buffers (E, C). PyTorch runs them as one of E * C features."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, members: Sequence[nn.BatchNorm1d]) -> None:
        super().__init__()
        self.momentum, self.eps = members[0].momentum, members[0].eps
        self.weight = nn.Parameter(torch.stack([member.weight.detach() for member in members]))
        self.bias = nn.Parameter(torch.stack([member.bias.detach() for member in members]))
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, torch.stack([getattr(member, name) for member in members]))

    def forward(self, x: Tensor) -> Tensor:
        """(E, B, C) to the same."""
        models, size, features = x.shape
        if self.training:
            self.num_batches_tracked += 1
        y = batch_norm(
            x.transpose(0, 1).reshape(size, models * features),
            self.running_mean.view(-1),
            self.running_var.view(-1),
            self.weight.view(-1),
            self.bias.view(-1),
            self.training,
            self.momentum or 0.0,
            self.eps,
        )
        return y.view(size, models, features).transpose(0, 1)


class StackedMLP(nn.Module):
    """The perceptrons ``members``, of one architecture, as a single module."""

    def __init__(self, members: Sequence[MLP]) -> None:
        super().__init__()
        depth = range(len(members[0].layers))
        normed = isinstance(members[0].norms[0], nn.BatchNorm1d)
        self.layers = nn.ModuleList(StackedLinear([m.layers[i] for m in members]) for i in depth)  # type: ignore[misc]
        norms = [StackedNorm([m.norms[i] for m in members]) for i in depth] if normed else []  # type: ignore[misc]
        self.norms = nn.ModuleList(norms)
        self.head = StackedLinear([m.head for m in members])

    def forward(self, x: Tensor) -> Tensor:
        """Logits (E, B, classes) of images (E, B, ...), or of (1, B, ...) that all models are to see."""
        models = len(self.head.bias)
        x = x.flatten(2).expand(models, -1, -1)
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if self.norms:
                x = self.norms[i](x)
            x = torch.relu(x)
        logits: Tensor = self.head(x)
        return logits

    def member(self, index: int) -> dict[str, Tensor]:
        """The state dict of one of the perceptrons, as `MLP` has it."""
        return {name: value[index] for name, value in self.state_dict().items()}
