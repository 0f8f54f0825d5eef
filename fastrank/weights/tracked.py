"""TrackedWeights: the weights of a model that are tracked, and their matrices as they are now."""

from __future__ import annotations

from torch import nn

from .coverage import Choice, Coverage, CoverageTable, type_name
from .effective import child_of
from .flattened import flattened_in, refuse_slice
from .kept import Kept
from .places import Place, clean_name, list_places
from .readable import is_quantised, is_uninitialised, reason_without_matrix
from .source import Source
from .tracked_weight import Reading, TrackedWeight, cut, gone


class TrackedWeights:
    """The weights of a model that are tracked.

    Args:
        model: its modules and parameters may be replaced later, under the same names.
        choice: which of its weights.
        none: whether it is no error if there is nothing to track (default False).

    Raises:
        TypeError: `model` is not a module.
        ValueError: nothing to track, or a weight that cannot be read, such as one of a sharded model.

    Attributes:
        tracked: the weights.
        coverage: a row for each weight of the model.
        names: of the matrices, in the order of `sources`.
        shapes: of the matrices that `sources` has returned last.
    """

    def __init__(self, model: nn.Module, choice: Choice, *, none: bool = False) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: expected a torch.nn.Module, not {type(model).__name__}")
        flattened = flattened_in(model)
        self._model, self._raw = model, choice.weights == "raw"
        self.tracked: list[TrackedWeight] = []
        self.coverage = CoverageTable()
        found = _named_places(model, self._raw)
        choice.check_names(model, list(found))
        linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
        head = linear[-1] if linear and choice.select == "paper" else None
        tied: dict[object, str] = {}
        for name, place in found.items():
            weight = place.read()
            assert weight is not None
            tensor, flat = weight.tensor, flattened.get((id(place.owner), place.stored))
            whole = flat.whole(tensor) if flat is not None else tensor
            unwanted = choice.reason_against(name, place.layer)
            if flat is None and not unwanted:
                refuse_slice(name, weight.parameter)
            reason = reason_without_matrix(whole, place.layer, place.attribute) or unwanted
            if place.part_of:
                reason = f"({clean_name(place.part_of)} is made from it)"
            elif place.key in tied and not reason:
                reason = f"(the same parameter as {tied[place.key]})"
            elif place.layer is head and not reason:
                reason = "(classifier head)"
            matrices: tuple[str, ...] = ()
            if not reason:
                split = choice.split_of(name)
                labels = cut(name, tensor, place, split, flat)
                matrices = tuple(f"{name}[{label}]" if label else name for label in labels)
                self.tracked.append(TrackedWeight(name, place, split, matrices, flat))
                tied[place.key] = name
            shape = () if is_uninitialised(tensor) else tuple(whole.shape)
            self.coverage.append(Coverage(name, shape, type_name(place.layer), matrices, reason))
        _refuse_quantised(model, choice)
        if not self.tracked and not none:
            raise ValueError(f"nothing to track: no parameter of the model matches\n{self.coverage}")
        self.names = tuple(name for weight in self.tracked for name in weight.matrices)
        self._links = self._all_links()
        self._kept: Kept | None = None
        self._known: list[Reading | None] = []  # None: this weight has to be read every time
        self._sources: list[Source] = []  # all of them, if every weight is known
        self.shapes: tuple[tuple[int, int], ...] = ()

    def sources(self) -> list[Source]:
        """Every tracked matrix as it is now, with its parameter: the same list as long as nothing has changed.

        Raises:
            RuntimeError: as in `TrackedWeight.read`.
        """
        if self._kept is not None and self._kept.hold():
            if self._sources:
                return self._sources
            readings = [known or weight.read() for known, weight in zip(self._known, self.tracked, strict=True)]
        else:
            self._kept = None
            if not all(child_of(parent, name) is child for parent, name, child in self._links):
                self._find_again()
            readings = [weight.read() for weight in self.tracked]
            self._known = [reading if reading.parameter is not None else None for reading in readings]
            parameters = [reading.parameter for reading in readings]
            self._kept = Kept(self._links, [weight.place for weight in self.tracked], parameters)
        sources = [source for reading in readings for source in reading.sources]
        self._sources = sources if all(self._known) else []
        self.shapes = tuple(source.shape for source in sources)
        return sources

    def _find_again(self) -> None:
        """Looks up the weights by their names, after a module of the model was replaced."""
        everywhere = list(list_places(self._model, self._raw))
        for weight in self.tracked:
            named = [p for p in everywhere if not p.part_of and weight.name in (p.name, clean_name(p.name))]
            # Two may have this name once wrappers' parts are left out: the same weight, or else the same place, counts.
            same = [p for p in named if p.key == weight.place.key] or [p for p in named if p.name == weight.place.name]
            if not same and len({p.key for p in named}) != 1:
                raise gone(weight.name)
            weight.place = (same or named)[0]  # in its place: whoever reads gradients has this object too
        self._links = self._all_links()

    def _all_links(self) -> list[tuple[nn.Module, str, nn.Module]]:
        return list(dict.fromkeys(link for weight in self.tracked for link in weight.place.links))


def _named_places(model: nn.Module, raw: bool) -> dict[str, Place]:
    """The places of a model's weights by name, without the parts of names that wrappers put in; weights that these
    alone tell apart keep the whole of their names."""
    by_name: dict[str, dict[tuple[int, str], list[Place]]] = {}
    for place in list_places(model, raw):
        by_name.setdefault(clean_name(place.name), {}).setdefault(place.key, []).append(place)
    found = {}
    for name, weights in by_name.items():
        if len(weights) == 1:
            found[name] = next(iter(weights.values()))[0]
        else:
            found.update({place.name: place for same in weights.values() for place in same})
    return found


def _refuse_quantised(model: nn.Module, choice: Choice) -> None:
    """Raises `ValueError` for a quantised module whose weight is wanted."""
    for path, module in model.named_modules():
        name = clean_name(f"{path}.weight".removeprefix("."))
        if is_quantised(module) and not choice.reason_against(name, module):
            raise ValueError(
                f"parameter {name!r} is packed in a quantised module, {type_name(module)}, and is not trained; track "
                f"the model before it is converted, or leave it out with exclude=[{name!r}]"
            )
