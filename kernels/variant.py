"""One launch configuration of a Triton kernel, as the ahead-of-time compiler needs it.

A module of this package that has kernels (`@triton.jit` functions named `..._kernel`) also has a function `variants()`
that yields a `Variant` for every configuration its launch heuristic can choose. `make kernels` compiles them all, for
every architecture, and fails for a kernel without one.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Everything that one launch specialises a kernel on.

    Args:
        kernel: the `@triton.jit` function.
        signature: type of every argument that is not in `constexprs`, as Triton writes it: `"*fp32"`, `"i64"`; with
            `":16"` appended where the launch finds a pointer aligned to, or an integer divisible by, 16.
        constexprs: values of the compile-time arguments; also of integers that are 1 at the launch, or None, which
            Triton makes compile-time by itself.
        num_warps, num_stages, maxnreg, enable_fp_fusion: the launch's options of these names. `enable_fp_fusion`
            is always given, because Triton 3.9 warns of a default that is going to change.
        label: tells this configuration from others with the same `constexprs` and options, such as `"bf16"`.
        architectures: those that the heuristic chooses it for, such as `("sm_90", "sm_100")`; empty means all.
    """

    kernel: Any
    signature: Mapping[str, str]
    constexprs: Mapping[str, Any] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 3
    maxnreg: int | None = None
    enable_fp_fusion: bool = True
    label: str = ""
    architectures: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of the kernel."""
        return str(self.kernel.__name__)

    @property
    def options(self) -> dict[str, Any]:
        """The launch's options: a launcher that passes `**variant.options` runs what was compiled ahead of time."""
        options = {name: getattr(self, name) for name in ("num_warps", "num_stages", "enable_fp_fusion")}
        return options if self.maxnreg is None else options | {"maxnreg": self.maxnreg}

    @cached_property
    def key(self) -> Hashable:
        """Tells this variant from every other: kernel, types of arguments, constants and launch options."""
        sorted_ = (tuple(sorted((n, str(x)) for n, x in given.items())) for given in (self.signature, self.constexprs))
        return (self.kernel.__module__, self.name, *sorted_, *self.options.items())

    def __str__(self) -> str:
        names = [self.label] if self.label else []
        names += [f"{name}={value}" for name, value in self.constexprs.items()]
        names += [f"warps={self.num_warps}", f"stages={self.num_stages}"]
        if self.maxnreg is not None:
            names.append(f"maxnreg={self.maxnreg}")
        return " ".join(names)


def arguments(kernel: Any, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The pointer arguments of a kernel, picked from `tensors` by name: `p_step` is `tensors["step"]`."""
    return {name: tensors[name.removeprefix("p_")] for name in kernel.arg_names if name.startswith("p_")}
