"""Re-warm a state: build the state of a new model version from the ring of every series.

`rewarm` does this in one call. `Warming` gives the same result at a later window, in small steps that can be
taken while the earlier version is in use.

Letters: T windows, R windows of the ring, C observed covariates, n series.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from forecaster.arrays import Arrays, Bools, Floats, Ints
from forecaster.components.base import Component
from forecaster.components.chain import experts_of
from forecaster.components.experts.base import Expert
from forecaster.components.moments import SEASONAL_FIELDS, Moments
from forecaster.components.observed_covariates import ObservedCovariates, ring_field
from forecaster.components.ring import Ring, in_order
from forecaster.components.season import Season, ring_season
from forecaster.model import Forecaster
from forecaster.state import State, live, match_layout, put
from forecaster.stepping.advance import advance_in_place
from forecaster.stepping.step_block import windows_per_call
from schemas.errors import ModelError

# One call of `Warming.step` makes at most this many series-steps (one series through one window each).
# A call with this many series-steps takes up to 60 ms on one core.
_CALL_STEPS = 2_500

# The arrays of these components do not depend on the network's weights, so a new model can take them over.
_NETWORK_INDEPENDENT = (
    Ring,
    Moments,
    ObservedCovariates,
    Season,
    Expert,
)


def rewarm(forecaster: Forecaster, state: State) -> State:
    """Return a state for ``forecaster``, made by stepping each series through the values in its ring.

    Each series is stepped under the new weights from a cold start, which begins at the first value in its
    ring, together with the observed covariates of the same windows (missing if the state does not hold a
    covariate of that name). A series whose ring holds no value starts from the initial state, and so do all
    series if the state has no ring.

    Fields that do not depend on the network's weights (ring, moments, covariates, season, experts) are copied
    if they have the same meaning under both forecasters. A ring of another length can change the length of
    the season; fields that depend on the season are then learned again from the ring. Fields that are learned
    from the network's errors are always learned again. A state of the same weights is returned unchanged.

    Raises:
        ModelError: the windows of state and forecaster differ in length.
    """
    if state.model_version == forecaster.version:
        return state
    if state.freq != forecaster.window_config.frequency:
        raise ModelError(
            f"the state has windows of {state.freq} and cannot be re-warmed for {forecaster.version}, which "
            f"has windows of {forecaster.window_config.frequency}: choose a model with windows of "
            f"{state.freq}"
        )
    warm = forecaster.new_series_state(state.series_ids, 0)
    warm.clock[:] = state.clock
    for clock in np.unique(state.clock) if state.parts.get("ring") else ():
        index = np.flatnonzero(state.clock == clock)
        values = in_order(state.parts["ring"]["values"][index], state.clock[index]).T
        past = _stored_past(forecaster, state, index, values)
        start = int(clock) + 1 - len(values)
        part = forecaster.new_series_state(tuple(state.series_ids[i] for i in index), start)
        most = windows_per_call(len(index))  # all windows in one call could take too much memory
        for first in range(0, len(values), most):
            rows = slice(first, first + most)
            advance_in_place(forecaster, part, values[rows], start + first, past=past[rows])
        warm.put(index, part)
    _take_fields(forecaster, warm, state)
    return warm


def _take_fields(forecaster: Forecaster, warm: State, state: State) -> None:
    """Copy ``silent`` and the fields of `_fields_to_copy` from ``state`` to the new state ``warm``."""
    warm.silent[:] = state.silent
    for name, fields in _fields_to_copy(forecaster, state).items():
        for f in fields:
            warm.parts[name][f] = state.parts[name][f].copy()


def _fields_to_copy(forecaster: Forecaster, state: State) -> dict[str, list[str]]:
    """Return, by component, the fields to copy from ``state`` to the state of ``forecaster``.

    They do not depend on the network's weights, and mean the same under the old and the new forecaster.
    """
    config, windows = forecaster.network_config, forecaster.window_config
    ring = state.parts.get("ring", {}).get("values")
    old_config = config.model_copy(update={"ring": 0 if ring is None else ring.shape[1]})
    is_same_season = ring_season(old_config.ring, state.freq) == ring_season(config.ring, state.freq)
    experts = {part.name: part for part in experts_of(old_config, windows, forecaster.online_config)}
    to_copy = {}
    for component in forecaster.components:
        own = state.parts.get(component.name)
        if not isinstance(component, _NETWORK_INDEPENDENT) or own is None or not _has_layout(component, own):
            continue
        if isinstance(component, Expert) and not (
            is_same_season and experts.get(component.name) == component
        ):
            continue
        season_fields = SEASONAL_FIELDS if isinstance(component, Moments) and not is_same_season else ()
        to_copy[component.name] = [name for name in own if name not in season_fields]
    return to_copy


def _stored_past(forecaster: Forecaster, state: State, index: Ints, values: Floats) -> Floats:
    """Return the observed covariates that a state holds for the windows of its ring.

    ``[R, n, C]`` float64, by window of the ring, series and covariate. NaN where missing, or where the state
    does not hold a covariate that the forecaster reads.
    """
    names = forecaster.covariates.features.observed
    past = np.full((*values.shape, len(names)), np.nan)
    for place, name in enumerate(names):
        kept = state.parts.get("past", {}).get(ring_field(name))
        if kept is not None:
            past[:, :, place] = in_order(kept[index], state.clock[index]).T
    return past


def _has_layout(component: Component, own: Arrays) -> bool:
    """Return whether arrays have the fields, types and shapes that the component declares."""
    fields = component.spec()
    return own.keys() == fields.keys() and all(
        (own[name].dtype.name, own[name].shape[1:]) == (dtype, shape)
        for name, (dtype, shape) in fields.items()
    )


@dataclass(frozen=True)
class _RecentValues:
    """Values and observed covariates of consecutive windows, copied from the rings of the earlier state.

    Attributes:
        series_ids: ``n`` ids.
        start: index of the first window.
        values: ``[T, n]`` float64, NaN where missing.
        past: ``[T, n, C]`` float64, the observed covariates, NaN where missing.
        has_earlier: ``[n]`` bool, whether the ring holds a value before ``start`` that is to be stepped.
    """

    series_ids: tuple[str, ...]
    start: int
    values: Floats
    past: Floats
    has_earlier: Bools


class Warming:
    """Builds the state of a new model version in small steps, while the earlier version is in use.

    The new version starts from the initial state, at the window at which the ring will begin when the version
    changes. It is stepped through the values of the ring, and catches up while the earlier version is in use.
    So `finish` returns the state that `rewarm` returns at the change. When and in which parts the values were
    stepped does not matter.

    `copy_values` and `finish` read the state of the earlier version, and belong in the thread that steps
    it. `step` may run in another thread, but not at the same time as another method.

    Args:
        forecaster: the new version.
        window: index of the first window that the new version closes.
        call_steps: most series-steps in one call of `step`, which bounds its duration.
    """

    def __init__(self, forecaster: Forecaster, window: int, call_steps: int = _CALL_STEPS) -> None:
        self.forecaster, self.window = forecaster, window
        self._call_steps = call_steps
        self._state = forecaster.initial_state()
        self._copied_through: int | None = None
        self._copied: deque[_RecentValues] = deque()
        self._calls: Iterator[None] = iter(())

    def copy_values(self, state: State, closed_through: int) -> bool:
        """Copy from the ring of ``state`` the values not copied before; return False if there are none.

        Args:
            state: the state of the earlier version.
            closed_through: the last window that it has closed; before ``window``.
        """
        ring = state.parts.get("ring", {}).get("values")
        windows = 0 if ring is None else ring.shape[1]
        first = self.window - windows
        start = first if self._copied_through is None else self._copied_through + 1
        if ring is None or closed_through < start:
            return False
        self._copied_through = closed_through
        new, earlier = (np.arange(*span) % windows for span in ((start, closed_through + 1), (first, start)))
        names = self.forecaster.covariates.features.observed
        past = np.full((len(new), len(state), len(names)), np.nan)
        for place, name in enumerate(names):
            kept = state.parts.get("past", {}).get(ring_field(name))
            if kept is not None:
                past[:, :, place] = kept[:, new].T
        values = ring[:, new].T.copy()
        self._copied.append(
            _RecentValues(state.series_ids, start, values, past, _has_value(ring[:, earlier]))
        )
        return True

    def step(self) -> bool:
        """Step the new version through some of the copied values; return False if none were left to step."""
        while True:
            for _ in self._calls:
                return True
            if not self._copied:
                return False
            self._calls = self._calls_for(self._copied.popleft())

    def finish(self, state: State) -> State:
        """Return the state with which the new version closes its first window.

        Args:
            state: the state of the earlier version, which has closed all windows before ``window``.
        """
        # If the last closed window of any live series is not the one before ``window``, discard the prepared
        # state and re-warm.
        if (state.clock[live(state)] != self.window - 1).any():
            return rewarm(self.forecaster, state)
        self.copy_values(state, self.window - 1)
        while self.step():
            pass
        ring = state.parts.get("ring", {}).get("values")
        has_value = np.zeros(len(state), bool) if ring is None else _has_value(ring)
        self._align(state.series_ids, has_value, self.window)
        self._state.clock[:] = state.clock
        _take_fields(self.forecaster, self._state, state)
        return self._state

    def _calls_for(self, recent: _RecentValues) -> Iterator[None]:
        """Step the new version through ``recent`` in several calls, and yield after each call.

        One call steps n series through m windows, where n · m is at most ``call_steps``.
        """
        self._align(recent.series_ids, recent.has_earlier, recent.start)
        for first in range(0, len(self._state), self._call_steps):
            series = slice(first, first + self._call_steps)
            part = self._state.part(series)
            windows = max(1, self._call_steps // len(part))
            for row in range(0, len(recent.values), windows):
                rows = slice(row, row + windows)
                values, past = recent.values[rows, series], recent.past[rows, series]
                advance_in_place(self.forecaster, part, values, recent.start + row, past=past)
                yield
            if first == 0:
                match_layout(self._state.parts, part.parts)
            put(self._state.parts, series, part.parts)

    def _align(self, series_ids: tuple[str, ...], has_earlier: Bools, start: int) -> None:
        """Arrange the series of the new version's state in the order of ``series_ids``.

        A series without a value before ``start`` gets the initial state: it is new, or it has retired.
        """
        if series_ids == self._state.series_ids and (has_earlier | ~live(self._state)).all():
            return
        slot_of_id = {name: slot for slot, name in enumerate(self._state.series_ids)}
        slots = np.array([slot_of_id.get(name, -1) for name in series_ids], np.int64)
        kept = np.flatnonzero((slots >= 0) & has_earlier)
        aligned = self.forecaster.new_series_state(series_ids, start)
        aligned.put(kept, self._state.take(slots[kept]))
        self._state = aligned


def _has_value(values: Floats) -> Bools:
    """Return for each series (row of ``values``) whether it has a value that is not NaN."""
    return np.asarray((~np.isnan(values)).any(axis=1))
