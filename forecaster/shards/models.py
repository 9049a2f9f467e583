"""The model versions of a job, and which of them steps a shard through each window."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from forecaster.model import Forecaster
from forecaster.state import State
from forecaster.stepping.rewarming import rewarm
from forecaster.time.duplicates import Keep


@dataclass(frozen=True)
class ModelChange:
    """A change of the model version: another version steps the shards from ``window`` on.

    Attributes:
        window: index of the first window through which the new version steps the shards.
        forecaster: the new version. Its `WindowConfig` differs from that of the version before in nothing
            that decides how rows become values of windows.
    """

    window: int
    forecaster: Forecaster


@dataclass(frozen=True)
class Models:
    """The model versions of a job, with its settings for repairs and duplicates.

    Attributes:
        first: the version that steps the shards through the windows before the first change.
        changes: the changes of the version, in the order of their windows.
        rewarm: returns the state of a new version from the state of the version before, at the change. The
            result must be that of `rewarm`; a job has prepared it in the background.
        shadow: a version that forecasts the same windows, only to be compared; None without one.
        repair: how many windows after its own window a late row is still repaired (see
            `forecaster.shards.repair`); 0 repairs none.
        duplicates: which row of an observation or event counts.
    """

    first: Forecaster
    changes: tuple[ModelChange, ...] = ()
    rewarm: Callable[[Forecaster, State], State] = rewarm
    shadow: Forecaster | None = None
    repair: int = 0
    duplicates: Keep = "last"

    def of_window(self, window: int) -> Forecaster:
        """Return the model version that steps a shard through ``window``."""
        return next((c.forecaster for c in reversed(self.changes) if c.window <= window), self.first)

    def of_state(self, state: State) -> Forecaster:
        """Return the job's model version that made a state, or the job's first version if there is none."""
        return self._by_version().get(state.model_version, self.first)

    def has_made(self, state: State) -> bool:
        """Return True if one of the job's model versions made a state."""
        return state.model_version in self._by_version()

    def cut(self, start: int, stop: int) -> int:
        """Return where a block from ``start`` ends: at ``stop``, or at an earlier model change."""
        return min([stop, *(change.window for change in self.changes if change.window > start)])

    def _by_version(self) -> dict[str, Forecaster]:
        every = (self.first, *(change.forecaster for change in self.changes))
        return {forecaster.version: forecaster for forecaster in every}
