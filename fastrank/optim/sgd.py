"""`fastrank.SGD`: `torch.optim.SGD` that also steps stacks of models, and handles overflow under AMP correctly."""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from .descent import Descent
from .descents import Descents
from .forms import update_group
from .host_descent import HostDescent
from .kernel_groups import KernelGroup
from .local_tensors import is_sharded, update_local, whole
from .stacked_values import is_stack, stacked_values, with_values

_OPTIONS = ("lr", "weight_decay", "momentum", "dampening", "nesterov", "maximize")


class Companion(Protocol):
    """Something that reads some parameters at each step anyway, and updates them in the same pass: a tracker."""

    def fuse(self, descent: Descent, grad_scale: Tensor | None, found_inf: Tensor | None) -> set[int]:
        """Update parameters of a `descent` that has been refreshed; return the `id` of each parameter updated."""


class SGD(torch.optim.SGD):
    """Drop-in for `torch.optim.SGD`, whose signature, update, hooks and state dict it has.

    Where `lr` and `weight_decay` are numbers or 0-d tensors, the arithmetic is PyTorch's. On a CPU, without `foreach`
    and `fused`, so are the bits: those of the for-loop, which is PyTorch's default there. Beyond PyTorch:

    - **Stacks.** A group whose `lr` and/or `weight_decay` is a tensor of shape (E,), and whose parameters all
      have E as leading axis, is E independent models. Slice e of every parameter follows the trajectory of a
      model of its own with `lr[e]` and `weight_decay[e]` (see `fastrank.reference.sgd`): to the last bit
      where `torch.addcmul` rounds as `torch.add` does, which it does on x86; within a rounding error an
      operation elsewhere. In half precision, `lr` and `weight_decay` stay float32, as in PyTorch on CUDA (on a
      CPU, PyTorch rounds them). A float applies to all slices. The group owns a copy of the tensors: change
      `group["lr"]` in place. `foreach` and `fused` do not matter to a stack, except to `GradScaler`, which
      leaves unscaling and skipping to an optimizer made with `fused=True`.
    - **Overflow.** With `fused=True` and `GradScaler`, a step that overflowed changes nothing: neither
      parameters nor momentum nor the state dict. (PyTorch 2.13 stores an uninitialised momentum buffer if this
      happens in the first step, and updates all the same if gradients on two devices overflow at once.) The host
      waits for the device only in a step that makes a parameter's first momentum buffer.
    - **Late gradients.** With `fused=True` and momentum, a parameter may get its first gradient at any step.
    - **CPU.** Where Numba is installed, one pass over memory updates all float32 and float64 parameters of a group or
      stack, unless `foreach` or `fused` is given. Groups with other dtypes, parameters with gaps in memory, sparse
      gradients or a `differentiable` step are PyTorch's. `fused=True` is PyTorch's fused form,
      which leaves out a rounding of the momentum, except where that is wrong: PyTorch 2.13's does not update parameters
      in half precision, and takes gradients of another memory layout in the wrong order.
    - **CUDA.** Where Triton is installed, one launch for each dtype updates all float32 and half-precision parameters.
      Each parameter and momentum is rounded once; in float32 the bits are those of PyTorch's for-loop and foreach
      forms. The host never reads a tensor `lr` or `weight_decay`, and a CUDA graph follows one that is changed in
      place. PyTorch steps groups with other dtypes, sparse gradients or `foreach=True`, and compiled steps.
    - **torch.compile.** A function that calls `step` compiles to one graph (`fullgraph=True`), but not with
      `fused=True`. On a CPU the graph calls the kernel (`torch.ops.fastrank.sgd_`), with the bits of a step that is not
      compiled; groups that no kernel serves, and all on CUDA, are PyTorch's forms for the compiler to fuse. With a
      tensor `lr`, a schedule compiles nothing anew.
    - **DTensors.** Parameters that `fully_shard` or tensor parallelism have distributed are updated where they are:
      kernels and PyTorch's forms, the fused one too, take their local tensors. Momentum buffers are DTensors that are
      placed as their parameters. A gradient that is placed in another way is first brought to its parameter's places. A
      stack may be sharded along any axis but the leading one.

    The schedulers of `torch.optim.lr_scheduler` write one number into a tensor `lr`. They refuse a stacked
    one with an error: when made, or, for `ReduceLROnPlateau`, when it first reduces. (`OneCycleLR`, whose
    rates are absolute, gives every slice the same.) For a stack, scale the tensor instead:

        if epoch in milestones:
            for group in optimizer.param_groups:
                group["lr"].mul_(gamma)

    Args:
        params: parameters, `(name, parameter)` pairs, or dicts of parameter groups.
        lr: learning rate: a number, a 0-d tensor, or a tensor of shape (E,) for a stack. Default 1e-3.
        momentum: momentum factor. Default 0.
        dampening: dampening of the momentum, from a parameter's second step on. Default 0.
        weight_decay: L2 penalty (2 lambda in the paper's terms), in the same forms as `lr`. Default 0.
        nesterov: Nesterov momentum; needs momentum and no dampening. Default False.
        maximize: ascend instead of descend. Default False.
        foreach, fused: which of PyTorch's forms updates groups that no kernel updates. Default: PyTorch's choice. On a
            CPU, either of them (also `fused=False`, the for-loop) asks for a form of PyTorch's in place of the kernel.
        differentiable: let autograd run through the step. Default False.

    Raises:
        ValueError: a negative value; a tensor that is neither one number nor fits the parameters as a stack.
        RuntimeError: `fused` with `foreach` or `differentiable`; in `step`, sparse gradients in a stack.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        given = {"lr": lr, "weight_decay": weight_decay}
        stacked = {name: value for name, value in given.items() if is_stack(value, name)}
        super().__init__(
            with_values(params, stacked),
            # PyTorch's constructor takes no stacked values, but the groups have them already
            lr=0.0 if "lr" in stacked else lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=0.0 if "weight_decay" in stacked else weight_decay,  # type: ignore[arg-type,unused-ignore]
            nesterov=nesterov,
            maximize=maximize,
            foreach=foreach,
            differentiable=differentiable,
            fused=fused,
        )
        self.defaults.update(stacked)
        self._descents = Descents()
        self.companion: Companion | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._descents = Descents()
        self.__dict__.setdefault("companion", None)  # load_state_dict calls this method too

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group. Stacked values are checked, and copied.

        Raises:
            ValueError: as in the constructor. The optimizer is then as it was before.
        """
        super().add_param_group(param_group)
        group = self.param_groups.pop()  # put back once it has been checked
        for name in stacked_values(group):
            for index, value in enumerate(group[name].tolist()):
                if value < 0:
                    raise ValueError(f"{name} must not be negative: it is {value} for slice {index}")
            group[name] = group[name].clone()
        self.param_groups.append(group)

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override,unused-ignore]
        """Update every parameter that has a gradient.

        Args:
            closure: clears the gradients, computes the loss, calls `backward` and returns the loss. It is run
                before any gradient is read.

        Returns:
            What `closure` returned; None without one.
        """
        # As PyTorch's own decorator does, but that one breaks the graph of a compiled step.
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return self._step(closure)

    def _step(self, closure: Callable[[], float] | None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        found_inf: Tensor | None = whole(getattr(self, "found_inf", None))  # both are set by GradScaler
        grad_scale: Tensor | None = whole(getattr(self, "grad_scale", None))
        ready = self._descents.again(self.param_groups, self.state)
        if found_inf is not None:
            if ready is None and self._starts_momentum() and found_inf.item():
                return loss
            found_inf = found_inf.clamp(max=1)  # a sum over devices, which PyTorch's kernels compare with 1
        groups: dict[Descent | HostDescent, list[KernelGroup]] = {} if ready is None else {ready: []}
        for group in self.param_groups if ready is None else ():
            stacked = stacked_values(group)
            served = self._descents.serving(group, stacked, self.state)
            if served is None:
                self._step_group(group, stacked, grad_scale, found_inf)
            else:
                groups.setdefault(served[0], []).append(served[1])
        for descent, own in groups.items():
            if descent is not ready:
                descent.refresh(own, self.state)
                if len(own) == len(self.param_groups):
                    descent.remember(own, self.state)
            fused: set[int] = set()
            if self.companion is not None and isinstance(descent, Descent):
                fused = self.companion.fuse(descent, grad_scale, found_inf)
            descent.launch(grad_scale=grad_scale, found_inf=found_inf, besides=fused)
        return loss

    def _starts_momentum(self) -> bool:
        """Whether this step makes a first momentum buffer, which an overflow could not leave as it was."""
        return any(
            param.grad is not None and self.state.get(param, {}).get("momentum_buffer") is None
            for group in self.param_groups
            if group["momentum"] != 0
            for param in group["params"]
        )

    def _step_group(
        self, group: dict[str, Any], stacked: list[str], grad_scale: Tensor | None, found_inf: Tensor | None
    ) -> None:
        """Step a parameter group by PyTorch's own forms."""
        params: list[Tensor] = []
        grads: list[Tensor] = []
        buffers: list[Tensor | None] = []
        if torch.compiler.is_compiling() and all(param.device.type == "cpu" for param in group["params"]):
            # Dynamo calls PyTorch's method at once, which finds no gradients that the graph itself makes. On CUDA this
            # also tells CUDA graphs which tensors stay where they are.
            for param in group["params"]:
                if param.grad is not None:
                    params.append(param)
                    grads.append(param.grad)
                    if group["momentum"] != 0:
                        buffers.append(self.state[param].get("momentum_buffer"))
        else:
            self._init_group(group, params, grads, buffers)  # type: ignore[no-untyped-call]
        options = {name: group[name] for name in _OPTIONS} | {"grad_scale": grad_scale, "found_inf": found_inf}
        update = partial(update_group, group, stacked, options=options)
        if torch.compiler.is_compiling() and grad_scale is None and found_inf is None:
            from . import operator  # which registers it

            if operator.takes(group, stacked, params, grads, buffers):
                update = partial(operator.sgd_, group)
        if torch.compiler.is_compiling() or group["differentiable"] or any(map(is_sharded, options.values())):
            update(params, grads, buffers)  # compilers and autograd have to see DTensors as they are
        else:
            update_local(update, params, grads, buffers, writes_grads=grad_scale is not None)
        if group["momentum"] != 0:
            for param, buffer in zip(params, buffers, strict=True):
                self.state[param]["momentum_buffer"] = buffer
