"""Coverage: which weights of a model are wanted, which of them are tracked, and why the others are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

from torch import nn
from torch.nn.utils import parametrize

from .layers import Split, check_split
from .readable import fsdp_type

Select = Literal["all", "paper"]
WeightsOf = Literal["effective", "raw"]


@dataclass(frozen=True)
class Coverage:
    """As which matrices one weight of the model is tracked, or why it is not."""

    name: str
    shape: tuple[int, ...]
    module: str
    """Type of the module that uses it."""
    matrices: tuple[str, ...]
    """Names of its matrices in the history; empty where it is not tracked."""
    reason: str
    """Why it is not tracked, or under which other names it is tied; empty otherwise."""


class CoverageTable(list[Coverage]):
    """One row for each weight of the model; `print` it. A notebook shows it as it is printed."""

    def __repr__(self) -> str:
        rows = [("parameter", "shape", "module", "tracked as")]
        for c in self:
            count = len(c.matrices)
            tracked = "-" if not count else "1 matrix" if count == 1 else f"{count} matrices"
            if count > 1:
                labels = [name.removeprefix(c.name) for name in c.matrices]
                tracked += " " + " ".join(labels if count < 5 else [*labels[:2], "...", labels[-1]])
            rows.append((c.name, "x".join(map(str, c.shape)), c.module, f"{tracked} {c.reason}".strip()))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(x.ljust(w) for x, w in zip(row, widths, strict=True)).rstrip() for row in rows)


@dataclass(frozen=True)
class Choice:
    """Which weights are wanted, and as which matrices. The arguments are those of `fastrank.RankTracker`.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, or out of range.
    """

    include: Sequence[str] | None = None
    exclude: Sequence[str] | None = None
    types: Any = None
    select: Select = "all"
    weights: WeightsOf = "effective"
    split: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for argument, allowed in (("select", Select), ("weights", WeightsOf)):
            value = getattr(self, argument)
            if value not in get_args(allowed):
                raise ValueError(
                    f"{argument}: expected one of {', '.join(map(repr, get_args(allowed)))}, not {value!r}"
                )
        for argument, patterns in (("include", self.include), ("exclude", self.exclude)):
            if isinstance(patterns, str):
                raise TypeError(f"{argument}: expected a list of globs, not the string {patterns!r}")
        object.__setattr__(self, "split", check_split(self.split))
        if self.types is not None:
            single = isinstance(self.types, str | type) or not isinstance(self.types, Sequence)
            kinds = (self.types,) if single else tuple(self.types)
            for kind in kinds:
                if not isinstance(kind, str) and not (isinstance(kind, type) and issubclass(kind, nn.Module)):
                    raise TypeError(f"types: expected module types, or their names, not {kind!r}")
            object.__setattr__(self, "types", kinds)

    def check_names(self, model: nn.Module, weights: Sequence[str]) -> None:
        """Raises `ValueError` for a type or a glob of `split` that nothing in the model has: it may be misspelt.

        weights: names of the model's weights.
        """
        known = {kind.__name__ for module in model.modules() for kind in type(module).__mro__}
        for kind in self.types or ():
            if isinstance(kind, str) and kind not in known:
                there = ", ".join(sorted({type_name(module) for module in model.modules()}))
                raise ValueError(f"types: no module of the model is a {kind!r}; there are {there}")
        for glob in self.split:
            if not any(fnmatchcase(name, glob) for name in weights):
                raise ValueError(f"split: no weight of the model matches {glob!r}")

    def split_of(self, name: str) -> Split | None:
        """How the weight of this name is cut, by the first glob of `split` that matches it."""
        return next((split for glob, split in self.split.items() if fnmatchcase(name, glob)), None)

    def reason_against(self, name: str, layer: nn.Module) -> str:
        """Why a weight is not wanted, in parentheses, for `Coverage.reason`; empty if it is."""
        if self.types is not None and not any(_is_a(layer, kind) for kind in self.types):
            return "(module type not chosen)"
        if self.include is not None and not any(fnmatchcase(name, pattern) for pattern in self.include):
            return "(not included)"
        if self.exclude is not None and any(fnmatchcase(name, pattern) for pattern in self.exclude):
            return "(excluded)"
        if self.select == "paper" and isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1):
            return "(1x1 shortcut convolution)"
        return ""


def type_name(module: nn.Module) -> str:
    """Name of a module's type, without what a parametrization, or `fully_shard`, adds to it."""
    kind = parametrize.type_before_parametrizations(module)
    sharded = fsdp_type()
    if sharded is not None and issubclass(kind, sharded):
        kind = kind.__mro__[2]  # the class is made of FSDPModule, which is [1], and the module's own
    return str(kind.__name__)


def _is_a(layer: nn.Module, kind: str | type[nn.Module]) -> bool:
    if isinstance(kind, str):
        return any(base.__name__ == kind for base in type(layer).__mro__)
    return isinstance(layer, kind)
