"""What it means that two sets of forecasts, states or rows are the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from forecaster.forecasts import Forecasts
from forecaster.state import State, live
from schemas.forecasts import IDENTITY

Floats = NDArray[np.float64]
Key = tuple[str, int]
"""A forecast's series, and the window at whose end it was issued."""


def by_key(parts: Iterable[Forecasts | None]) -> dict[Key, Floats]:
    """``[Q, N]`` of every forecast."""
    found: dict[Key, Floats] = {}
    for part in parts:
        if part is None:
            continue
        for t, s in zip(*np.nonzero(part.issued), strict=True):
            key = (part.series_ids[s], int(part.index[t]))
            assert key not in found, f"{key} was forecast twice"
            found[key] = part.values[:, t, s]
    return found


YOUNG = 3e-5
"""Scales that forecasts of young series may differ by, where members are many: the combination weighs what
hardly differs yet by few values, and what float32 rounds in the network then counts for more."""


def assert_same(
    a: dict[Key, Floats], b: dict[Key, Floats], scale: dict[str, float], within: float = 1e-5
) -> None:
    """The same forecasts, values ``within`` so many scales of each series."""
    assert sorted(a) == sorted(b)
    for key, values in a.items():
        assert np.isfinite(values).all(), key
        off = np.abs(values - b[key]).max() / scale[key[0]]
        assert off <= within, f"{key} is off by {off} scales"


_EXACT = ("ring", "moments", "past", "network")
"""The others' numbers end in what forecasts say, which are compared for themselves, far more closely."""


def assert_same_state(a: State, b: State) -> None:
    """The same state of the same series, whatever their order."""
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
                # single precision of values that may cross 0, far from which the others are
                rtol, atol = 1e-3, 1e-3 + 1e-6 * np.nan_to_num(np.abs(array)).max(initial=0.0)
            np.testing.assert_allclose(array, b.parts[component][place], rtol, atol, err_msg=name)


def assert_same_lives(a: Sequence[State], b: Sequence[State]) -> None:
    """The same state of the series that live; others may have been freed, or their clocks stopped."""
    one, other = State.join(a), State.join(b)
    assert_same_state(*(state.take(np.flatnonzero(live(state))) for state in (one, other)))


def sorted_rows(frames: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Late or quarantined rows of several outputs, in an order that is theirs alone; some have no column."""
    frame = pl.concat([pl.DataFrame(), *frames], how="diagonal")
    if "late_s" in frame.columns:  # Polars' division differs in the last bit with a frame's length
        frame = frame.with_columns(pl.col("late_s").round(6))
    return frame.sort(frame.columns) if len(frame) else pl.DataFrame()


def nested(frame: pl.DataFrame) -> pl.DataFrame:
    """A forecast frame as one row a horizon."""
    return frame.explode("forecast").unnest("forecast")


def assert_same_frames(a: pl.DataFrame, b: pl.DataFrame, scale: dict[str, float]) -> None:
    """The same identities, values within 1e-5 of each series' scale; ``a`` and ``b`` hold something."""
    assert len(a)
    assert a.select(pl.struct(IDENTITY).is_unique().all()).item()
    a, b = a.sort(IDENTITY), b.sort(IDENTITY)
    assert a.select(IDENTITY).equals(b.select(IDENTITY))
    one, other = nested(a), nested(b)
    assert one["horizon"].equals(other["horizon"])
    unit = one["series_id"].replace_strict(scale, return_dtype=pl.Float64)
    for name in (column for column in one.columns if column.startswith("q")):
        off = ((one[name] - other[name]).abs() / unit).max()
        assert isinstance(off, float)
        assert off <= 1e-5, f"{name} is off by {off} scales"


def scales_of_rows(rows: pl.DataFrame) -> dict[str, float]:
    """How much the rows of each series move."""
    found = rows.group_by("series_id").agg(pl.col("value").std().fill_null(0.0) + 1e-3)
    return dict(found.rows())
