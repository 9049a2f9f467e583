"""Check whether a model version can replace another version in a running stream."""

from __future__ import annotations

import numpy as np

from forecaster.model import Forecaster
from forecaster.stepping.advance import advance
from forecaster.time.windows import Windows
from schemas.errors import ModelError

# These settings of ``windows`` may differ in a new model version: a running stream keeps its own values.
_NOT_COMPARED = ("allowed_lateness", "repair")
_TRIAL_WINDOWS = 60


def check_can_replace(new: Forecaster, old: Forecaster) -> None:
    """Raise ModelError if a new model version cannot replace the old one in a stream.

    Both must have the same settings of windows (except `_NOT_COMPARED`), horizon, quantiles and observed
    covariates. The new version must return finite forecasts in a trial of a few windows.

    Raises:
        ModelError: the new version cannot replace the old one; the message is the reason.
    """
    for name in type(new.window_config).model_fields:
        its, ours = (getattr(one.window_config, name) for one in (new, old))
        if name not in _NOT_COMPARED and its != ours:
            raise ModelError(f"its windows.{name} is {its}, and the windows.{name} of the stream is {ours}")
    for name in ("horizon", "quantiles"):
        its, ours = (getattr(one.network_config, name) for one in (new, old))
        if its != ours:
            raise ModelError(f"its network.{name} is {_text(its)}, and that of the stream is {_text(ours)}")
    its, ours = (one.covariates.features.observed for one in (new, old))
    if set(its) != set(ours):
        raise ModelError(
            f"its observed covariates are {_text(its)}, and those of the stream are {_text(ours)}"
        )
    hours = np.arange(_TRIAL_WINDOWS)[:, None]
    _, forecasts = advance(new, new.initial_state(), Windows(("trial",), 0, np.sin(hours / 4)))
    if not np.isfinite(forecasts.values[:, -1]).all():
        raise ModelError("its forecasts are not finite, so its weights may be broken: train it again")


def _text(value: object) -> str:
    return (", ".join(map(str, value)) or "none") if isinstance(value, tuple) else str(value)
