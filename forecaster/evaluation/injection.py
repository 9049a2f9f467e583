"""Anomalies of known kinds put into real series, so that what finds them can be judged.

Letters: T windows, S series.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from forecaster.arrays import Floats, Ints

KINDS = ("spike", "level_shift", "variance_change", "flat_line", "seasonal_break")
"""Kinds of anomalies; the label of one is its place in this tuple, from 1."""

_DAY_S, _WEEK_S = 86_400, 604_800
_TRIES = 20  # places looked at for one anomaly, before it is left out
_SEEN = 0.25  # standard deviations by which a series must be off, at its worst, to be called anomalous

_Change = Callable[[Floats, slice, float, np.random.Generator], Floats]


def inject(
    values: Floats,
    freq_s: int,
    rng: np.random.Generator,
    kinds: Sequence[str] = KINDS,
    every_s: int = 2 * _WEEK_S,
    season_s: int = _DAY_S,
    first: int = 0,
) -> tuple[Floats, Ints]:
    """Puts anomalies into a copy of ``values``, about one in ``every_s`` seconds of each series.

    Sizes are in standard deviations of each series: a spike of 1 or 2 windows is off by 3 to 6 of them, a
    level shift of 12 to 72 windows by 1 to 2.5, a variance change of 12 to 48 windows adds noise of 0.5 to 1,
    a flat line stands still for 8 to 24 windows, and a seasonal break runs half a season late for 1 to 3 of
    them. Anomalies of a series do not touch, one that would not be seen (a flat line where nothing moves) is
    put elsewhere, and a window without a value gets neither.

    Args:
        values: ``[T, S]`` float64, NaN where missing; is not changed.
        freq_s: length of a window in seconds.
        rng: equal generators give equal anomalies, and those of a series depend on its column alone.
        kinds: which of ``KINDS`` to draw from, each as often.
        every_s: seconds between the beginnings of two anomalies of a series, on average.
        season_s: seconds of a season, for the seasonal break.
        first: row before which nothing is changed.

    Returns:
        The changed values, and labels ``[T, S]`` int64: 0 where nothing was changed, else the kind.

    Raises:
        ValueError: a kind is unknown, or a season is shorter than four windows.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise ValueError(f"no kind of anomaly: {unknown}; there are {', '.join(KINDS)}")
    season = season_s // freq_s
    if "seasonal_break" in kinds and season < 4:
        raise ValueError(
            f"seasonal_break needs a season of 4 windows: {season_s} s are {season} of {freq_s} s"
        )
    out, labels = values.copy(), np.zeros(values.shape, np.int64)
    for column, own in enumerate(rng.spawn(values.shape[1])):
        for _ in range(own.poisson(max(len(values) - first, 0) * freq_s / every_s)):
            kind = kinds[int(own.integers(len(kinds)))]
            length, change = _drawn(kind, season, own)
            _place(kind, length, change, values[:, column], out[:, column], labels[:, column], own, first)
    return out, labels


def _place(
    kind: str,
    length: int,
    change: _Change,
    values: Floats,
    out: Floats,
    labels: Ints,
    rng: np.random.Generator,
    first: int,
) -> None:
    """Writes one anomaly into ``out`` and ``labels`` ``[T]`` of a series, if there is room and it is seen."""
    spread = float(np.nanstd(values)) if not np.isnan(values).all() else 0.0
    for _ in range(_TRIES):
        span = _free_span(labels, first, length, rng)
        if span is None or spread == 0.0:
            return
        made = change(values, span, spread, rng)
        off = np.abs(made - values[span])
        if not np.isnan(off).all() and np.nanmax(off) >= _SEEN * spread:
            out[span] = made
            labels[span] = np.where(np.isnan(made), 0, KINDS.index(kind) + 1)
            return


def _free_span(labels: Ints, first: int, length: int, rng: np.random.Generator) -> slice | None:
    """A span of ``length`` rows with no label in it or beside it; None where none was found."""
    last = len(labels) - length
    if last < first:
        return None
    for _ in range(_TRIES):
        start = int(rng.integers(first, last + 1))
        if not labels[max(start - length, 0) : start + 2 * length].any():
            return slice(start, start + length)
    return None


def _drawn(kind: str, season: int, rng: np.random.Generator) -> tuple[int, _Change]:
    """How many windows an anomaly of this kind lasts, and what it does to them."""
    if kind == "spike":
        return int(rng.integers(1, 3)), _shifted(3.0, 6.0)
    if kind == "level_shift":
        return int(rng.integers(12, 73)), _shifted(1.0, 2.5)
    if kind == "variance_change":
        return int(rng.integers(12, 49)), _noisy
    if kind == "flat_line":
        return int(rng.integers(8, 25)), _flat
    return int(rng.integers(1, 4)) * season, _late(season // 2)


def _shifted(least: float, most: float) -> _Change:
    def change(values: Floats, span: slice, spread: float, rng: np.random.Generator) -> Floats:
        sign = 1.0 if rng.random() < 0.5 else -1.0
        return values[span] + sign * rng.uniform(least, most) * spread

    return change


def _noisy(values: Floats, span: slice, spread: float, rng: np.random.Generator) -> Floats:
    noise: Floats = rng.normal(0.0, rng.uniform(0.5, 1.0) * spread, span.stop - span.start)
    return values[span] + noise


def _flat(values: Floats, span: slice, spread: float, rng: np.random.Generator) -> Floats:
    """Every value is the first of them."""
    known = values[span][~np.isnan(values[span])]
    return np.where(np.isnan(values[span]), np.nan, known[0] if len(known) else np.nan)


def _late(windows: int) -> _Change:
    def change(values: Floats, span: slice, spread: float, rng: np.random.Generator) -> Floats:
        late = values[max(span.start - windows, 0) : max(span.stop - windows, 0)]
        late = np.concatenate([np.full(span.stop - span.start - len(late), np.nan), late])
        # Neither what was missing nor what would come from a missing window is made up.
        return np.where(np.isnan(late), values[span], np.where(np.isnan(values[span]), np.nan, late))

    return change
