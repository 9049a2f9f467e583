"""A state under other weights: run through them anew, from the last values that it keeps of every series.

Letters: R ring, C observed covariates.
"""

from __future__ import annotations

import numpy as np

from forecaster.arrays import Arrays, Floats, Ints
from forecaster.components.base import Component
from forecaster.components.chain import experts_of
from forecaster.components.experts.base import Expert
from forecaster.components.moments import OF_SEASON, Moments
from forecaster.components.observed_covariates import PastCovariates, ring_of
from forecaster.components.ring import Ring, in_order
from forecaster.components.season import Season, season_in
from forecaster.model import Forecaster
from forecaster.state import State
from forecaster.stepping import advance_in_place, windows_per_call
from schemas.errors import ModelError

_OF_VALUES = (Ring, Moments, PastCovariates, Season, Expert)  # components that no network has a part in


def rewarm(forecaster: Forecaster, state: State) -> State:
    """The state that ``forecaster`` would have, had it seen the last values of every series.

    The ring of each series is run through the new weights from a cold start, which begins at the ring's first
    value, as every series does, with the observed covariates of the same windows (missing where the state
    kept none of that name); one whose ring holds no value starts from the initial state, as all do where the
    state has no ring. What does not depend on the network's weights (ring, moments, covariates, season,
    experts) stays as it is, if it means the same: a ring of another length can bring another season, and then
    what is counted by seasons is learned anew on the way, as what is learned of the network's errors always
    is. A state of the same weights is returned as it is.

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
    warm = forecaster.unseen(state.series_ids, 0)
    warm.clock[:] = state.clock
    for clock in np.unique(state.clock) if state.parts.get("ring") else ():
        index = np.flatnonzero(state.clock == clock)
        values = in_order(state.parts["ring"]["values"][index], state.clock[index]).T
        past = _past_in_order(forecaster, state, index, values)
        start = int(clock) + 1 - len(values)
        part = forecaster.unseen(tuple(state.series_ids[i] for i in index), start)
        most = windows_per_call(len(index))  # its forecasts are for nobody: a few windows at a time
        for first in range(0, len(values), most):
            rows = slice(first, first + most)
            advance_in_place(forecaster, part, values[rows], start + first, past=past[rows])
        warm.put(index, part)
    warm.silent[:] = state.silent
    for name, fields in _kept(forecaster, state).items():
        for f in fields:
            warm.parts[name][f] = state.parts[name][f].copy()
    return warm


def _kept(forecaster: Forecaster, state: State) -> dict[str, list[str]]:
    """Fields by component that mean the same under the forecaster as under the one that made the state."""
    config, windows = forecaster.network_config, forecaster.window_config
    ring = state.parts.get("ring", {}).get("values")
    old = config.model_copy(update={"ring": 0 if ring is None else ring.shape[1]})
    same_season = season_in(old.ring, state.freq) == season_in(config.ring, state.freq)
    experts = {part.name: part for part in experts_of(old, windows, forecaster.online_config)}
    kept = {}
    for component in forecaster.components:
        own = state.parts.get(component.name)
        if not isinstance(component, _OF_VALUES) or own is None or not _fits(component, own):
            continue
        if isinstance(component, Expert) and not (same_season and experts.get(component.name) == component):
            continue
        of_season = OF_SEASON if isinstance(component, Moments) and not same_season else ()
        kept[component.name] = [name for name in own if name not in of_season]
    return kept


def _past_in_order(forecaster: Forecaster, state: State, index: Ints, values: Floats) -> Floats:
    """``[R, n, C]``, what a state has kept of the covariates that a forecaster reads; NaN where nothing."""
    names = forecaster.covariates.features.observed
    past = np.full((*values.shape, len(names)), np.nan)
    for place, name in enumerate(names):
        kept = state.parts.get("past", {}).get(ring_of(name))
        if kept is not None:
            past[:, :, place] = in_order(kept[index], state.clock[index]).T
    return past


def _fits(component: Component, own: Arrays) -> bool:
    """Whether arrays are such as the component keeps."""
    fields = component.spec()
    return own.keys() == fields.keys() and all(
        (own[name].dtype.name, own[name].shape[1:]) == (dtype, shape)
        for name, (dtype, shape) in fields.items()
    )
