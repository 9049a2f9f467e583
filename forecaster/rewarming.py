"""A state under other weights: run through them anew, from the last values that it keeps of every series.

Letters: R ring, C observed covariates.
"""

from __future__ import annotations

import numpy as np

from forecaster.components.base import Arrays, Component, Floats, Ints
from forecaster.components.expert import Expert
from forecaster.components.moments import Moments
from forecaster.components.past import PastCovariates, ring_of
from forecaster.components.ring import Ring, in_order
from forecaster.components.season import Season
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
    experts) stays as it is; what is learned of its errors is learned anew on the way. A state of the same
    weights is returned as it is.

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
    for component in forecaster.components:
        own = state.parts.get(component.name)
        if isinstance(component, _OF_VALUES) and own is not None and _fits(component, own):
            warm.parts[component.name] = {name: array.copy() for name, array in own.items()}
    return warm


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
