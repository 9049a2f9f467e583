"""Assertions that two sets of forecasts, states or rows are equal within tolerances."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from forecaster.forecasts import Forecasts
from forecaster.shards.score_sums import Scores
from forecaster.state import State, live
from schemas.forecasts import IDENTITY

Floats = NDArray[np.float64]
Key = tuple[str, int]
"""Series id of a forecast, and the last window before its issue time."""


def by_key(parts: Iterable[Forecasts | None]) -> dict[Key, Floats]:
    """Return the values ``[Q, N]`` of every forecast by its key; fail if a key occurs twice."""
    found: dict[Key, Floats] = {}
    for part in parts:
        if part is None:
            continue
        for t, s in zip(*np.nonzero(part.issued), strict=True):
            key = (part.series_ids[s], int(part.index[t]))
            assert key not in found, f"{key} was forecast twice"
            found[key] = part.values[:, t, s]
    return found


def newest_by_key(parts: Iterable[Forecasts | None]) -> dict[Key, Floats]:
    """Return the values ``[Q, N]`` of each forecast's newest revision; fail if a revision occurs twice."""
    found: dict[Key, dict[int, Floats]] = {}
    for part in parts:
        if part is None:
            continue
        for t, s in zip(*np.nonzero(part.issued), strict=True):
            revision = 0 if part.revision is None else int(part.revision[t, s])
            revisions = found.setdefault((part.series_ids[s], int(part.index[t])), {})
            assert revision not in revisions, f"{part.series_ids[s]} has revision {revision} twice"
            revisions[revision] = part.values[:, t, s]
    return {key: revisions[max(revisions)] for key, revisions in found.items()}


YOUNG = 3e-5
"""Tolerance, in scales, for forecasts of young series by many members: weights of the combination depend on
few values and small differences between members, so float32 rounding in the network has more effect."""


def assert_same(
    a: dict[Key, Floats], b: dict[Key, Floats], scale: dict[str, float], within: float = 1e-5
) -> None:
    """Assert that forecasts in two sets have equal keys, and values at most ``within`` scales apart."""
    assert a.keys() == b.keys()
    if not a:
        return
    keys = [*a]
    one, other = (np.stack([found[key] for key in keys]) for found in (a, b))
    assert np.isfinite(one).all(), keys[np.isfinite(one).all(axis=(1, 2)).argmin()]
    off = np.abs(one - other).max(axis=(1, 2)) / [scale[name] for name, _ in keys]
    assert (off <= within).all(), f"{keys[off.argmax()]} is off by {off.max()} scales"


_EXACT = ("ring", "moments", "past", "network")
"""Components compared exactly, or almost. The arrays of other components only affect forecasts, which have
separate, much closer comparisons."""


def assert_same_state(a: State, b: State) -> None:
    """Assert that two states are equal within tolerances, in any order of their series."""
    assert a.model_version == b.model_version
    assert sorted(a.series_ids) == sorted(b.series_ids)
    a, b = (part.take(np.argsort(np.array(part.series_ids, str))) for part in (a, b))
    np.testing.assert_array_equal(a.clock, b.clock, err_msg="clock")
    np.testing.assert_array_equal(a.silent, b.silent, err_msg="silent")
    rounded = ("moments.mean", "moments.variance", "past.heat.mean", "past.heat.variance")
    assert a.parts.keys() == b.parts.keys()
    for component, own in a.parts.items():
        assert own.keys() == b.parts[component].keys()
        for place, array in own.items():
            name = f"{component}.{place}"
            rtol, atol = 1e-12 if name in rounded else 0.0, 1e-5 if component == "network" else 0.0
            if component not in _EXACT and array.dtype.kind == "f":
                # A relative tolerance alone fails for float32 values near 0 in an array of large values.
                rtol, atol = 1e-3, 1e-3 + 1e-6 * np.nan_to_num(np.abs(array)).max(initial=0.0)
            np.testing.assert_allclose(array, b.parts[component][place], rtol, atol, err_msg=name)


def assert_same_live_series(a: Sequence[State], b: Sequence[State]) -> None:
    """Assert that two sets of states are equal for all live series; retired series are not compared."""
    one, other = State.join(a), State.join(b)
    assert_same_state(*(state.take(np.flatnonzero(live(state))) for state in (one, other)))


def assert_same_scores(a: Scores, b: Scores) -> None:
    """Assert that two runs scored equally many forecasts, and that mean errors differ by at most 1e-3 units.

    The two forecasts may differ by 1e-5 scales. An actual near the bound of an interval may therefore be
    inside the interval in only one of the runs.
    """
    assert a.keys() == b.keys()
    for version, by_horizon in a.items():
        assert by_horizon.keys() == b[version].keys()
        for horizon, one in by_horizon.items():
            other = b[version][horizon]
            assert (one.scored, one.intervals) == (other.scored, other.intervals), (version, horizon)
            assert abs(one.inside - other.inside) <= 1 + one.scored // 100, (version, horizon)
            for name in ("absolute", "signed", "pinball"):
                off = abs(getattr(one, name) - getattr(other, name)) / one.scored
                assert off <= 1e-3 * 1e6, f"{name} of horizon {horizon} is off by {off / 1e6} units"


def sorted_rows(frames: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Concatenate the late or quarantined rows of several outputs, and sort them by all columns.

    A frame without columns adds no row.
    """
    frame = pl.concat([pl.DataFrame(), *frames], how="diagonal")
    # Round ``late_s``, because the last bit of a division in Polars depends on the length of the frame.
    if "late_s" in frame.columns:
        frame = frame.with_columns(pl.col("late_s").round(6))
    return frame.sort(frame.columns) if len(frame) else pl.DataFrame()


def exploded(frame: pl.DataFrame) -> pl.DataFrame:
    """Return a frame of forecasts with one row for each horizon, instead of a list in each row."""
    return frame.explode("forecast").unnest("forecast")


def assert_same_frames(
    a: pl.DataFrame, b: pl.DataFrame, scale: dict[str, float], within: float = 1e-5
) -> None:
    """Assert that two non-empty frames hold the same forecasts; values may differ by ``within`` scales."""
    assert len(a)
    assert a.select(pl.struct(IDENTITY).is_unique().all()).item()
    a, b = a.sort(IDENTITY), b.sort(IDENTITY)
    assert a.select(IDENTITY).equals(b.select(IDENTITY))
    one, other = exploded(a), exploded(b)
    assert one["horizon"].equals(other["horizon"])
    unit = one["series_id"].replace_strict(scale, return_dtype=pl.Float64)
    for name in (column for column in one.columns if column.startswith("q")):
        off = ((one[name] - other[name]).abs() / unit).max()
        assert isinstance(off, float)
        assert off <= within, f"{name} is off by {off} scales"


def scales_of_rows(rows: pl.DataFrame) -> dict[str, float]:
    """Return the standard deviation of the values of each series, plus 1e-3."""
    found = rows.group_by("series_id").agg(pl.col("value").std().fill_null(0.0) + 1e-3)
    return dict(found.rows())
