"""A fleet's state under other weights: made anew from the ring, never converted."""

from __future__ import annotations

import numpy as np

from forecaster.model import Forecaster
from forecaster.state import State
from forecaster.stepping import advance
from forecaster.windows import Windows
from schemas.errors import ModelError


def rewarm(forecaster: Forecaster, state: State) -> State:
    """The state that ``forecaster`` would have, had it seen the last values of every series.

    The ring of each series is run through the new weights from a cold start, which begins at the ring's
    first value, as every series does; one whose ring holds no value is stepped through its silence. The
    moments (mean, variance, counts), which do not depend on weights, stay as they are. A state of the same
    weights is returned as it is.

    Raises:
        ModelError: the windows of state and forecaster differ in length.
    """
    if state.model_version == forecaster.version:
        return state
    if state.freq_s != forecaster.window_config.freq_s:
        raise ModelError(
            f"a state of {state.freq_s} s windows cannot be re-warmed for {forecaster.version}, "
            f"whose windows are {forecaster.window_config.freq_s} s long"
        )
    parts = [forecaster.initial_state()]
    for clock in np.unique(state.clock):
        old = state.take(np.flatnonzero(state.clock == clock))
        start = int(clock) + 1 - len(old.ring)
        silent = np.flatnonzero(np.isnan(old.ring).all(axis=0))
        new = forecaster.unseen(tuple(old.series_ids[i] for i in silent), start)
        new, _ = advance(forecaster, new, Windows(old.series_ids, start, old.ring))
        place = {name: i for i, name in enumerate(old.series_ids)}
        old = old.take(np.array([place[name] for name in new.series_ids]))
        kept = ("observed", "mean", "variance", "last", "age")
        parts.append(State(**{**vars(new), **{name: getattr(old, name) for name in kept}}))
    return State.join(parts)
