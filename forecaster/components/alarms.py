"""Raise alarms from p-values: at most one for each anomaly, and about the wanted number per window.

Letters: T windows, S series.
"""

from __future__ import annotations

import math

import numpy as np

from forecaster.arrays import Arrays, Floats, Ints32

# A series raises no alarm in its first `YOUNG` windows with a p-value.
# A run of equal values has no p-value until the series has changed its value more than `YOUNG` times.
YOUNG = 40
_STEP = 0.4  # an alarm lowers the logarithm of the p-value threshold by this number times ``1 - rate``
_DEBT = 6.0  # no alarm is raised while ``budget`` (wanted minus raised alarms, capped) is at most ``-_DEBT``
_MOST = 0.1  # the p-value threshold is at most the larger of this number and ``min(3 * rate, 0.95)``
_CALM = 0.05  # an anomaly ends at the first p-value that is at least the larger of this number and ``rate``
# An alarm sets the bit `LASTS` of ``alarming``; the p-value that ends the anomaly clears the bit.
# An alarm sets the bit `REPEATS`; the next value that differs from the value before it clears the bit.
LASTS, REPEATS = 1, 2


def raise_alarms(own: Arrays, log_p: Floats, run: Ints32, rate: float) -> Floats:
    """Decide for each window and series whether to raise an alarm, and update the alarm state.

    Args:
        own: the arrays of `forecaster.components.anomaly.Anomaly`, after the block; ``budget`` and
            ``alarming`` hold the alarm state and are updated.
        log_p: ``[T, S]``, the logarithm of the p-value, NaN if it is missing.
        run: ``[T, S]``, the length of the run of equal values after each window.
        rate: wanted alarms per window with a value.

    Returns:
        ``[T, S]``: 1 for an alarm, 0 for no alarm, NaN without a p-value.
    """
    known, log_rate = ~np.isnan(log_p), math.log(rate)
    most_budget = (math.log(max(_MOST, min(3.0 * rate, 0.95))) - log_rate) / _STEP
    # ``count`` is each series' number of p-values up to and including each window.
    # ``own["known"]`` already includes the p-values of the whole block.
    count = own["known"] - known.sum(axis=0) + known.cumsum(axis=0)
    may_alarm, wanted = count > YOUNG, rate * known
    goes_on = ~(log_p >= math.log(max(_CALM, rate)))
    # A jump and the run of equal values after it are one anomaly.
    # So if the jump raised an alarm, the run raises none.
    still_repeats = ~(known & (run == 0))
    lasts, repeats = (own["alarming"] & bit > 0 for bit in (LASTS, REPEATS))
    alarms, budget = np.empty(log_p.shape, bool), own["budget"]
    for t, alarm in enumerate(alarms):
        repeats &= still_repeats[t]
        threshold = _STEP * budget
        threshold += log_rate
        np.less(log_p[t], threshold, out=alarm)
        alarm &= may_alarm[t]
        alarm &= budget > -_DEBT
        alarm &= ~(lasts | repeats)
        lasts |= alarm
        lasts &= goes_on[t]
        repeats |= alarm
        budget += wanted[t] - alarm
        np.minimum(budget, most_budget, out=budget)
    own["alarming"] = (lasts * LASTS | repeats * REPEATS).astype(np.uint8)
    return np.where(known, alarms, np.nan)
