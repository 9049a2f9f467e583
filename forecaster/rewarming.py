"""Re-warm a state: build the state of other weights from the ring of every series.

Letters: R windows of the ring, C observed covariates, n series.
"""

from __future__ import annotations

import numpy as np

from forecaster.arrays import Arrays, Floats, Ints
from forecaster.components.base import Component
from forecaster.components.chain import experts_of
from forecaster.components.experts.base import Expert
from forecaster.components.moments import SEASONAL_FIELDS, Moments
from forecaster.components.observed_covariates import ObservedCovariates, ring_field
from forecaster.components.ring import Ring, in_order
from forecaster.components.season import Season, ring_season
from forecaster.model import Forecaster
from forecaster.state import State
from forecaster.step_block import windows_per_call
from forecaster.stepping import advance_in_place
from schemas.errors import ModelError

# The arrays of these components do not depend on the network's weights, so a new model can take them over.
_NETWORK_INDEPENDENT = (
    Ring,
    Moments,
    ObservedCovariates,
    Season,
    Expert,
)


def rewarm(forecaster: Forecaster, state: State) -> State:
    """Return the state that ``forecaster`` has after stepping each series through the values in its ring.

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
            f"a state of windows of {state.freq} cannot be re-warmed for {forecaster.version}, "
            f"whose windows are {forecaster.window_config.frequency}"
        )
    warm = forecaster.new_series_state(state.series_ids, 0)
    warm.clock[:] = state.clock
    for clock in np.unique(state.clock) if state.parts.get("ring") else ():
        index = np.flatnonzero(state.clock == clock)
        values = in_order(state.parts["ring"]["values"][index], state.clock[index]).T
        past = _stored_past(forecaster, state, index, values)
        start = int(clock) + 1 - len(values)
        part = forecaster.new_series_state(tuple(state.series_ids[i] for i in index), start)
        most = windows_per_call(len(index))  # few windows in each call bound the memory that it needs
        for first in range(0, len(values), most):
            rows = slice(first, first + most)
            advance_in_place(forecaster, part, values[rows], start + first, past=past[rows])
        warm.put(index, part)
    warm.silent[:] = state.silent
    for name, fields in _fields_to_copy(forecaster, state).items():
        for f in fields:
            warm.parts[name][f] = state.parts[name][f].copy()
    return warm


def _fields_to_copy(forecaster: Forecaster, state: State) -> dict[str, list[str]]:
    """Return the fields of each component whose values mean the same under the new and the old forecaster."""
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
    """Return the covariates that a state holds for the windows of its ring, ``[R, n, C]`` float64.

    NaN where missing, or where the state does not hold a covariate that the forecaster reads.
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
