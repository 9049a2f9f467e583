"""Drift of the inputs: how far their recent distribution is from that of the training data.

Letters: S series, I inputs, B buckets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from forecaster.arrays import Floats
from forecaster.components.profile import BUCKETS, Profile
from forecaster.state import State

FEWEST: Final = 100
"""The drift of fewer values is not measured, because it would mostly be noise."""

# Half a value is added to each bucket, so that an empty bucket does not make the index infinite.
_PRIOR = 0.5


def population_stability_index(counts: Floats, shares: Floats) -> Floats:
    """Return the population stability index of observed counts against expected shares.

    The index is the sum over buckets of ``(a - e) ln(a / e)``, where ``a`` is the observed and ``e`` the
    expected share of a bucket (Siddiqi 2006, "Credit Risk Scorecards", chapter 10). It is 0 for equal
    shares; usual limits are 0.1 for a small and 0.25 for a large change. Half a value is added to each bucket
    on both sides, so an empty bucket does not make the index infinite. Of n independent values without
    drift, the index is about ``(B - 1) / n`` (Yurdakul & Naranjo 2020, "Statistical properties of the
    population stability index").

    Args:
        counts: ``[..., B]``, number of observed values in each bucket.
        shares: ``[..., B]``, expected share of the values in each bucket.

    Returns:
        ``[...]`` float64; NaN where fewer than 100 values were observed.
    """
    total = counts.sum(axis=-1, keepdims=True)
    whole = total + _PRIOR * counts.shape[-1]
    actual, expected = (counts + _PRIOR) / whole, (shares * total + _PRIOR) / whole
    index = ((actual - expected) * np.log(actual / expected)).sum(axis=-1)
    return np.where(total[..., 0] >= FEWEST, index, np.nan)


@dataclass(frozen=True)
class InputDrift:
    """The drift of one input: recent values counted by profile bucket, and the series that drifts most.

    The buckets are between the deciles of each series' training values. Counts are sums over all series.

    Attributes:
        observed: how many values were observed in each of the B buckets.
        expected: how many would be in each bucket by the profile, of as many values of the same series.
        worst_series: id of the series with the largest index; None if no series has enough values.
        worst_index: population stability index of that series.
    """

    observed: Sequence[int] = field(default_factory=lambda: (0,) * BUCKETS)
    expected: Sequence[float] = field(default_factory=lambda: (0.0,) * BUCKETS)
    worst_series: str | None = None
    worst_index: float = 0.0

    @property
    def index(self) -> float | None:
        """Population stability index of all series together; None for fewer than `FEWEST` observed values."""
        observed, expected = np.array(self.observed, float), np.array(self.expected, float)
        if observed.sum() < FEWEST:
            return None
        return float(population_stability_index(observed, expected / expected.sum()))

    def __add__(self, other: InputDrift) -> InputDrift:
        """Combine two drifts of one input: add their counts, and keep the series that drifts most."""
        worst = max(self, other, key=lambda drift: (drift.worst_series is not None, drift.worst_index))
        return InputDrift(
            [a + b for a, b in zip(self.observed, other.observed, strict=True)],
            [a + b for a, b in zip(self.expected, other.expected, strict=True)],
            worst.worst_series,
            worst.worst_index,
        )


def drift_of(profile: Profile, state: State) -> dict[str, InputDrift]:
    """Return the drift of each input by name, over the series of ``state`` that ``profile`` contains.

    An input is absent if no value of it was counted for these series. The result is empty if ``profile`` is
    empty, or if ``state`` has no component ``drift``.
    """
    counted = state.parts.get("drift", {}).get("counts")
    if not profile or counted is None:
        return {}
    rows = profile.rows_of(state.series_ids)
    known = np.flatnonzero(rows >= 0)
    counts, shares = counted[known].astype(np.float64), profile.shares[rows[known]].astype(np.float64)
    # The axes of ``indices`` are series and input.
    indices = np.nan_to_num(population_stability_index(counts, shares), nan=-1.0)
    found = {}
    for place, name in enumerate(profile.inputs):
        own, totals = counts[:, place], counts[:, place].sum(axis=1, keepdims=True)
        if not totals.any():
            continue
        worst = int(indices[:, place].argmax())
        index = float(indices[worst, place])
        found[name] = InputDrift(
            [int(count) for count in own.sum(axis=0)],
            [round(float(count), 3) for count in (totals * shares[:, place]).sum(axis=0)],
            state.series_ids[int(known[worst])] if index >= 0 else None,
            max(index, 0.0),
        )
    return found
