"""Put artificial anomalies of known kinds into real series, so that detectors can be scored.

Letters: T windows, S series.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from forecaster.arrays import Floats, Ints

KINDS = ("spike", "level_shift", "variance_change", "flat_line", "seasonal_break")
"""Kinds of anomalies; the label of a kind is its position in this tuple, counted from 1."""

_DAY_S, _WEEK_S = 86_400, 604_800
# An anomaly is left out if it is not visible at `_TRIES` free places.
# An anomaly is also left out if `_TRIES` random places in succession are too near to other anomalies.
_TRIES = 20
# An anomaly is visible if it changes a value by at least this many standard deviations of the series.
_VISIBLE = 0.25

_Change = Callable[[Floats, slice, float, np.random.Generator], Floats]


def inject(
    values: Floats,
    freq_s: int,
    rng: np.random.Generator,
    kinds: Sequence[str] = KINDS,
    every_s: int = 2 * _WEEK_S,
    first: int = 0,
) -> tuple[Floats, Ints]:
    """Put anomalies into a copy of ``values``: in each series, about one in every ``every_s`` seconds.

    Sizes are in standard deviations of each series. A spike shifts 1 or 2 windows by 3 to 6. A level shift
    moves 12 to 72 windows by 1 to 2.5. A variance change adds noise of size 0.5 to 1 in 12 to 48 windows. A
    flat line repeats one value for 8 to 24 windows. A seasonal break delays 1 to 3 days by half a day.

    Anomalies of a series do not touch each other. An anomaly that would not be visible (such as a flat line
    where the series is constant) is moved to another place, and left out after `_TRIES` attempts. A window
    without a value has no anomaly and no label.

    Args:
        values: ``[T, S]`` float64, NaN where missing; not changed.
        freq_s: length of a window in seconds.
        rng: equal generators give equal anomalies; the anomalies of a series depend only on its column.
        kinds: kinds from ``KINDS``, each drawn with the same probability.
        every_s: mean number of seconds between the beginnings of two anomalies of a series.
        first: the first row that may be changed.

    Returns:
        The changed values, and labels ``[T, S]`` int64: 0 for an unchanged window, else the label of the
        kind.

    Raises:
        ValueError: a kind is unknown, or a day, the season of a seasonal break, is shorter than four windows.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise ValueError(
            f"cannot inject the kinds of anomalies {list(kinds)}: give one or more of {', '.join(KINDS)}"
        )
    season = _DAY_S // freq_s
    if "seasonal_break" in kinds and season < 4:
        raise ValueError(
            f"seasonal_break needs a day of 4 windows or more: a day has {season} windows of {freq_s} s"
        )
    out, labels = values.copy(), np.zeros(values.shape, np.int64)
    for column, own in enumerate(rng.spawn(values.shape[1])):
        for _ in range(own.poisson(max(len(values) - first, 0) * freq_s / every_s)):
            kind = kinds[int(own.integers(len(kinds)))]
            length, change = _draw_anomaly(kind, season, own)
            _write_anomaly(
                kind, length, change, values[:, column], out[:, column], labels[:, column], own, first
            )
    return out, labels


def _write_anomaly(
    kind: str,
    length: int,
    change: _Change,
    values: Floats,
    out: Floats,
    labels: Ints,
    rng: np.random.Generator,
    first: int,
) -> None:
    """Write one anomaly into ``out``, the changed values of a series, and its label into ``labels``.

    Nothing is written if no free place is found, if the series is constant or has no value, or if the
    anomaly is visible at none of the places that are tried.
    """
    spread = float(np.nanstd(values)) if not np.isnan(values).all() else 0.0
    for _ in range(_TRIES):
        span = _free_span(labels, first, length, rng)
        if span is None or spread == 0.0:
            return
        changed = change(values, span, spread, rng)
        difference = np.abs(changed - values[span])
        if not np.isnan(difference).all() and np.nanmax(difference) >= _VISIBLE * spread:
            out[span] = changed
            labels[span] = np.where(np.isnan(changed), 0, KINDS.index(kind) + 1)
            return


def _free_span(labels: Ints, first: int, length: int, rng: np.random.Generator) -> slice | None:
    """Return a random span of ``length`` windows for an anomaly; None if no free span was found.

    No label is in the span or within ``length`` rows of it.
    """
    last = len(labels) - length
    if last < first:
        return None
    for _ in range(_TRIES):
        start = int(rng.integers(first, last + 1))
        if not labels[max(start - length, 0) : start + 2 * length].any():
            return slice(start, start + length)
    return None


def _draw_anomaly(kind: str, season: int, rng: np.random.Generator) -> tuple[int, _Change]:
    """Return a random length in windows for an anomaly, and a function that changes a span of values."""
    if kind == "spike":
        return int(rng.integers(1, 3)), _shifted(3.0, 6.0)
    if kind == "level_shift":
        return int(rng.integers(12, 73)), _shifted(1.0, 2.5)
    if kind == "variance_change":
        return int(rng.integers(12, 49)), _noisy
    if kind == "flat_line":
        return int(rng.integers(8, 25)), _flat
    return int(rng.integers(1, 4)) * season, _delayed(season // 2)


def _shifted(least: float, most: float) -> _Change:
    """Return a function that shifts a span up or down by ``least`` to ``most`` standard deviations."""

    def change(values: Floats, span: slice, spread: float, rng: np.random.Generator) -> Floats:
        sign = 1.0 if rng.random() < 0.5 else -1.0
        return values[span] + sign * rng.uniform(least, most) * spread

    return change


def _noisy(values: Floats, span: slice, spread: float, rng: np.random.Generator) -> Floats:
    """Return the span plus normal noise with a standard deviation of 0.5 to 1 times ``spread``."""
    noise: Floats = rng.normal(0.0, rng.uniform(0.5, 1.0) * spread, span.stop - span.start)
    return values[span] + noise


def _flat(values: Floats, span: slice, spread: float, rng: np.random.Generator) -> Floats:
    """Return the span with the first value that is not missing in place of each value; NaN stays NaN."""
    known = values[span][~np.isnan(values[span])]
    return np.where(np.isnan(values[span]), np.nan, known[0] if len(known) else np.nan)


def _delayed(windows: int) -> _Change:
    """Return a function that replaces each value of a span by the value ``windows`` windows before it.

    A value stays unchanged if this earlier value is missing, and a missing value stays missing.
    """

    def change(values: Floats, span: slice, spread: float, rng: np.random.Generator) -> Floats:
        late = values[max(span.start - windows, 0) : max(span.stop - windows, 0)]
        late = np.concatenate([np.full(span.stop - span.start - len(late), np.nan), late])
        # Leave a window unchanged if its value, or the earlier value that would replace it, is missing.
        return np.where(np.isnan(late), values[span], np.where(np.isnan(values[span]), np.nan, late))

    return change
