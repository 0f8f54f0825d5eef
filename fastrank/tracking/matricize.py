"""From parameters to matrices: which parameters are tracked, as which matrices, under which names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

Select = Literal["all", "paper"]

CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


@dataclass(frozen=True)
class Coverage:
    """As which matrices one parameter of the model is tracked, or why it is not."""

    name: str
    shape: tuple[int, ...]
    module: str
    """Type of the module that owns it."""
    matrices: tuple[str, ...]
    """Names of its matrices in the history; empty where it is not tracked."""
    reason: str
    """Why it is not tracked, or under which other names it is tied; empty otherwise."""


class CoverageTable(list[Coverage]):
    """One row for each parameter of the model; `print` it."""

    def __str__(self) -> str:
        rows = [("parameter", "shape", "module", "tracked as")]
        for c in self:
            count = len(c.matrices)
            tracked = "-" if not count else "1 matrix" if count == 1 else f"{count} matrices"
            rows.append((c.name, "x".join(map(str, c.shape)), c.module, f"{tracked} {c.reason}".strip()))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(x.ljust(w) for x, w in zip(row, widths, strict=True)).rstrip() for row in rows)


@dataclass(frozen=True)
class TrackedParameter:
    """A place in the model that holds a parameter. The place is kept, not the tensor, which may be replaced."""

    name: str
    owner: nn.Module
    attribute: str
    matrices: tuple[str, ...]

    def parameter(self) -> Tensor:
        """The parameter as it is now. Raises `RuntimeError` if the model no longer has it."""
        parameter = getattr(self.owner, self.attribute, None)
        if not isinstance(parameter, Tensor):
            raise RuntimeError(
                f"tracked parameter {self.name!r} is no longer part of the model; make a new RankTracker"
            )
        return parameter

    def views(self) -> list[Tensor]:
        """The parameter's matrices as they are now: 2-D, sharing its memory where strides allow.

        Raises:
            RuntimeError: the model no longer has the parameter, or its number of matrices has changed.
        """
        parameter = self.parameter()
        views = matrices_of(parameter.detach(), self.owner)
        if len(views) != len(self.matrices):
            raise RuntimeError(
                f"tracked parameter {self.name!r} had {len(self.matrices)} matrices and now, with shape "
                f"{tuple(parameter.shape)}, has {len(views)}; make a new RankTracker"
            )
        return views


def matrices_of(parameter: Tensor, owner: nn.Module) -> list[Tensor]:
    """2-D matrices of a parameter with at least two dimensions.

    A convolution's kernel `(c_out, c_in, kh, kw)` is one matrix `(c_out, c_in*kh*kw)`, and so is anything else of four
    or more dimensions; a stacked parameter `(E, m, n)` is E matrices. The columns of a kernel are in the order of
    memory, which in channels-last format differs from the order of its dimensions: the singular values are the same,
    and nothing is copied.
    """
    if parameter.ndim == 2:
        return [parameter]
    if parameter.ndim == 3 and not isinstance(owner, CONVOLUTIONS):
        return list(parameter)
    by_stride = sorted(range(1, parameter.ndim), key=lambda d: (-parameter.stride()[d], d))
    return [parameter.permute(0, *by_stride).flatten(1)]


def clean_name(name: str) -> str:
    """`name` without the parts that wrappers put in: `module.` and `_orig_mod.`."""
    return ".".join(part for part in name.split(".") if part not in ("module", "_orig_mod"))


def find_parameters(
    model: nn.Module,
    include: Sequence[str] | None,
    exclude: Sequence[str] | None,
    types: tuple[type[nn.Module], ...] | None,
    select: Select,
) -> tuple[list[TrackedParameter], CoverageTable]:
    """Choose the parameters to track; see `fastrank.RankTracker` for the arguments.

    Raises:
        TypeError, ValueError: a bad argument, or a choice that leaves nothing to track.
    """
    if select not in get_args(Select):
        raise ValueError(f"select: expected one of {', '.join(map(repr, get_args(Select)))}, not {select!r}")
    for argument, patterns in (("include", include), ("exclude", exclude)):
        if isinstance(patterns, str):
            raise TypeError(f"{argument}: expected a list of globs, not the string {patterns!r}")
    places = list(_places(model))
    names = [clean_name(name) for name, _, _ in places]
    if len(set(names)) < len(names):  # two modules differ by a wrapper's name only: keep names as they are
        names = [name for name, _, _ in places]
    head = _classifier_head(model) if select == "paper" else None
    seen: dict[int, int] = {}
    tracked: list[TrackedParameter] = []
    table = CoverageTable()
    for name, (_, owner, attribute) in zip(names, places, strict=True):
        parameter = getattr(owner, attribute)
        if isinstance(parameter, UninitializedParameter):
            raise ValueError(f"parameter {name!r} is not initialised yet; run the model once before tracking it")
        shape, module = tuple(parameter.shape), type(owner).__name__
        if id(parameter) in seen:
            reason = f"(the same parameter as {table[seen[id(parameter)]].name})"
        else:
            reason = _refusal(name, parameter, owner, include, exclude, types)
            if not reason and select == "paper":
                reason = "(classifier head)" if owner is head else _shortcut(owner)
        seen.setdefault(id(parameter), len(table))
        matrices: tuple[str, ...] = ()
        if not reason:
            count = len(matrices_of(parameter.detach(), owner))
            single = parameter.ndim != 3 or isinstance(owner, CONVOLUTIONS)
            matrices = (name,) if single else tuple(f"{name}[{i}]" for i in range(count))
            tracked.append(TrackedParameter(name, owner, attribute, matrices))
        table.append(Coverage(name, shape, module, matrices, reason))
    if not any(t.matrices for t in tracked):
        raise ValueError(f"nothing to track: no parameter of the model matches\n{table}")
    return tracked, table


def _places(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Yields name, owning module and attribute of every parameter; a tied one comes once for each of its places."""
    for prefix, owner in model.named_modules():
        for attribute, parameter in owner.named_parameters(recurse=False, remove_duplicate=False):
            if parameter is not None:
                yield (f"{prefix}.{attribute}" if prefix else attribute), owner, attribute


def _refusal(
    name: str,
    parameter: Tensor,
    owner: nn.Module,
    include: Sequence[str] | None,
    exclude: Sequence[str] | None,
    types: tuple[type[nn.Module], ...] | None,
) -> str:
    """Why a parameter is not tracked, in parentheses, for `Coverage.reason`; empty if it is."""
    if parameter.ndim < 2:
        return "(not a matrix)"
    if parameter.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        return f"(dtype {str(parameter.dtype).removeprefix('torch.')})"
    if types is not None and not isinstance(owner, types):
        return "(module type not chosen)"
    if include is not None and not any(fnmatchcase(name, pattern) for pattern in include):
        return "(not included)"
    if exclude is not None and any(fnmatchcase(name, pattern) for pattern in exclude):
        return "(excluded)"
    return ""


def _classifier_head(model: nn.Module) -> nn.Module | None:
    """The last linear layer, in the order in which the model registers its modules; None without one."""
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return linear[-1] if linear else None


def _shortcut(owner: nn.Module) -> str:
    """The reason why `select="paper"` leaves out a 1 x 1 convolution; empty for any other module."""
    is_shortcut = isinstance(owner, nn.Conv2d) and owner.kernel_size == (1, 1)
    return "(1x1 shortcut convolution)" if is_shortcut else ""
