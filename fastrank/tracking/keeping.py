"""Keeping: how a tracker is saved, goes on from what was saved, and ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, Self

from ..sharing import Role
from ..weights import Source
from .checkpoint import pack, unpack
from .inference import outside_inference
from .readings import Readings


class Keeping(Readings):
    """The part of `RankTracker` that lets a training be interrupted, and ends it."""

    _keeps: bool
    """Whether the rows are kept in this process, and not in another one."""

    def state_dict(self) -> dict[str, Any]:
        """All that another process needs to continue: numbers, strings and bytes. Waits for the device.

        Of processes that measure together, which do not wait for each other here, the first one has the state to save,
        with all rows; it is loaded on all of them, and there may be more or fewer then. `torch.distributed.checkpoint`
        does so if it is given the tracker of each. The state of a process that does not measure is empty.
        """
        if self._role is Role.IDLE:
            return {}
        sources = self._weights.sources()
        kept = None
        if self._keeps:
            kept = {
                "measurer": self._measurer.state(sources),
                "history": self._history.state_dict(),
                "watch": self._watch.state(self._history),
                "steps": self._steps.memory(),
            }
        given = (self.names, self._history.layout.columns, self._shapes(sources))
        return pack(*given, self._steps.state(), self._steps.memory() | {"read": -1}, kept)

    @outside_inference
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`. Rows measured since it was taken are dropped, and parts written since removed.

        Raises:
            ValueError: the state is of another version, of a tracker of other matrices, shapes or columns, or of a
                process that does not keep the rows.
            HistoryError: a part the state counts on is missing.
        """
        if self._role is Role.IDLE:
            return
        self._weights.reshard()  # so that what is kept of them for updates is what a step changes
        sources = self._weights.sources()
        given = (self.names, self._history.layout.columns, self._shapes(sources))
        rules, kept = unpack(state, *given, keeps=self._keeps)
        if self._keeps:
            self._history.load_state_dict(kept["history"])
            self._watch.load(kept.get("watch"))
            self._measurer.load(sources, kept["measurer"])
            rules = kept.get("steps")
        else:
            self._history.load_state_dict({"parts": 0, "blocks": [], "last": []})
        self._steps.load(state["calls"], state["steps"], rules)
        self._weights.keep()

    def flush(self) -> None:
        """Write rows that are in no part yet to `directory`. Raises `OSError`; the rows are then kept."""
        self._history.flush()

    def close(self) -> None:
        """Stop following the optimizer, flush, and leave `directory` to others. The end of a `with` block does it."""
        self._end(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        """Close. Processes that measure with this one are told at once which error has ended its training, if any."""
        self._hooks.stop()
        if self._shared is not None and error is not None:
            self._shared.close(self._steps.calls, error)
        try:
            try:
                self._history.close()
            finally:
                self._watch.close(self._history)
        finally:  # the last rows are there by then
            if self._shared is not None:
                self._shared.close(self._steps.calls)
        self._hooks.warn_if_idle(recorded=self._steps.begun, closing=True)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(
            "a RankTracker follows an optimizer and cannot be copied or pickled; save its state_dict(), and load that "
            "into a new tracker of the other model"
        )

    def _shapes(self, sources: Sequence[Source]) -> Sequence[tuple[int, int]]:
        """Of all matrices, as they are now."""
        return [source.shape for source in sources] if self._shared is None else self._shared.shapes
